use std::fmt;

use crate::delivery::Replay;

/// A replay or a deletion that a user of an [`Inspector`](super::Inspector) started.
///
/// Hooks of [`on_action`](super::Inspector::on_action) receive each action after it has ended, for an audit.
#[derive(Clone, Debug)]
pub struct InspectorAction {
    pub(super) user: String,
    pub(super) replay: Option<Replay>,
    pub(super) target: Target,
    pub(super) count: u64,
    pub(super) error: Option<String>,
}

/// The events of an action.
#[derive(Clone, Debug)]
pub(super) enum Target {
    Events(Vec<u64>),
    /// All events that match the conditions, written as the query of a URL.
    Matching(String),
}

impl InspectorAction {
    /// Returns the user, as the rule of [`Access`](super::Access) names them.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Returns the routes of a replay, or `None` for a deletion.
    #[must_use]
    pub fn replay(&self) -> Option<&Replay> {
        self.replay.as_ref()
    }

    /// Returns the [ids](crate::EventRecord::id) of the events, or an empty list if the action selected events by a filter.
    #[must_use]
    pub fn ids(&self) -> &[u64] {
        match &self.target {
            Target::Events(ids) => ids,
            Target::Matching(_) => &[],
        }
    }

    /// Returns the filter of the page as the query of a URL, or `None` if the action selected single events.
    #[must_use]
    pub fn filter(&self) -> Option<&str> {
        match &self.target {
            Target::Events(_) => None,
            Target::Matching(filter) => Some(filter),
        }
    }

    /// Returns the number of events that were replayed or deleted.
    ///
    /// If an action on a filter fails, the number isn't known and is 0.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Returns why the action failed. Some events may have been replayed or deleted before.
    #[must_use]
    pub fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    /// Returns what the user did, for example `replay all routes`.
    pub(super) fn what(&self) -> String {
        match &self.replay {
            None => "delete".to_owned(),
            Some(Replay::Remaining) => "replay remaining routes".to_owned(),
            Some(Replay::All) => "replay all routes".to_owned(),
            Some(Replay::Only(route)) => format!("replay only {route}"),
        }
    }

    /// Returns the ids or the filter.
    pub(super) fn events(&self) -> String {
        match &self.target {
            Target::Matching(filter) => format!("matching {filter:?}"),
            Target::Events(ids) => {
                let ids: Vec<_> = ids.iter().map(u64::to_string).collect();
                ids.join(" ")
            }
        }
    }
}

/// Writes `ana: replay all routes, events 7 9: 2`. Special characters are escaped.
impl fmt::Display for InspectorAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (user, what) = (self.user.escape_debug(), self.what());
        write!(
            f,
            "{user}: {}, events {}: {}",
            what.escape_debug(),
            self.events(),
            self.count
        )
    }
}
