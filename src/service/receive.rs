use std::fmt;
use std::pin::{Pin, pin};
use std::sync::Arc;

use futures_util::FutureExt;
use http::request::Parts;
use http::{HeaderMap, Method, Request, StatusCode, Version};
use http_body::Body;

use super::budget::{Budget, Permit};
use super::collect::{Unread, collect, drain};
use super::control::ReceiverControl;
use super::counters::Counters;
use super::deadline::Deadline;
use super::head;
use super::path_miss::path_miss;
use super::reason::RejectionReason;
use super::rejection::Rejection;
use super::rejection_streaks::RejectionStreaks;
use super::reply::Reply;
use super::settings::Settings;
use super::verify::{Unverified, Verify};
use crate::catch_panic::{CatchPanic, catch_panic};
use crate::error::{BoxError, Error};
use crate::event::{Event, Traceparent};
use crate::inbox::{Accepted, Handle, Inbox, Monitor};
use crate::runtime::Runtime;
use crate::telemetry::{self, Metrics, Stopwatch};

/// Everything between a webhook request and the inbox.
#[derive(Clone)]
pub(super) struct Receiver<I> {
    pub(super) inbox: I,
    runtime: Arc<dyn Runtime>,
    counters: Arc<Counters>,
    streaks: Arc<RejectionStreaks>,
    budget: Arc<Budget>,
    metrics: Metrics,
    pub(super) settings: Settings,
}

impl<I: Inbox> Receiver<I> {
    pub(super) fn new(inbox: I) -> Self {
        let handle = inbox.handle();
        let streaks = Arc::<RejectionStreaks>::default();
        handle.monitored().monitor().add_receiver(&streaks);
        Self {
            runtime: inbox.runtime(),
            counters: Arc::default(),
            streaks,
            budget: Arc::default(),
            metrics: Metrics::without_router(),
            settings: Settings::new(handle.router()),
            inbox,
        }
    }

    pub(super) fn handle(&self) -> Handle {
        Handle::shared(Arc::new(ReceiverControl {
            counters: Arc::clone(&self.counters),
            inbox: self.inbox.handle(),
        }))
    }

    /// Logs the start of a layer or of an endpoint. An endpoint has no path.
    pub(super) fn start(&self, path: Option<&str>) {
        if self.counters.start() {
            let info = self.inbox.handle().info();
            let routes = self
                .settings
                .router
                .as_ref()
                .map(|router| router.routes().len());
            telemetry::receiver_started(
                path,
                info.kind,
                info.location.as_deref(),
                routes,
                info.recovered,
            );
            if routes == Some(0) {
                telemetry::router_without_routes();
            }
        }
        if self.settings.verify.is_none() {
            self.counters.warn_unverified();
        }
    }

    /// Warns of a POST request that passes through, if its path is almost the layer's path.
    pub(super) fn examine_path(&self, own: &str, other: &str, headers: &HeaderMap) {
        if let Some(miss) = path_miss(own, other)
            && head::is_json(headers)
            && self.counters.miss(miss)
        {
            telemetry::path_missed(miss, own, other);
        }
    }

    /// Starts the deadline of a request, and returns the future of the answer. `Service::call` calls this method.
    pub(super) fn receive<B>(
        self: &Arc<Self>,
        request: Request<B>,
    ) -> impl Future<Output = Reply> + Send + use<I, B>
    where
        B: Body<Error: Into<BoxError>> + Send + 'static,
    {
        let receiver = Arc::clone(self);
        let stopwatch = Stopwatch::start();
        let mut deadline = Deadline::after(
            Arc::clone(&receiver.runtime),
            receiver.settings.response_timeout,
        );
        let (parts, body) = request.into_parts();
        let version = parts.version;
        // Calls to a `Verify` and to an inbox catch their own panics. `CatchPanic` catches the panics of bodies and of log
        // subscribers, so that the sender still gets an answer.
        let processed = CatchPanic::new({
            let receiver = Arc::clone(self);
            async move { receiver.process(&parts, pin!(body), &mut deadline).await }
        });
        // With `map`, the future contains the request once. An async block would contain a second copy.
        processed.map(move |processed| match processed {
            Ok(Ok((status, accepted))) => {
                receiver.metrics.request(accepted.label(), stopwatch);
                Reply::new(status, "")
            }
            Ok(Err(rejection)) => receiver.reject(&rejection, stopwatch),
            Err(_) => {
                let rejection = Rejection::because(RejectionReason::Panicked);
                receiver.reject(&closing(rejection, version), stopwatch)
            }
        })
    }

    /// Processes a request from its head to the inbox, and returns the status of the answer and how the inbox accepted the
    /// event.
    async fn process<B>(
        &self,
        parts: &Parts,
        body: Pin<&mut B>,
        deadline: &mut Deadline,
    ) -> Result<(StatusCode, Accepted), Box<Rejection>>
    where
        B: Body<Error: Into<BoxError>>,
    {
        let settings = &self.settings;
        let mut permit = self.budget.permit(settings.max_body_bytes_in_flight);
        let bytes = self.read(parts, body, &mut permit, deadline).await?;
        self.verify(|verify| verify.verify_body(parts, &bytes))
            .map_err(Rejection::because)?;
        let traceparent = self.traceparent(parts);
        let event = Event::received(bytes, self.runtime.system_time(), traceparent)
            .map_err(|undecoded| Rejection::malformed(undecoded, settings.malformed))?;
        let status = self.status_of(&event)?;
        let accepted = self.submit(event, deadline).await?;
        Ok((status, accepted))
    }

    /// Checks the head and reads the body. If a check fails, drains the body.
    async fn read<B>(
        &self,
        parts: &Parts,
        mut body: Pin<&mut B>,
        permit: &mut Permit,
        deadline: &mut Deadline,
    ) -> Result<Box<[u8]>, Box<Rejection>>
    where
        B: Body<Error: Into<BoxError>>,
    {
        let limit = self.max_body_bytes();
        let checked = self.check_head(parts, &*body, limit);
        // A client that sent `Expect: 100-continue` won't send the body after a final response.
        let unsent = checked.is_err() && head::expects_continue(&parts.headers);
        let read = match checked {
            Ok(()) => collect(body.as_mut(), limit, permit, deadline).await,
            Err(reason) => Err(Unread::open(reason)),
        };
        let Unread { reason, open } = match read {
            Ok(bytes) => return Ok(bytes),
            Err(unread) => unread,
        };
        let ended = match (open, unsent) {
            (false, _) => false,
            (true, true) => body.is_end_stream(),
            (true, false) => {
                permit.release();
                drain(body, limit, deadline).await
            }
        };
        let rejection = Rejection::because(reason);
        Err(if ended {
            rejection
        } else {
            closing(rejection, parts.version)
        })
    }

    /// Returns the smaller of the receiver's limit and the inbox's limit.
    fn max_body_bytes(&self) -> usize {
        let own = self.settings.max_body_bytes;
        self.inbox
            .max_body_bytes()
            .map_or(own, |inbox| inbox.min(own))
    }

    /// Runs all checks that don't need the body.
    fn check_head(
        &self,
        parts: &Parts,
        body: &impl Body,
        limit: usize,
    ) -> Result<(), RejectionReason> {
        if parts.method != Method::POST {
            return Err(RejectionReason::NotPost);
        }
        self.verify(|verify| verify.verify_head(parts))?;
        if !head::is_json(&parts.headers) {
            return Err(RejectionReason::ContentType);
        }
        if head::is_encoded(&parts.headers) {
            return Err(RejectionReason::ContentEncoding);
        }
        if body.size_hint().lower().max(head::declared(&parts.headers)) > limit as u64 {
            return Err(RejectionReason::TooLarge);
        }
        Ok(())
    }

    fn verify(
        &self,
        decide: impl FnOnce(&dyn Verify) -> Result<(), Unverified>,
    ) -> Result<(), RejectionReason> {
        let Some(verify) = &self.settings.verify else {
            return Ok(());
        };
        match catch_panic(|| decide(&**verify)) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(Unverified)) => Err(RejectionReason::Unverified),
            Err(_) => Err(RejectionReason::Panicked),
        }
    }

    /// Returns the trace context of a request: the value of the user's closure, or else the value of the header.
    fn traceparent(&self, parts: &Parts) -> Option<Traceparent> {
        let captured = self
            .settings
            .capture_traceparent
            .as_ref()
            .and_then(|capture| {
                let captured = catch_panic(|| capture(parts)).unwrap_or_else(|_| {
                    telemetry::hook_panicked("capture_traceparent");
                    None
                });
                Traceparent::parse(&captured?)
            });
        captured.or_else(|| Traceparent::of_request(&parts.headers))
    }

    /// Returns the status to send after the inbox has stored the event. Returns a rejection if the
    /// event matches no route and the status for unmatched events isn't a 2xx.
    fn status_of(&self, event: &Event) -> Result<StatusCode, Box<Rejection>> {
        let (Some(status), Some(router)) = (self.settings.unmatched, &self.settings.router) else {
            return Ok(StatusCode::OK);
        };
        if router.matches(event.event_type()) {
            Ok(StatusCode::OK)
        } else if status.is_success() {
            Ok(status)
        } else {
            let rejection = Rejection::because(RejectionReason::Unmatched).with_status(status);
            Err(rejection.with_event(event.clone()))
        }
    }

    /// Passes the event to the inbox.
    ///
    /// There is no await before the first poll of `accept`, so the inbox receives the event even if
    /// the client disconnects now.
    async fn submit(
        &self,
        event: Event,
        deadline: &mut Deadline,
    ) -> Result<Accepted, Box<Rejection>> {
        let copy = event.clone();
        let accept = catch_panic(|| self.inbox.accept(event)).map(CatchPanic::new);
        let answer = match accept {
            Ok(accept) => deadline.bound(accept).await,
            Err(panic) => Some(Err(panic)),
        };
        let rejection = match answer {
            Some(Ok(Ok(accepted))) => {
                let (id, event_type) = (copy.id(), copy.event_type().as_str());
                match accepted {
                    Accepted::New => telemetry::event_accepted(id, event_type),
                    Accepted::Duplicate => telemetry::event_duplicate(id, event_type),
                }
                self.streaks.accepted();
                return Ok(accepted);
            }
            Some(Ok(Err(error))) => Rejection::refused(&error),
            Some(Err(_)) => Rejection::because(RejectionReason::Panicked),
            None => Rejection::because(RejectionReason::Slow),
        };
        Err(rejection.with_event(copy))
    }

    /// Counts and logs a rejection, runs the hooks, and returns the answer.
    fn reject(&self, rejection: &Rejection, stopwatch: Stopwatch) -> Reply {
        let reason = rejection.reason();
        let should_warn = reason.should_warn(self.counters.count(reason));
        self.metrics.request(reason.label(), stopwatch);
        let detail = rejection.error().and_then(Error::static_text);
        let status = rejection.status().as_u16();
        telemetry::webhook_rejected(status, reason.as_str(), detail, should_warn);
        if let Ok(now) = catch_panic(|| self.runtime.now()) {
            self.streaks.rejected(reason, detail, now);
        }
        // A wrapper of an inbox is user code.
        let _ = catch_panic(|| Monitor::rouse(&self.inbox.handle().monitored()));
        self.settings.hooks.notify(rejection);
        rejection.reply()
    }
}

/// Closes the connection after the answer, because the body wasn't read to the end.
///
/// An HTTP/1 server closes the connection anyway. Without the header, the sender would send the
/// next event on this connection and get no answer.
fn closing(rejection: Box<Rejection>, version: Version) -> Box<Rejection> {
    if version < Version::HTTP_2 {
        rejection.closing()
    } else {
        rejection
    }
}

impl<I: fmt::Debug> fmt::Debug for Receiver<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let settings = &self.settings;
        f.debug_struct("Receiver")
            .field("inbox", &self.inbox)
            .field("response_timeout", &settings.response_timeout)
            .field("max_body_bytes", &settings.max_body_bytes)
            .field("verified", &settings.verify.is_some())
            .finish_non_exhaustive()
    }
}
