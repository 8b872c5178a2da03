//! The settings of a front door: what they are, and the builder's methods, written once for its two
//! forms.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use super::rejection::Rejection;
use super::verify::Verify;
use crate::delivery::Hooks;
use crate::router::EventRouter;

/// What the user can set.
#[derive(Clone)]
pub(super) struct Settings {
    pub(super) response_timeout: Duration,
    pub(super) max_body_bytes: usize,
    pub(super) max_body_bytes_in_flight: usize,
    pub(super) verify: Option<Arc<dyn Verify>>,
    pub(super) malformed: StatusCode,
    pub(super) unmatched: Option<(StatusCode, EventRouter)>,
    pub(super) hooks: Hooks<Rejection>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            response_timeout: Duration::from_secs(3),
            max_body_bytes: 1 << 20,
            max_body_bytes_in_flight: 64 << 20,
            verify: None,
            malformed: StatusCode::BAD_REQUEST,
            unmatched: None,
            hooks: Hooks::new("on_rejection"),
        }
    }
}

/// Defines the settings as methods of a type whose `settings(&mut self)` returns them.
macro_rules! settings {
    () => {
        /// Sets the time from the arrival of a request's head to its answer, over the reading of
        /// the body and the inbox. The default is 3 s: the specification says "quickly", and that
        /// the sender never retries an event that it got no quick answer for, but does retry a 503.
        pub fn response_timeout(mut self, within: Duration) -> Self {
            self.settings().response_timeout = within;
            self
        }

        /// Sets how many bytes a body may have; a larger one is answered 413. The default is 1 MiB,
        /// thousands of times the example in the specification.
        pub fn max_body_bytes(mut self, bytes: usize) -> Self {
            self.settings().max_body_bytes = bytes;
            self
        }

        /// Sets how many bytes of bodies may be in flight, being read or waiting for the inbox, in
        /// all requests together; one more is answered 503. The default is 64 MiB. It should be no
        /// less than `max_body_bytes`.
        pub fn max_body_bytes_in_flight(mut self, bytes: usize) -> Self {
            self.settings().max_body_bytes_in_flight = bytes;
            self
        }

        /// Sets who decides whether a request is the sender's, such as a
        /// [`SharedSecret`](crate::SharedSecret). By default everyone is let in, and that is warned
        /// of once. A second call replaces the first.
        pub fn verify(mut self, verify: impl Verify) -> Self {
            self.settings().verify = Some(Arc::new(verify));
            self
        }

        /// Sets the status of the answer to a body that is no event. The default is 400.
        ///
        /// With a 2xx the sender forgets it: then keep [`Rejection::body`](crate::Rejection::body)
        /// in a hook of [`on_rejection`](Self::on_rejection).
        pub fn answer_malformed(mut self, status: StatusCode) -> Self {
            self.settings().malformed = status;
            self
        }

        /// Sets the status of the answer to an event that no route of `router` takes, those of
        /// `on_any` aside. The default is 200: an error would be retried for days, and get the
        /// endpoint disabled.
        ///
        /// With a 2xx the inbox takes the event as ever, and `on_any` sees it; with another status
        /// it never gets there.
        pub fn answer_unmatched(mut self, router: &EventRouter, status: StatusCode) -> Self {
            self.settings().unmatched = Some((status, router.clone()));
            self
        }

        /// Adds a hook that is told of every webhook request that is answered otherwise than by
        /// 200.
        ///
        /// It runs before the answer is sent, so it must not block. If it panics, that is logged
        /// and hurts nothing.
        pub fn on_rejection(mut self, hook: impl Fn(&Rejection) + Send + Sync + 'static) -> Self {
            self.settings().hooks.add(Arc::new(hook));
            self
        }

        /// Returns the handle to count, drain and await what is accepted.
        #[must_use]
        pub fn handle(&self) -> Handle {
            self.receiver.handle()
        }

        fn settings(&mut self) -> &mut Settings {
            &mut Arc::make_mut(&mut self.receiver).settings
        }
    };
}

pub(super) use settings;
