use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use futures_util::future::{Either, select};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, header};
use http_body::Body;
use http_body_util::{BodyExt, Limited};
use serde_json::json;
use tower_service::Service;

use super::access::{Access, Denied};
use super::action::InspectorAction;
use super::actions::{self, Failure};
use super::body::InspectorBody;
use super::feed::{Content, Feed};
use super::pages::{self, Listed};
use super::permission::Viewer;
use super::query::{Conditions, Query};
use super::source::Source;
use super::token::Token;
use super::{origin, respond};
use crate::catch_panic::{CatchPanic, catch_panic};
use crate::delivery::Hooks;
use crate::error::BoxError;
use crate::inbox::Handle;
#[cfg(feature = "jetstream")]
use crate::inbox::JetStreamWorker;
use crate::runtime::BoxFuture;
use crate::telemetry;

/// The maximum size of a form. A form with all events of a page selected has a few kilobytes.
const MAX_FORM: usize = 64 << 10;

/// The maximum time in which a client must send a form.
const FORM_TIMEOUT: Duration = Duration::from_secs(10);

/// The number of events on a page.
const PAGE: usize = 50;

/// A service with pages that show the events of an inbox, and that replay and delete them.
///
/// The pages show the health and the counts, the events with their attempts and payloads, the dead letters, and the routes. They
/// work without JavaScript. With JavaScript, lists of events are live. [`Access`] decides which users may read and operate. The
/// [guide](crate::guide::inspector) shows the pages.
///
/// # Paths
///
/// Mount the service below any path, with or without a service that strips the path, and behind any proxy. Every link is only a
/// query, such as `?page=events`, so the inspector neither needs nor reads the path.
///
/// # JSON
///
/// With `format=json` in the query, the inspector answers with JSON instead of a page, for scripts and for `botisimo watch`. The
/// [guide](crate::guide::inspector#json) describes the answers.
///
/// # Costs
///
/// While a page is open, the inspector reads the newest 50 events every second, once for all watchers, and renders the rows that
/// changed. At most 256 watchers get live updates. A watcher costs a few hundred bytes. The inspector disconnects a watcher that
/// doesn't read for 30 s. Without an open page, the inspector only counts the runs of each route. When the inbox drains, live
/// updates end, so they don't delay a shutdown.
///
/// # Examples
///
/// With axum:
///
/// ```no_run
/// use axum::Router;
/// use botisimo_webhooks::{Access, Event, EventRouter, Inspector, WebhookLayer};
///
/// # fn build() -> Result<Router, botisimo_webhooks::Error> {
/// let router = EventRouter::new().on_any(|_: Event| async {});
/// let webhooks = WebhookLayer::new("/webhooks/botisimo", router);
/// let access = Access::basic_auth_from_env("admin", "ADMIN_PASSWORD")?.allow_host("admin.example.com");
/// let inspector = Inspector::new(&webhooks.handle(), access);
/// let app = Router::new().nest_service("/admin/webhooks", inspector).layer(webhooks);
/// # Ok(app)
/// # }
/// ```
#[derive(Clone)]
#[must_use]
pub struct Inspector {
    inner: Arc<Inner>,
}

struct Inner {
    source: Arc<Source>,
    access: Access,
    feed: Arc<Feed>,
    /// Absent if the system has no random bytes.
    token: Option<Token>,
    hooks: Hooks<InspectorAction>,
}

impl Inspector {
    /// Returns a service with pages about the inbox of a handle.
    ///
    /// The page of routes counts the runs from now on, so create the inspector before the server starts.
    pub fn new(handle: &Handle, access: Access) -> Self {
        Self::over(Source::of_handle(handle), access)
    }

    /// Returns a service with pages about the events of a worker's group.
    ///
    /// A process with a `JetStreamInbox` and a worker needs only the worker's inspector, because the pages about the inbox have
    /// neither the attempts nor the routes.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use axum::Router;
    /// use botisimo_webhooks::{Access, Inspector, JetStreamWorker};
    ///
    /// # fn build(worker: &JetStreamWorker) -> Result<Router, botisimo_webhooks::Error> {
    /// let access = Access::basic_auth_from_env("admin", "ADMIN_PASSWORD")?;
    /// let app = Router::new().nest_service("/admin/webhooks", Inspector::for_worker(worker, access));
    /// # Ok(app)
    /// # }
    /// ```
    #[cfg(feature = "jetstream")]
    #[cfg_attr(docsrs, doc(cfg(feature = "jetstream")))]
    pub fn for_worker(worker: &JetStreamWorker, access: Access) -> Self {
        Self::over(Source::of_worker(worker), access)
    }

    fn over(source: Source, access: Access) -> Self {
        let source = Arc::new(source);
        Self {
            inner: Arc::new(Inner {
                feed: Arc::new(Feed::new(Arc::clone(&source))),
                source,
                access,
                token: Token::new().ok(),
                hooks: Hooks::new("on_action"),
            }),
        }
    }

    /// Adds a hook that runs after each replay and each deletion, for an audit.
    ///
    /// The inspector also writes each action to the log. The hook runs in the task of the request, so it must not block. If the hook
    /// panics, the inspector logs the panic, and the answer doesn't change.
    pub fn on_action(self, hook: impl Fn(&InspectorAction) + Send + Sync + 'static) -> Self {
        self.inner.hooks.add(Arc::new(hook));
        self
    }
}

/// A checked request and its page.
struct Visit<'a> {
    inner: &'a Inner,
    viewer: Viewer,
    token: &'a Token,
    nonce: Token,
    now: SystemTime,
    /// Whether the client asked for JSON instead of a page.
    is_json: bool,
}

impl Inner {
    async fn answer<B>(&self, request: Request<B>) -> Response<InspectorBody>
    where
        B: Body<Error: Into<BoxError>>,
    {
        let (parts, body) = request.into_parts();
        let viewer = match self.access.check(&parts) {
            Ok(viewer) => viewer,
            Err(denied) => return respond::denied(denied),
        };
        let (Some(token), Ok(nonce)) = (&self.token, Token::new()) else {
            return respond::text(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the system has no random bytes",
            );
        };
        let now = catch_panic(|| self.source.runtime.system_time());
        let mut query = Query::parse(parts.uri.query().unwrap_or_default().as_bytes());
        query.restore_routes(|| self.source.route_names());
        let visit = Visit {
            inner: self,
            viewer,
            token,
            nonce,
            now: now.unwrap_or_else(|_| SystemTime::now()),
            is_json: query.get("format") == Some("json"),
        };
        match parts.method {
            Method::GET | Method::HEAD => {
                let mut response = visit.page(&query).await;
                if parts.method == Method::HEAD {
                    *response.body_mut() = InspectorBody::default();
                }
                response
            }
            Method::POST => match self.form(&parts, body).await {
                Ok(mut form) => {
                    form.restore_routes(|| self.source.route_names());
                    visit.act(&parts, &form).await
                }
                Err(response) => response,
            },
            _ => {
                let mut response = respond::text(
                    StatusCode::METHOD_NOT_ALLOWED,
                    "the inspector answers GET, HEAD and POST",
                );
                let allow = http::HeaderValue::from_static("GET, HEAD, POST");
                response.headers_mut().insert(header::ALLOW, allow);
                response
            }
        }
    }

    /// Reads a form.
    async fn form<B>(&self, parts: &Parts, body: B) -> Result<Query, Response<InspectorBody>>
    where
        B: Body<Error: Into<BoxError>>,
    {
        let content_type = parts
            .headers
            .get(header::CONTENT_TYPE)
            .map_or(&b""[..], |value| value.as_bytes());
        if !content_type.starts_with(b"application/x-www-form-urlencoded") {
            let text = "send a form: `content-type: application/x-www-form-urlencoded`";
            return Err(respond::text(StatusCode::UNSUPPORTED_MEDIA_TYPE, text));
        }
        let read = Box::pin(CatchPanic::new(Limited::new(body, MAX_FORM).collect()));
        // Without a timer, the server's own limits apply.
        let read = match catch_panic(|| self.source.runtime.sleep(FORM_TIMEOUT)) {
            Err(_) => Some(read.await),
            Ok(sleep) => match select(read, Box::pin(CatchPanic::new(sleep))).await {
                Either::Left((read, _)) => Some(read),
                Either::Right(_) => None,
            },
        };
        match read {
            Some(Ok(Ok(body))) => Ok(Query::parse(&body.to_bytes())),
            Some(_) => {
                let text = format!("the form can't be read, or has more than {MAX_FORM} bytes");
                Err(respond::text(StatusCode::PAYLOAD_TOO_LARGE, text))
            }
            None => Err(respond::text(
                StatusCode::REQUEST_TIMEOUT,
                "the form didn't arrive in time",
            )),
        }
    }
}

impl Visit<'_> {
    fn context(&self, notice: Option<String>) -> pages::Context<'_> {
        pages::Context {
            source: &self.inner.source,
            viewer: &self.viewer,
            now: self.now,
            nonce: self.nonce.as_str(),
            token: self.token.as_str(),
            notice,
        }
    }

    fn html(&self, status: StatusCode, page: maud::Markup) -> Response<InspectorBody> {
        respond::page(status, self.nonce.as_str(), page)
    }

    /// Returns a page with a text, or only the text if the client asked for JSON.
    fn message(&self, status: StatusCode, title: &str, text: &str) -> Response<InspectorBody> {
        if self.is_json {
            return respond::text(status, text);
        }
        self.html(status, pages::message(&self.context(None), title, text))
    }

    /// Returns the page that the query names.
    async fn page(&self, query: &Query) -> Response<InspectorBody> {
        let context = self.context(notice(query));
        match query.get("page").unwrap_or("overview") {
            "overview" | "routes" if self.is_json => self.message(
                StatusCode::BAD_REQUEST,
                "No JSON",
                "this page has no JSON: the pages events, dead-letters, event and feed have",
            ),
            "overview" => self.html(StatusCode::OK, pages::overview(&context)),
            "events" => self.list(query, &context, false).await,
            "dead-letters" => self.list(query, &context, true).await,
            "event" => self.event(query, &context).await,
            "routes" => {
                let event_type = query.get("type").unwrap_or_default();
                self.html(StatusCode::OK, pages::routes(&context, event_type))
            }
            "feed" => self.feed(query),
            _ => self.message(
                StatusCode::NOT_FOUND,
                "Not found",
                "There is no page with this name.",
            ),
        }
    }

    async fn list(
        &self,
        query: &Query,
        context: &pages::Context<'_>,
        is_dead: bool,
    ) -> Response<InspectorBody> {
        let events = &self.inner.source.events;
        let conditions = Conditions::parse(query);
        let searched = Conditions {
            state: if is_dead {
                "dead".to_owned()
            } else {
                conditions.state.clone()
            },
            ..conditions.clone()
        };
        let before = query.number("before");
        let (status, records) = match searched.to_filter(self.now) {
            Err(text) => (StatusCode::BAD_REQUEST, Err(text)),
            Ok(filter) => {
                let filter = before.map_or(filter.clone(), |before| filter.before(before));
                match events.list(&filter, PAGE).await {
                    Ok(records) => (StatusCode::OK, Ok(records)),
                    Err(error) => (
                        StatusCode::SERVICE_UNAVAILABLE,
                        Err(Failure::Inbox(error).text()),
                    ),
                }
            }
        };
        if self.is_json {
            return match records {
                Ok(records) => respond::json(json!({ "events": records }).to_string()),
                Err(text) => respond::text(status, text),
            };
        }
        let listed = Listed {
            conditions,
            before,
            records,
            limit: PAGE,
            is_dead,
        };
        self.html(status, pages::events(context, &listed))
    }

    async fn event(&self, query: &Query, context: &pages::Context<'_>) -> Response<InspectorBody> {
        let events = &self.inner.source.events;
        let Some(id) = query.number("event") else {
            return self.message(
                StatusCode::BAD_REQUEST,
                "No event",
                "The link has no event id.",
            );
        };
        match events.get(id).await {
            Ok(Some(record)) if self.is_json => {
                let sees = self.viewer.sees_payloads();
                let body = sees.then(|| record.body());
                respond::json(json!({ "event": record, "body": body }).to_string())
            }
            Ok(Some(record)) => self.html(StatusCode::OK, pages::event(context, &record)),
            Ok(None) => {
                let text = format!(
                    "The inbox doesn't keep event {id}. An operator may have deleted the event, or newer events may \
                     have displaced it."
                );
                self.message(StatusCode::NOT_FOUND, "No such event", &text)
            }
            Err(error) => {
                let text = Failure::Inbox(error).text();
                self.message(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "The inbox can't be read",
                    &text,
                )
            }
        }
    }

    fn feed(&self, query: &Query) -> Response<InspectorBody> {
        let filter = match Conditions::parse(query).to_filter(self.now) {
            Ok(filter) => filter,
            Err(text) => return respond::text(StatusCode::BAD_REQUEST, text),
        };
        let content = if self.is_json {
            Content::Events
        } else {
            Content::Rows
        };
        match self.inner.feed.watch(filter, content) {
            Some(watcher) => respond::feed(watcher),
            None => respond::text(
                StatusCode::SERVICE_UNAVAILABLE,
                "too many live pages are open",
            ),
        }
    }

    /// Runs the action of a form.
    async fn act(&self, parts: &Parts, form: &Query) -> Response<InspectorBody> {
        if !self.viewer.can_operate() {
            return respond::denied(Denied::forbidden("you may read, but not replay or delete"));
        }
        if let Err(denied) = origin::check(&self.inner.access, parts, form, self.token) {
            return respond::denied(denied);
        }
        let events = &self.inner.source.events;
        let parsed = actions::Request::parse(form);
        let parsed = parsed.and_then(|request| Ok((request.replay()?, request)));
        let (replay, request) = match parsed {
            Ok(parsed) => parsed,
            Err(text) => return self.message(StatusCode::BAD_REQUEST, "The form is wrong", &text),
        };
        if request.needs_confirmation() && self.is_json {
            let text = "this action needs confirmation: send `sure=yes`";
            return respond::text(StatusCode::BAD_REQUEST, text);
        }
        if request.needs_confirmation() {
            return match request.count(events, self.now).await {
                Ok((count, is_more)) => self.html(
                    StatusCode::OK,
                    pages::confirm(&self.context(None), &request, count, is_more),
                ),
                Err(failure) => self.failed(&failure),
            };
        }
        let (count, result) = request.run(events, replay.as_ref(), self.now).await;
        let action = InspectorAction {
            user: self.viewer.name().to_owned(),
            replay,
            target: request.target.clone(),
            count,
            error: result.as_ref().err().map(Failure::text),
        };
        telemetry::inspector_action(
            &action.user,
            &action.what(),
            &action.events(),
            count,
            action.error(),
        );
        self.inner.hooks.notify(&action);
        match result {
            Err(failure) => self.failed(&failure),
            Ok(()) if self.is_json => respond::json(json!({ "count": count }).to_string()),
            Ok(()) => {
                let done = if request.is_delete() {
                    "deleted"
                } else {
                    "replayed"
                };
                respond::see_other(&format!("{}&done={done}&count={count}", request.back()))
            }
        }
    }

    fn failed(&self, failure: &Failure) -> Response<InspectorBody> {
        let status = match failure {
            Failure::Form(_) => StatusCode::BAD_REQUEST,
            Failure::Inbox(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        let text = format!(
            "{} Some events may already have been changed.",
            failure.text()
        );
        self.message(status, "The action failed", &text)
    }
}

/// Returns the result of the last action. Only the number comes from the URL.
fn notice(query: &Query) -> Option<String> {
    let count = query.number("count")?;
    let done =
        match query.get("done")? {
            "replayed" if count == 0 => return Some(
                "No event was replayed: each event is in flight or gone, or no selected route matches it."
                    .to_owned(),
            ),
            "deleted" if count == 0 => {
                return Some("No event was deleted: each event is in flight or gone.".to_owned());
            }
            "replayed" => "replayed",
            "deleted" => "deleted",
            _ => return None,
        };
    let events = if count == 1 {
        "event was"
    } else {
        "events were"
    };
    Some(format!("{count} {events} {done}."))
}

impl<B> Service<Request<B>> for Inspector
where
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    type Response = Response<InspectorBody>;
    type Error = Infallible;
    type Future = BoxFuture<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let inner = Arc::clone(&self.inner);
        Box::pin(async move { Ok(inner.answer(request).await) })
    }
}

impl fmt::Debug for Inspector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inspector")
            .field("access", &self.inner.access)
            .finish_non_exhaustive()
    }
}
