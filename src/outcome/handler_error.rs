use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{BoxError, Error, ErrorKind};

/// The error of a handler, made by `?` from any error.
///
/// Like [`anyhow::Error`](https://docs.rs/anyhow) it doesn't implement [`std::error::Error`] itself: this is what lets
/// `?` convert from every error, from `anyhow::Error`, from `&str` and from `HandlerError` alike.
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
    again: RetryHint,
}

/// When the handler wants to be tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RetryHint {
    /// When the inbox sees fit.
    Backoff,
    /// After this time.
    After(Duration),
    /// Never.
    Never,
}

impl HandlerError {
    /// Wraps an error, as `?` does.
    ///
    /// That of [`Event::decode`](crate::Event::decode) is permanent: the same payload won't fit
    /// next time either.
    pub fn new(error: impl Into<BoxError>) -> Self {
        let error = error.into();
        let futile = error
            .downcast_ref::<Error>()
            .is_some_and(|error| error.kind() == ErrorKind::Payload);
        Self::with(
            error,
            if futile {
                RetryHint::Never
            } else {
                RetryHint::Backoff
            },
        )
    }

    /// Wraps an error that no further attempt can mend.
    pub fn permanent(error: impl Into<BoxError>) -> Self {
        Self::with(error.into(), RetryHint::Never)
    }

    /// Wraps an error after which an attempt makes sense only once `delay` has passed.
    pub fn retry_after(delay: Duration, error: impl Into<BoxError>) -> Self {
        Self::with(error.into(), RetryHint::After(delay))
    }

    fn with(error: BoxError, again: RetryHint) -> Self {
        Self {
            source: Arc::from(error),
            again,
        }
    }

    /// Returns whether the handler said that no further attempt can mend this.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        self.again == RetryHint::Never
    }

    /// Returns the delay that the handler asked for.
    #[must_use]
    pub fn delay(&self) -> Option<Duration> {
        match self.again {
            RetryHint::After(delay) => Some(delay),
            RetryHint::Backoff | RetryHint::Never => None,
        }
    }

    /// Returns the error that was wrapped.
    #[must_use]
    pub fn get_ref(&self) -> &(dyn StdError + Send + Sync + 'static) {
        &*self.source
    }
}

impl<E: Into<BoxError>> From<E> for HandlerError {
    fn from(error: E) -> Self {
        Self::new(error)
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
            .field("again", &self.again)
            .finish()
    }
}
