use std::marker::PhantomData;

#[cfg(feature = "metrics")]
use super::keys::TypeKeys;
use crate::event::EventType;

/// The label of an event's type: a documented name, a name that a route of the inbox matches exactly, or `other`.
///
/// The label doesn't borrow the event. If no recorder was installed when the label was made, the label counts nothing.
#[derive(Clone, Copy)]
pub(crate) struct TypeLabel<'a> {
    #[cfg(feature = "metrics")]
    pub(super) keys: Option<TypeKeysOf<'a>>,
    pub(super) metrics: PhantomData<&'a ()>,
}

/// The type of an event that the inbox counts after it has dropped the event.
pub(crate) struct CountedType {
    #[cfg(feature = "metrics")]
    pub(super) event_type: EventType,
}

impl CountedType {
    #[inline]
    pub(crate) fn of(event_type: &EventType) -> Self {
        Self {
            #[cfg(feature = "metrics")]
            event_type: event_type.clone(),
        }
    }
}

/// The keys of a type, and the value of the label.
#[cfg(feature = "metrics")]
pub(super) type TypeKeysOf<'a> = (&'a TypeKeys, &'a str);

/// How an inbox counts an event: when the event arrives, or when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counted {
    Accepted,
    Duplicate,
    Refused,
    Handled,
    Unhandled,
    Dead,
    Published,
}
