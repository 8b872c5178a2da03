use std::borrow::Cow;
use std::convert::Infallible;
use std::error::Error as StdError;
use std::sync::Arc;
use std::{fmt, io};

/// The boxed error type that tower's crates use.
pub(crate) type BoxError = Box<dyn StdError + Send + Sync>;

/// The error of this crate.
///
/// The error is opaque and cheap to clone. [`kind`](Error::kind) classifies the failure, and the message describes the
/// failure. [`source`](StdError::source) returns the underlying error of another crate or of the operating system.
/// Neither the message nor a source contains a secret or a payload value, so the error can be logged.
#[derive(Clone)]
pub struct Error {
    inner: Arc<ErrorInner>,
}

struct ErrorInner {
    kind: ErrorKind,
    text: Cow<'static, str>,
    source: Option<BoxError>,
}

/// The kinds of [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The body isn't an event: it isn't a JSON object, or a member is missing, duplicated or of
    /// the wrong type.
    Envelope,
    /// The `data` of an event doesn't match the type that it is decoded as.
    Payload,
    /// A pattern of event types is malformed.
    Pattern,
    /// Two routes of a router have the same name, or a router has two fallbacks.
    Route,
    /// An inbox can't open its store, or the store fails.
    Inbox,
    /// Another process, or another inbox of this process, has locked the inbox's file.
    Locked,
    /// The environment variable of a [`SharedSecret`](crate::SharedSecret) isn't set, or contains no secret.
    Secret,
    /// The server of a [`Shutdown`](crate::Shutdown) has failed.
    Server,
    /// The process can't receive signals, for example because tokio's I/O driver isn't enabled.
    Signal,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, text: impl Into<Cow<'static, str>>) -> Self {
        Self::with(kind, text.into(), None)
    }

    /// Returns an error with a source.
    pub(crate) fn caused(
        kind: ErrorKind,
        text: impl Into<Cow<'static, str>>,
        source: impl Into<BoxError>,
    ) -> Self {
        Self::with(kind, text.into(), Some(source.into()))
    }

    fn with(kind: ErrorKind, text: Cow<'static, str>, source: Option<BoxError>) -> Self {
        Self {
            inner: Arc::new(ErrorInner { kind, text, source }),
        }
    }

    /// Returns the kind of this error.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.inner.kind
    }

    /// Returns the message if it is static. A static message can't contain request data.
    pub(crate) fn static_text(&self) -> Option<&'static str> {
        match self.inner.text {
            Cow::Borrowed(text) => Some(text),
            Cow::Owned(_) => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.inner.text)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Error");
        debug
            .field("kind", &self.inner.kind)
            .field("text", &self.inner.text);
        if let Some(source) = &self.inner.source {
            debug.field("source", source);
        }
        debug.finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        let source = self.inner.source.as_ref()?;
        Some(&**source)
    }
}

/// Returns an error of the kind [`Other`](io::ErrorKind::Other), so that `?` works in a `main` that returns
/// `io::Result<()>`.
impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        Self::other(error)
    }
}

impl From<Infallible> for Error {
    fn from(error: Infallible) -> Self {
        match error {}
    }
}
