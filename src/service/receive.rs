use std::fmt;
use std::pin::{Pin, pin};
use std::sync::Arc;

use http::request::Parts;
use http::{Method, Request, StatusCode, Version};
use http_body::Body;

use super::budget::Permit;
use super::collect::{Unread, collect, drain};
use super::deadline::Deadline;
use super::head;
use super::rejection::{Rejection, RejectionReason};
use super::reply::Reply;
use super::settings::Settings;
use super::shared::{ReceiverControl, Shared};
use super::verify::{Unverified, Verify};
use crate::catch_panic::{CatchPanic, catch_panic};
use crate::error::{BoxError, Error};
use crate::event::Event;
use crate::inbox::{Accepted, Handle, Inbox};
use crate::runtime::Runtime;
use crate::telemetry;

/// Everything behind a front door: the inbox, and the settings on the way to it.
#[derive(Clone)]
pub(super) struct Receiver<I> {
    inbox: I,
    runtime: Arc<dyn Runtime>,
    shared: Arc<Shared>,
    pub(super) settings: Settings,
}

impl<I: Inbox> Receiver<I> {
    pub(super) fn new(inbox: I) -> Self {
        let runtime = inbox.runtime();
        Self {
            inbox,
            runtime,
            shared: Arc::default(),
            settings: Settings::default(),
        }
    }

    pub(super) fn handle(&self) -> Handle {
        Handle::new(ReceiverControl {
            shared: Arc::clone(&self.shared),
            inbox: self.inbox.handle(),
        })
    }

    /// Warns if nothing keeps strangers out.
    pub(super) fn check(&self) {
        if self.settings.verify.is_none() {
            self.shared.warn_unverified();
        }
    }

    /// Starts the clock of a request, in `call`, and returns what becomes of it.
    pub(super) fn receive<B>(
        self: &Arc<Self>,
        request: Request<B>,
    ) -> impl Future<Output = Reply> + Send + use<I, B>
    where
        B: Body<Error: Into<BoxError>> + Send + 'static,
    {
        let receiver = Arc::clone(self);
        let mut deadline = Deadline::after(
            Arc::clone(&receiver.runtime),
            receiver.settings.response_timeout,
        );
        async move {
            let version = request.version();
            // What is the user's own is contained where it is called. This is for the rest, bodies and subscribers: a
            // panic would cost the sender its answer.
            let taken = CatchPanic::new(async {
                let (parts, body) = request.into_parts();
                receiver.process(&parts, pin!(body), &mut deadline).await
            });
            match taken.await {
                Ok(Ok(status)) => Reply::new(status, ""),
                Ok(Err(rejection)) => receiver.reject(&rejection),
                Err(_) => receiver.reject(&closing(
                    Rejection::because(RejectionReason::Panicked),
                    version,
                )),
            }
        }
    }

    /// The way of a request, from its head to the inbox.
    async fn process<B>(
        &self,
        parts: &Parts,
        body: Pin<&mut B>,
        deadline: &mut Deadline,
    ) -> Result<StatusCode, Box<Rejection>>
    where
        B: Body<Error: Into<BoxError>>,
    {
        let settings = &self.settings;
        let mut permit = self.shared.bodies.permit(settings.max_body_bytes_in_flight);
        let bytes = self.read(parts, body, &mut permit, deadline).await?;
        self.verify(|verify| verify.verify_body(parts, &bytes))
            .map_err(Rejection::because)?;
        let event = Event::received(bytes, self.runtime.system_time())
            .map_err(|undecoded| Rejection::malformed(undecoded, settings.malformed))?;
        let status = self.unmatched_status(&event)?;
        self.submit(event, deadline).await?;
        Ok(status)
    }

    /// Checks the head and reads the body; one that won't be read is drained before the answer.
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
        // Who waits for a 100 hasn't sent the body, and doesn't if it gets its answer instead.
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

    /// Returns the size of the largest body that is read: whatever is smaller, our own limit or the inbox's.
    fn max_body_bytes(&self) -> usize {
        let own = self.settings.max_body_bytes;
        self.inbox
            .max_body_bytes()
            .map_or(own, |inbox| inbox.min(own))
    }

    /// Decides what can be decided before the body is read.
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

    /// Returns the status that an event of this type is answered with once the inbox owns it.
    fn unmatched_status(&self, event: &Event) -> Result<StatusCode, Box<Rejection>> {
        match &self.settings.unmatched {
            Some((status, router)) if !router.matches(event.event_type()) => {
                if status.is_success() {
                    return Ok(*status);
                }
                let rejection = Rejection::because(RejectionReason::Unmatched).with_status(*status);
                Err(rejection.with_event(Some(event.clone())))
            }
            _ => Ok(StatusCode::OK),
        }
    }

    /// Gives the event to the inbox, whose first poll takes it; there is no await before that.
    async fn submit(&self, event: Event, deadline: &mut Deadline) -> Result<(), Box<Rejection>> {
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
                return Ok(());
            }
            Some(Ok(Err(refused))) => Rejection::refused(&refused),
            Some(Err(_)) => Rejection::because(RejectionReason::Panicked),
            None => Rejection::because(RejectionReason::Slow),
        };
        Err(rejection.with_event(Some(copy)))
    }

    fn reject(&self, rejection: &Rejection) -> Reply {
        let should_warn = rejection
            .reason()
            .should_warn(self.shared.count(rejection.reason()));
        telemetry::webhook_rejected(
            rejection.status().as_u16(),
            rejection.reason().as_str(),
            rejection.error().and_then(Error::static_text),
            should_warn,
        );
        self.settings.hooks.notify(rejection);
        rejection.reply()
    }
}

/// Tells the sender that its connection closes after the answer to a body that wasn't read to its end.
///
/// A server does so with HTTP/1: a sender that isn't told sends its next event into it, and that one gets no answer.
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
