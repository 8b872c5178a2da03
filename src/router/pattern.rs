use std::fmt;
use std::sync::Arc;

use crate::error::{Error, ErrorKind};
use crate::event::{DOCUMENTED, EventType, MAX_TEXT};

/// Which event types a route takes.
///
/// It is written `a.b` for one event type, `a.b.*` for all below it, and `a.b[.*]` for both.
/// Segments are compared whole.
///
/// # Examples
///
/// ```
/// use botisimo_webhooks::Pattern;
///
/// let below: Pattern = "connection.stream.*".parse()?;
/// assert!(below.matches("connection.stream.started.twitch"));
/// assert!(!below.matches("connection.stream"));
///
/// let prefix = Pattern::prefix("connection.stream")?;
/// assert!(prefix.matches("connection.stream"));
/// assert!(!prefix.matches("connection.streams"));
/// assert_eq!(prefix.to_string(), "connection.stream[.*]");
/// # Ok::<_, botisimo_webhooks::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Pattern {
    pub(super) scope: Scope,
    /// The name before the star.
    pub(super) name: Arc<str>,
}

/// How much a pattern takes around its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Scope {
    /// The name itself.
    Exact,
    /// All below the name.
    Below,
    /// The name and all below it.
    Prefix,
}

impl Pattern {
    /// Returns the pattern of one event type, of all below one if the text ends with `.*`, or of
    /// both if it ends with `[.*]`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Pattern`] if the text is empty or longer than 255 bytes, or has a `*` elsewhere
    /// than as the whole of the last segment.
    pub fn new(pattern: &str) -> Result<Self, Error> {
        match (pattern.strip_suffix(".*"), pattern.strip_suffix("[.*]")) {
            (Some(name), _) => Self::checked(Scope::Below, name, pattern),
            (_, Some(name)) => Self::checked(Scope::Prefix, name, pattern),
            _ => Self::checked(Scope::Exact, pattern, pattern),
        }
    }

    /// Returns the pattern of one event type and all below it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Pattern`] if the text is empty or longer than 255 bytes, or has a `*`.
    pub fn prefix(name: &str) -> Result<Self, Error> {
        Self::checked(Scope::Prefix, name, name)
    }

    fn checked(scope: Scope, name: &str, written: &str) -> Result<Self, Error> {
        let fault = |why| {
            Err(Error::new(
                ErrorKind::Pattern,
                format!("pattern {written:?} {why}"),
            ))
        };
        match name {
            "" => fault("is empty: to take every event, use `on_any`"),
            "*" => fault("takes every event: use `on_any`"),
            _ if name.len() > MAX_TEXT => fault("is longer than an event type can be, 255 bytes"),
            _ if !name.contains('*') => Ok(Self {
                scope,
                name: Arc::from(name),
            }),
            _ if scope == Scope::Prefix => {
                fault("has a `*`: a prefix is the plain name, and takes all below it")
            }
            _ => fault("has a `*` elsewhere than as the whole of its last segment"),
        }
    }

    /// Returns whether an event type of this name is taken.
    #[must_use]
    pub fn matches(&self, event_type: &str) -> bool {
        let Some(rest) = event_type.strip_prefix(&*self.name) else {
            return false;
        };
        match self.scope {
            Scope::Exact => rest.is_empty(),
            Scope::Below => rest.starts_with('.'),
            Scope::Prefix => rest.is_empty() || rest.starts_with('.'),
        }
    }

    /// Returns the name before the star.
    #[cfg(feature = "jetstream")]
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Returns whether the event type of this very name is taken.
    #[cfg(feature = "jetstream")]
    pub(crate) fn takes_itself(&self) -> bool {
        self.scope != Scope::Below
    }

    /// Returns whether what is below the name is taken.
    #[cfg(feature = "jetstream")]
    pub(crate) fn takes_below(&self) -> bool {
        self.scope != Scope::Exact
    }

    /// Returns whether a documented event type is taken. If none is, the pattern is a typo, or
    /// ahead of the specification.
    #[must_use]
    pub fn is_documented(&self) -> bool {
        DOCUMENTED
            .iter()
            .any(|event_type| self.matches(event_type.as_str()))
    }
}

impl std::str::FromStr for Pattern {
    type Err = Error;

    fn from_str(pattern: &str) -> Result<Self, Error> {
        Self::new(pattern)
    }
}

impl TryFrom<&str> for Pattern {
    type Error = Error;

    fn try_from(pattern: &str) -> Result<Self, Error> {
        Self::new(pattern)
    }
}

impl TryFrom<String> for Pattern {
    type Error = Error;

    fn try_from(pattern: String) -> Result<Self, Error> {
        Self::new(&pattern)
    }
}

impl TryFrom<&String> for Pattern {
    type Error = Error;

    fn try_from(pattern: &String) -> Result<Self, Error> {
        Self::new(pattern)
    }
}

/// The pattern of exactly this event type.
impl From<EventType> for Pattern {
    fn from(event_type: EventType) -> Self {
        Self {
            scope: Scope::Exact,
            name: Arc::from(event_type.as_str()),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let star = match self.scope {
            Scope::Exact => "",
            Scope::Below => ".*",
            Scope::Prefix => "[.*]",
        };
        write!(f, "{}{star}", self.name)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pattern({self})")
    }
}
