use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use http::request::Parts;

use super::rejection::Rejection;
use super::verify::Verify;
use crate::delivery::Hooks;
use crate::router::EventRouter;

/// The settings of a receiver. The methods of [`WebhookLayer`](crate::WebhookLayer) describe the
/// settings.
#[derive(Clone)]
pub(super) struct Settings {
    pub(super) response_timeout: Duration,
    pub(super) max_body_bytes: usize,
    pub(super) max_body_bytes_in_flight: usize,
    pub(super) verify: Option<Arc<dyn Verify>>,
    pub(super) malformed: StatusCode,
    pub(super) router: Option<EventRouter>,
    pub(super) unmatched: Option<StatusCode>,
    pub(super) hooks: Hooks<Rejection>,
    pub(super) capture_traceparent: Option<Arc<CaptureTraceparent>>,
}

/// The user's closure that returns the `traceparent` of the current span.
pub(super) type CaptureTraceparent = dyn Fn(&Parts) -> Option<String> + Send + Sync;

impl Settings {
    /// Returns the default settings for an inbox that was built over `router`.
    pub(super) fn new(router: Option<EventRouter>) -> Self {
        Self {
            response_timeout: Duration::from_secs(3),
            max_body_bytes: 1 << 20,
            max_body_bytes_in_flight: 64 << 20,
            verify: None,
            malformed: StatusCode::BAD_REQUEST,
            router,
            unmatched: None,
            hooks: Hooks::new("on_rejection"),
            capture_traceparent: None,
        }
    }
}
