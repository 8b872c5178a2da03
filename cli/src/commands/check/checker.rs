use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use botisimo_webhooks::EventType;
use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{HeaderValue, Method, Request};
use serde_json::Value;

use super::case::Finding;
use crate::connection::Endpoint;
use crate::envelope::{Envelope, now};
use crate::http::{Answer, Connection, PacedBody, SendError, Site, Step, paced};
use crate::output::duration;
use crate::samples::sample;

/// The result of one request.
pub(super) type Got = Result<Answer, SendError>;

/// The endpoint under test, and the limits that it is held to.
pub(super) struct Checker {
    pub(super) endpoint: Endpoint,
    pub(super) site: Site,
    pub(super) http2: bool,
    pub(super) event_type: EventType,
    /// The time within which an answer counts as quick.
    pub(super) answer_within: Duration,
    /// The time within which a request that stalls must end.
    pub(super) stall_limit: Duration,
    /// The beginning of all message ids of this run.
    pub(super) prefix: String,
    /// The endpoint without its secret and with another one, if it has a secret.
    pub(super) without_secret: Option<SecretVariants>,
    pub(super) load: Option<(u32, u16)>,
    count: AtomicU32,
    /// The first answer that contained the secret.
    leak: Mutex<Option<String>>,
}

pub(super) struct SecretVariants {
    pub(super) none: Endpoint,
    pub(super) wrong: Endpoint,
}

impl Checker {
    pub(super) fn new(endpoint: Endpoint, site: Site, event_type: EventType) -> Self {
        Self {
            endpoint,
            site,
            http2: false,
            event_type,
            answer_within: Duration::from_secs(3),
            stall_limit: Duration::from_secs(65),
            prefix: format!("check-{:08x}", fastrand::u32(..)),
            without_secret: None,
            load: None,
            count: AtomicU32::new(1),
            leak: Mutex::new(None),
        }
    }

    /// Returns an event with a new id and the current time.
    pub(super) fn event(&self) -> Envelope {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let id = format!("{}-{number}", self.prefix);
        Envelope::new(
            &id,
            now(),
            self.event_type.as_str(),
            sample(&self.event_type),
        )
    }

    /// Returns an event with one member set, or replaced.
    pub(super) fn event_with(&self, name: &str, value: Value) -> Bytes {
        let mut event = self.event();
        event
            .set(name, value)
            .expect("the name is a member of the envelope");
        event.to_bytes()
    }

    /// Returns a request to the endpoint with a body of known length.
    pub(super) fn request(&self, body: Bytes) -> Request<PacedBody> {
        let length = body.len();
        self.paced_request(vec![Step::Send(body)], Some(length))
    }

    /// Returns a request whose body takes these steps. Without a length, the body is chunked.
    pub(super) fn paced_request(
        &self,
        steps: Vec<Step>,
        length: Option<usize>,
    ) -> Request<PacedBody> {
        let mut request = Request::new(paced(steps));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.endpoint.uri.clone();
        *request.headers_mut() = self.endpoint.headers.clone();
        if let Some(length) = length {
            request
                .headers_mut()
                .insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        request
    }

    pub(super) async fn connect(&self) -> Result<Connection, SendError> {
        Connection::open(&self.site, self.http2).await
    }

    /// Sends a request on a connection of its own.
    pub(super) async fn send(&self, request: Request<PacedBody>) -> Got {
        let mut connection = self.connect().await?;
        self.send_on(&mut connection, request).await
    }

    pub(super) async fn send_on(
        &self,
        connection: &mut Connection,
        request: Request<PacedBody>,
    ) -> Got {
        let answer = connection.send(request).await?;
        self.look_for_secret(&answer);
        Ok(answer)
    }

    /// Sends a body on a connection of its own.
    pub(super) async fn post(&self, body: Bytes) -> Got {
        self.send(self.request(body)).await
    }

    fn look_for_secret(&self, answer: &Answer) {
        let Some(secret) = self.endpoint.secret.as_deref() else {
            return;
        };
        let encoded: String = form_urlencoded::byte_serialize(secret.as_bytes()).collect();
        let contains = |bytes: &[u8]| {
            [secret.as_bytes(), encoded.as_bytes()]
                .iter()
                .any(|secret| bytes.windows(secret.len()).any(|window| window == *secret))
        };
        let header = answer
            .headers
            .iter()
            .find(|(_, value)| contains(value.as_bytes()));
        let place = match header {
            Some((name, _)) => format!("the header {name}"),
            None if contains(&answer.body) => "the body".to_owned(),
            None => return,
        };
        let mut leak = self.leak.lock().unwrap_or_else(PoisonError::into_inner);
        leak.get_or_insert(format!("{place} of an answer with {}", answer.status));
    }

    /// Returns where an answer contained the secret.
    pub(super) fn leak(&self) -> Option<String> {
        self.leak
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// Describes an answer: `200 OK in 1.23 ms`, or why there is none.
pub(super) fn describe(got: &Got) -> String {
    match got {
        Ok(answer) => {
            let text = answer.text();
            let space = if text.is_empty() { "" } else { " " };
            format!(
                "{}{space}{text} in {}",
                answer.status,
                duration(answer.took)
            )
        }
        Err(error) => error.to_string(),
    }
}

pub(super) fn is_success(got: &Got) -> bool {
    got.as_ref().is_ok_and(|answer| answer.status.is_success())
}

/// The answer must be 2xx.
pub(super) fn expect_success(got: &Got) -> Finding {
    Finding::when(is_success(got), describe(got))
}

/// The answer must be 2xx or 4xx: neither an error of the server, nor a redirect, nor no answer.
pub(super) fn expect_decision(got: &Got) -> Finding {
    let good = got
        .as_ref()
        .is_ok_and(|answer| answer.status.is_success() || answer.status.is_client_error());
    Finding::when(good, describe(got))
}

/// The answer must be 4xx.
pub(super) fn expect_refusal(got: &Got) -> Finding {
    let good = got
        .as_ref()
        .is_ok_and(|answer| answer.status.is_client_error());
    Finding::when(good, describe(got))
}
