use std::borrow::Cow;
use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;

/// A boxed error, as tower's crates name it.
pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The error of everything in this crate that can be refused: an envelope, a payload, a pattern, a
/// route.
///
/// It is opaque and cheap to clone. [`kind`](Error::kind) says what was refused; the text says why.
/// Neither the text nor any source holds a value of the payload or a secret, so it can be logged as
/// it is.
#[derive(Clone)]
pub struct Error {
    inner: Arc<Inner>,
}

struct Inner {
    kind: ErrorKind,
    text: Cow<'static, str>,
}

/// What an [`Error`] is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The body of a request is not an event: not JSON, not an object, or a member is missing,
    /// given twice or of the wrong type.
    Envelope,
    /// The `data` of an event doesn't fit the type that was asked for.
    Payload,
    /// A pattern of event types is malformed.
    Pattern,
    /// Two routes have the same name.
    Route,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, text: impl Into<Cow<'static, str>>) -> Self {
        let text = text.into();
        Self {
            inner: Arc::new(Inner { kind, text }),
        }
    }

    /// Returns what was refused.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.inner.kind
    }

    /// Returns the text, if it was there before the program ran and so can't hold anything that was
    /// sent.
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
        f.debug_struct("Error")
            .field("kind", &self.inner.kind)
            .field("text", &self.inner.text)
            .finish()
    }
}

impl std::error::Error for Error {}

impl From<Infallible> for Error {
    fn from(error: Infallible) -> Self {
        match error {}
    }
}
