use std::borrow::Cow;
use std::convert::Infallible;
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

/// A boxed error, as tower's crates name it.
pub(crate) type BoxError = Box<dyn StdError + Send + Sync>;

/// The error of everything in this crate that can be refused: an envelope, a payload, a pattern, a
/// route, a store.
///
/// It is opaque and cheap to clone. [`kind`](Error::kind) says what was refused; the text says why,
/// and [`source`](StdError::source) what lies below, where that is another crate's or the operating
/// system's error. Neither the text nor any source holds a value of the payload or a secret, so it
/// can be logged as it is.
#[derive(Clone)]
pub struct Error {
    inner: Arc<Inner>,
}

struct Inner {
    kind: ErrorKind,
    text: Cow<'static, str>,
    source: Option<BoxError>,
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
    /// What an inbox keeps its events in can't be opened, or doesn't work.
    Inbox,
    /// Another process, or another inbox of this one, owns what this one was to open.
    Locked,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, text: impl Into<Cow<'static, str>>) -> Self {
        Self::with(kind, text.into(), None)
    }

    /// Returns the error that has another one below it.
    pub(crate) fn caused(
        kind: ErrorKind,
        text: impl Into<Cow<'static, str>>,
        source: impl Into<BoxError>,
    ) -> Self {
        Self::with(kind, text.into(), Some(source.into()))
    }

    fn with(kind: ErrorKind, text: Cow<'static, str>, source: Option<BoxError>) -> Self {
        Self {
            inner: Arc::new(Inner { kind, text, source }),
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

impl From<Infallible> for Error {
    fn from(error: Infallible) -> Self {
        match error {}
    }
}
