//! The client of an inspector.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::Value;

use super::event::Text;
use super::filter::Filter;
use crate::failure::Failure;
use crate::http::{Client, Request};

/// The maximum size of a list or of an event with its body, in bytes.
const MAX_ANSWER: usize = 64 << 20;

/// The time for the whole answer after its head.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Clone)]
pub(super) struct Inspector {
    pub(super) client: Client,
    /// The URL without a query.
    pub(super) uri: Uri,
    /// The URL for people.
    pub(super) shown: String,
    pub(super) headers: HeaderMap,
    /// The user of the authorization, if there is one.
    pub(super) user: Option<String>,
}

/// Why a request failed.
#[derive(Clone, Debug)]
pub(super) enum RequestError {
    /// The server can't be reached, or answers with an error that may pass.
    Unavailable(String),
    /// The server refuses a condition of the filter or another value.
    Invalid(String),
    /// The server refuses the user or the host.
    Denied(String),
    /// The server isn't an inspector.
    Foreign(String),
}

impl RequestError {
    pub(super) fn text(&self) -> &str {
        match self {
            Self::Unavailable(text)
            | Self::Invalid(text)
            | Self::Denied(text)
            | Self::Foreign(text) => text,
        }
    }

    pub(super) fn into_failure(self) -> Failure {
        match self {
            Self::Unavailable(text) => Failure::unavailable(text),
            Self::Invalid(text) | Self::Denied(text) | Self::Foreign(text) => Failure::usage(text),
        }
    }
}

/// One event with its body.
#[derive(Deserialize)]
pub(super) struct Details {
    pub(super) event: Value,
    /// `None` if the user may not see payloads.
    pub(super) body: Option<String>,
}

#[derive(Deserialize)]
struct List {
    events: Vec<Value>,
}

#[derive(Deserialize)]
struct Done {
    count: u64,
}

impl Inspector {
    /// Returns the newest events that match.
    pub(super) async fn list(&self, filter: &Filter) -> Result<Vec<Value>, RequestError> {
        let list: List = self.json(self.get(&filter.query("events"))?).await?;
        Ok(list.events)
    }

    pub(super) async fn event(&self, id: u64) -> Result<Details, RequestError> {
        let query = format!("page=event&event={id}&format=json");
        self.json(self.get(&query)?).await
    }

    /// Opens the live feed.
    pub(super) async fn feed(&self, filter: &Filter) -> Result<Incoming, RequestError> {
        let request = self.get(&filter.query("feed"))?;
        Ok(self.open(request, "text/event-stream").await?.into_body())
    }

    /// Replays an event. `routes` is `remaining` or `all`. Returns whether the event was replayed.
    pub(super) async fn replay(&self, id: u64, routes: &str) -> Result<bool, RequestError> {
        let mut request = self.request(Method::POST, "format=json")?;
        request.headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/x-www-form-urlencoded"),
        );
        // Browsers don't let a page set this header, so the inspector knows that no other site sent the form.
        request
            .headers
            .insert("sec-fetch-site", HeaderValue::from_static("same-origin"));
        request.body = Bytes::from(format!("do=replay-event&event={id}&routes={routes}"));
        let done: Done = self.json(request).await?;
        Ok(done.count > 0)
    }

    fn get(&self, query: &str) -> Result<Request, RequestError> {
        self.request(Method::GET, query)
    }

    fn request(&self, method: Method, query: &str) -> Result<Request, RequestError> {
        let uri = format!("{}?{query}", self.uri).parse();
        Ok(Request {
            method,
            uri: uri.map_err(|error| RequestError::Invalid(format!("{error}")))?,
            headers: self.headers.clone(),
            body: Bytes::new(),
        })
    }

    async fn json<T: for<'de> Deserialize<'de>>(
        &self,
        request: Request,
    ) -> Result<T, RequestError> {
        let response = self.open(request, "application/json").await?;
        let body = read(response.into_body(), MAX_ANSWER).await?;
        serde_json::from_slice(&body)
            .map_err(|error| RequestError::Foreign(format!("{}: {error}", self.foreign())))
    }

    /// Sends a request, and checks the status and the type of the answer.
    async fn open(
        &self,
        mut request: Request,
        wanted: &'static str,
    ) -> Result<Response<Incoming>, RequestError> {
        request
            .headers
            .insert(ACCEPT, HeaderValue::from_static(wanted));
        let response = self.client.open(request).await;
        let response = response.map_err(|error| RequestError::Unavailable(error.to_string()))?;
        let status = response.status();
        let content_type = response.headers().get(CONTENT_TYPE);
        let is_type = |wanted: &str| {
            content_type.is_some_and(|value| value.as_bytes().starts_with(wanted.as_bytes()))
        };
        if status == StatusCode::OK && is_type(wanted) {
            return Ok(response);
        }
        if status.is_success() {
            return Err(RequestError::Foreign(format!(
                "{}: it doesn't answer with JSON. The inspector of an older version of the library has no JSON",
                self.foreign()
            )));
        }
        let is_plain = is_type("text/plain");
        let location = response.headers().get(http::header::LOCATION).cloned();
        let body = read(response.into_body(), 4 << 10).await;
        let body = body.ok().filter(|_| is_plain).unwrap_or_default();
        let said = Text::new(String::from_utf8_lossy(&body).trim()).to_string();
        Err(self.refused(status, said, location.as_ref()))
    }

    fn refused(
        &self,
        status: StatusCode,
        said: String,
        location: Option<&HeaderValue>,
    ) -> RequestError {
        let said = match said.is_empty() {
            true => format!("the server answers {}", status.as_u16()),
            false => said,
        };
        match status {
            StatusCode::UNAUTHORIZED => RequestError::Denied(match &self.user {
                Some(user) => {
                    format!("the inspector refuses the user {user}: check the user and the password")
                }
                None => "the inspector needs a user and a password: pass --user NAME, and set BOTISIMO_PASSWORD or pass \
                         --password-file FILE"
                    .to_owned(),
            }),
            StatusCode::FORBIDDEN => RequestError::Denied(said),
            StatusCode::NOT_FOUND if said.starts_with("The inbox") => RequestError::Invalid(said),
            StatusCode::BAD_REQUEST => RequestError::Invalid(said),
            status if status.is_redirection() => {
                let to = location.map_or_else(String::new, |to| {
                    format!(" to {}", Text::new(&String::from_utf8_lossy(to.as_bytes())))
                });
                RequestError::Foreign(format!(
                    "{} redirects{to}: pass the URL of the inspector",
                    self.shown
                ))
            }
            status if status.is_client_error() && status != StatusCode::REQUEST_TIMEOUT => {
                RequestError::Foreign(format!("{}: {said}", self.foreign()))
            }
            _ => RequestError::Unavailable(said),
        }
    }

    fn foreign(&self) -> String {
        format!("{} isn't the URL of an inspector", self.shown)
    }
}

async fn read(body: Incoming, limit: usize) -> Result<Bytes, RequestError> {
    let unavailable = |text: String| RequestError::Unavailable(text);
    let read = tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, limit).collect()).await;
    match read {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) => Err(unavailable(format!("the answer can't be read: {error}"))),
        Err(_) => Err(unavailable("the answer didn't end in time".to_owned())),
    }
}
