use std::time::{Duration, SystemTime};

use botisimo_webhooks::{EventFilter, EventState, Pattern};

/// Arguments that select events. An event matches if all conditions hold.
#[derive(clap::Args, Clone)]
#[command(next_help_heading = "Filters")]
pub(super) struct FilterArgs {
    /// Event type or pattern, as a route has it: `poll.*`, `giveaway[.*]`
    #[arg(long = "type", value_name = "PATTERN", value_parser = |text: &str| Pattern::new(text))]
    event_type: Option<Pattern>,
    /// Route with a result in any attempt
    #[arg(long, value_name = "NAME")]
    route: Option<String>,
    /// Outcome of a route in any attempt, for example `failed` or `timed out`
    #[arg(long)]
    outcome: Option<String>,
    /// Text in the reason of a failure, in any attempt
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Message id of the sender
    #[arg(long, value_name = "ID")]
    message_id: Option<String>,
    /// Earliest time of receipt: RFC 3339, or the time until now, for example 2h or 3days
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<SystemTime>,
    /// Time of receipt before which events match, like --since
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<SystemTime>,
}

/// The state of an event, as an argument.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Waiting,
    Running,
    Retrying,
    Handled,
    Unhandled,
    Dead,
}

impl State {
    fn of_event(self) -> EventState {
        match self {
            Self::Waiting => EventState::Waiting,
            Self::Running => EventState::Running,
            Self::Retrying => EventState::Retrying,
            Self::Handled => EventState::Handled,
            Self::Unhandled => EventState::Unhandled,
            Self::Dead => EventState::Dead,
        }
    }
}

impl FilterArgs {
    /// Returns the filter for events in one of these states, or in any state.
    pub(super) fn filter(&self, states: &[State]) -> EventFilter {
        let mut filter = EventFilter::new();
        for state in states {
            filter = filter.state(state.of_event());
        }
        if let Some(pattern) = &self.event_type {
            filter = filter.event_type(pattern.clone());
        }
        if let Some(route) = &self.route {
            filter = filter.route(route.as_str());
        }
        if let Some(outcome) = &self.outcome {
            filter = filter.outcome(outcome.as_str());
        }
        if let Some(reason) = &self.reason {
            filter = filter.reason(reason.as_str());
        }
        if let Some(id) = &self.message_id {
            filter = filter.message_id(id.as_str());
        }
        if let Some(since) = self.since {
            filter = filter.since(since);
        }
        if let Some(until) = self.until {
            filter = filter.until(until);
        }
        filter
    }

    /// Returns whether there is any condition.
    pub(super) fn is_set(&self) -> bool {
        self.event_type.is_some()
            || self.route.is_some()
            || self.outcome.is_some()
            || self.reason.is_some()
            || self.message_id.is_some()
            || self.since.is_some()
            || self.until.is_some()
    }
}

fn time(text: &str) -> Result<SystemTime, String> {
    if let Ok(ago) = age(text) {
        let time = SystemTime::now().checked_sub(ago);
        return time.ok_or_else(|| "the time is too early".to_owned());
    }
    humantime::parse_rfc3339_weak(text)
        .map_err(|_| "expected a time like 2026-01-23T16:06:39Z, or an age like 2h".to_owned())
}

/// Parses a duration such as `30d`.
pub(super) fn age(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|_| "expected a duration like 90min, 2h or 30d".to_owned())
}
