use std::fmt;
use std::sync::Arc;

use super::suggest::suggest;
use crate::error::{Error, ErrorKind};
use crate::event::{DOCUMENTED, EventType, MAX_TEXT};

/// A pattern of event types.
///
/// `a.b` matches one event type, `a.b.*` matches the event types below it, and `a.b[.*]` matches
/// both. Segments are compared whole.
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
    /// The text before the star.
    pub(super) name: Arc<str>,
}

/// The names that a pattern matches, relative to its own name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Scope {
    /// Only the name.
    Exact,
    /// Names below the name.
    Below,
    /// The name, and names below it.
    Prefix,
}

impl Pattern {
    /// Parses a pattern: `a.b`, `a.b.*` or `a.b[.*]`.
    ///
    /// # Errors
    ///
    /// Returns [`ErrorKind::Pattern`] if the text is empty, if its name is longer than 255 bytes,
    /// or if a `*` isn't the whole last segment.
    pub fn new(pattern: &str) -> Result<Self, Error> {
        match (pattern.strip_suffix(".*"), pattern.strip_suffix("[.*]")) {
            (Some(name), _) => Self::checked(Scope::Below, name, pattern),
            (_, Some(name)) => Self::checked(Scope::Prefix, name, pattern),
            _ => Self::checked(Scope::Exact, pattern, pattern),
        }
    }

    /// Returns the pattern of one event type and the event types below it: `a.b[.*]` for `a.b`.
    ///
    /// # Errors
    ///
    /// Returns [`ErrorKind::Pattern`] if the name is empty, longer than 255 bytes, or contains a
    /// `*`.
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
            "" => fault("is empty: to match every event, use `on_any`"),
            "*" => fault("matches every event: use `on_any`"),
            _ if name.len() > MAX_TEXT => fault("is longer than the longest event type, 255 bytes"),
            _ if !name.contains('*') => Ok(Self {
                scope,
                name: Arc::from(name),
            }),
            _ if scope == Scope::Prefix => {
                fault("contains a `*`: a prefix is a plain name, and matches all names below it")
            }
            _ => fault("has a `*` that isn't the whole last segment"),
        }
    }

    /// Returns whether the pattern matches this event type.
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

    /// Returns the text before the star.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Returns whether the pattern matches its own name.
    pub(crate) fn takes_itself(&self) -> bool {
        self.scope != Scope::Below
    }

    /// Returns whether the pattern matches names below its own.
    pub(crate) fn takes_below(&self) -> bool {
        self.scope != Scope::Exact
    }

    /// Returns whether the pattern matches a documented event type. If not, the pattern is a typo, or
    /// newer than this crate.
    pub(super) fn is_documented(&self) -> bool {
        DOCUMENTED
            .iter()
            .any(|event_type| self.matches(event_type.as_str()))
    }

    /// Returns the most similar pattern that matches a documented event type, or `None` if no
    /// pattern is similar.
    pub(super) fn suggestion(&self) -> Option<String> {
        let names = DOCUMENTED.iter().map(EventType::as_str);
        let ancestors = || DOCUMENTED.iter().flat_map(|each| ancestors(each.as_str()));
        let name = match self.scope {
            Scope::Exact => suggest(&self.name, names),
            Scope::Below => suggest(&self.name, ancestors()),
            Scope::Prefix => suggest(&self.name, names.chain(ancestors())),
        };
        name.map(|name| format!("{name}{}", self.scope.suffix()))
    }
}

impl Scope {
    fn suffix(self) -> &'static str {
        match self {
            Self::Exact => "",
            Self::Below => ".*",
            Self::Prefix => "[.*]",
        }
    }
}

/// Returns the ancestors of a name: `a` and `a.b` for `a.b.c`.
fn ancestors(name: &str) -> impl Iterator<Item = &str> {
    name.match_indices('.').map(|(dot, _)| &name[..dot])
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

/// Returns the pattern that matches only this event type.
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
        write!(f, "{}{}", self.name, self.scope.suffix())
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pattern({self})")
    }
}
