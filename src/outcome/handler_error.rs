use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{BoxError, Error, ErrorKind};

/// The error of a handler. The operator `?` converts any error into a `HandlerError`.
///
/// Like [`anyhow::Error`](https://docs.rs/anyhow), `HandlerError` doesn't implement [`std::error::Error`].
/// Therefore `?` converts every type that implements `Error`, and also `anyhow::Error`, `&str` and `HandlerError`.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use botisimo_webhooks::{Event, HandlerError, HandlerResult};
///
/// async fn handler(event: Event) -> HandlerResult {
///     std::fs::read_to_string("/etc/hostname")?;
///     if event.raw_data() == "null" {
///         return Err(HandlerError::permanent("an account without data"));
///     }
///     Err(HandlerError::retry_after(Duration::from_secs(60), "the database is read-only"))
/// }
/// ```
#[derive(Clone)]
pub struct HandlerError {
    source: Arc<dyn StdError + Send + Sync>,
    retry: RetryHint,
}

/// The handler's request for the next attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RetryHint {
    /// The retry policy decides the delay.
    Backoff,
    /// The delay is at least this long.
    After(Duration),
    /// No further attempt.
    Never,
}

impl HandlerError {
    /// Wraps an error that retrying can't fix. The route isn't retried.
    pub fn permanent(error: impl Into<BoxError>) -> Self {
        Self::with(error.into(), RetryHint::Never)
    }

    /// Wraps an error and requests at least `delay` before the next attempt. The policy's `max_delay` still applies.
    pub fn retry_after(delay: Duration, error: impl Into<BoxError>) -> Self {
        Self::with(error.into(), RetryHint::After(delay))
    }

    fn with(error: BoxError, retry: RetryHint) -> Self {
        Self {
            source: Arc::from(error),
            retry,
        }
    }

    /// Returns whether retrying can't fix the error.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        self.retry == RetryHint::Never
    }

    /// Returns the delay that the handler requested.
    #[must_use]
    pub fn delay(&self) -> Option<Duration> {
        match self.retry {
            RetryHint::After(delay) => Some(delay),
            RetryHint::Backoff | RetryHint::Never => None,
        }
    }

    /// Returns the wrapped error.
    #[must_use]
    pub fn get_ref(&self) -> &(dyn StdError + Send + Sync + 'static) {
        &*self.source
    }
}

/// The error of [`Event::decode`](crate::Event::decode) is permanent, because a retry would decode the same payload.
impl<E: Into<BoxError>> From<E> for HandlerError {
    fn from(error: E) -> Self {
        let error = error.into();
        let retry = match error.downcast_ref::<Error>() {
            Some(error) if error.kind() == ErrorKind::Payload => RetryHint::Never,
            _ => RetryHint::Backoff,
        };
        Self::with(error, retry)
    }
}

impl fmt::Display for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.source, f)
    }
}

impl fmt::Debug for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandlerError")
            .field("source", &self.source)
            .field("retry", &self.retry)
            .finish()
    }
}
