//! The forms that replay and delete events.

use std::time::SystemTime;

use super::action::Target;
use super::query::{Conditions, Query, link};
use crate::delivery::Replay;
use crate::error::Error;
use crate::inbox::{EventFilter, EventLog};

/// A form that a user sent.
pub(super) struct Request {
    verb: Verb,
    pub(super) target: Target,
    routes: String,
    back: String,
    /// Whether the user has confirmed the action.
    is_sure: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verb {
    Replay,
    Delete,
}

/// The maximum number of events that the page counts before it asks.
const MAX_COUNT: usize = 10_000;

/// The number of events that are counted at once. Each event has its body in memory until it is counted.
const COUNT_STEP: usize = 100;

impl Request {
    /// Reads a form. Returns what is wrong with it.
    pub(super) fn parse(form: &Query) -> Result<Self, String> {
        let action = form.get("do").unwrap_or_default();
        let (verb, target) = action.split_once('-').unwrap_or((action, ""));
        let verb = match verb {
            "replay" => Verb::Replay,
            "delete" => Verb::Delete,
            _ => return Err(format!("no action has the name {action:?}")),
        };
        let target = match target {
            "matching" => Target::Matching(form.get("q").unwrap_or_default().to_owned()),
            "event" | "selected" => {
                let ids = form.all("event").map(|id| {
                    id.parse()
                        .map_err(|_| format!("{id:?} isn't the number of an event"))
                });
                Target::Events(ids.collect::<Result<_, _>>()?)
            }
            _ => return Err(format!("no action has the name {action:?}")),
        };
        if matches!(&target, Target::Events(ids) if ids.is_empty()) {
            return Err("no event is selected: select at least one event".to_owned());
        }
        Ok(Self {
            verb,
            target,
            routes: form.get("routes").unwrap_or("remaining").to_owned(),
            back: form.get("back").unwrap_or("events").to_owned(),
            is_sure: form.get("sure") == Some("yes"),
        })
    }

    pub(super) fn is_delete(&self) -> bool {
        self.verb == Verb::Delete
    }

    /// Returns whether the page asks first: before each deletion, and before a replay of all events that match.
    pub(super) fn needs_confirmation(&self) -> bool {
        !self.is_sure && (self.is_delete() || matches!(self.target, Target::Matching(_)))
    }

    /// Returns the routes of a replay, or `None` for a deletion.
    pub(super) fn replay(&self) -> Result<Option<Replay>, String> {
        if self.is_delete() {
            return Ok(None);
        }
        match (&*self.routes, self.only_route()) {
            ("remaining", _) => Ok(Some(Replay::Remaining)),
            ("all", _) => Ok(Some(Replay::All)),
            (_, Some(route)) => Ok(Some(Replay::Only(route.to_owned()))),
            (other, None) => Err(format!("{other:?} selects no routes")),
        }
    }

    pub(super) fn only_route(&self) -> Option<&str> {
        self.routes
            .strip_prefix("only:")
            .filter(|_| !self.is_delete())
    }

    /// Returns the fields of the form that confirms the action.
    pub(super) fn fields(&self) -> Vec<(&'static str, String)> {
        let verb = if self.is_delete() { "delete" } else { "replay" };
        let mut fields = vec![("routes", self.routes.clone()), ("back", self.back.clone())];
        match &self.target {
            Target::Events(ids) => {
                fields.push(("do", format!("{verb}-selected")));
                fields.extend(ids.iter().map(|id| ("event", id.to_string())));
            }
            Target::Matching(query) => {
                fields.push(("do", format!("{verb}-matching")));
                fields.push(("q", query.clone()));
            }
        }
        fields
    }

    /// Returns the link to the page after the action.
    pub(super) fn back(&self) -> String {
        let one = match &self.target {
            Target::Events(ids) if self.back == "event" && !self.is_delete() => ids.first(),
            _ => None,
        };
        match (one, &*self.back) {
            (Some(id), _) => link("event", &format!("event={id}")),
            (None, "dead-letters") => link("dead-letters", &self.conditions().encode()),
            (None, _) => link("events", &self.conditions().encode()),
        }
    }

    fn conditions(&self) -> Conditions {
        match &self.target {
            // Only a list of dead letters has this state without a field for it.
            Target::Matching(query) => Conditions {
                state: String::new(),
                ..Conditions::parse(&Query::parse(query.as_bytes()))
            },
            Target::Events(_) => Conditions::default(),
        }
    }

    fn filter(&self, query: &str, now: SystemTime) -> Result<EventFilter, String> {
        let conditions = Conditions::parse(&Query::parse(query.as_bytes()));
        if self.back != "dead-letters" {
            return conditions.to_filter(now);
        }
        let dead = Conditions {
            state: "dead".to_owned(),
            ..conditions
        };
        dead.to_filter(now)
    }

    /// Counts the events of the action, and returns whether there are more.
    pub(super) async fn count(
        &self,
        events: &EventLog,
        now: SystemTime,
    ) -> Result<(usize, bool), Failure> {
        let query = match &self.target {
            Target::Events(ids) => return Ok((ids.len(), false)),
            Target::Matching(query) => query,
        };
        let mut filter = self.filter(query, now).map_err(Failure::Form)?;
        let mut count = 0;
        loop {
            let page = events
                .list(&filter, COUNT_STEP)
                .await
                .map_err(Failure::Inbox)?;
            let Some(last) = page.last() else {
                return Ok((count, false));
            };
            // An event in flight can neither be replayed nor deleted.
            count += page
                .iter()
                .filter(|record| !record.state().is_in_flight())
                .count();
            if count > MAX_COUNT {
                return Ok((MAX_COUNT, true));
            }
            filter = filter.before(last.id());
        }
    }

    /// Replays or deletes the events. Returns the number of events.
    pub(super) async fn run(
        &self,
        events: &EventLog,
        replay: Option<&Replay>,
        now: SystemTime,
    ) -> (u64, Result<(), Failure>) {
        let mut count = 0;
        let result = self.try_run(events, replay, now, &mut count).await;
        (count, result)
    }

    async fn try_run(
        &self,
        events: &EventLog,
        replay: Option<&Replay>,
        now: SystemTime,
        count: &mut u64,
    ) -> Result<(), Failure> {
        match &self.target {
            Target::Events(ids) => {
                for id in ids {
                    let done = match replay {
                        Some(routes) => events.replay(*id, routes.clone()).await,
                        None => events.delete(*id).await,
                    };
                    *count += u64::from(done.map_err(Failure::Inbox)?);
                }
            }
            Target::Matching(query) => {
                let filter = self.filter(query, now).map_err(Failure::Form)?;
                let done = match replay {
                    Some(routes) => events.replay_matching(&filter, routes.clone()).await,
                    None => events.delete_matching(&filter).await,
                };
                *count = done.map_err(Failure::Inbox)?;
            }
        }
        Ok(())
    }
}

/// Why an action failed.
pub(super) enum Failure {
    /// A field of the form is wrong.
    Form(String),
    Inbox(Error),
}

impl Failure {
    pub(super) fn text(&self) -> String {
        match self {
            Self::Form(text) => text.clone(),
            Self::Inbox(error) => match std::error::Error::source(error) {
                Some(source) => format!("{error}: {source}"),
                None => error.to_string(),
            },
        }
    }
}
