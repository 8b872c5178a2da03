use std::sync::Arc;

use async_nats::jetstream::message::StreamMessage;

use super::route_consumer::consumer;
use super::subjects::decoded;
use crate::delivery::EventState;

/// The position of a route's consumer.
pub(super) struct Position {
    pub(super) name: String,
    /// The route's name, or `None` for the consumer of long names.
    pub(super) route: Option<Arc<str>>,
    pub(super) filter: String,
    pub(super) begin: u64,
    /// Every event up to this sequence is acknowledged.
    pub(super) acked: u64,
    /// Every event up to this sequence was delivered at least once.
    pub(super) delivered: u64,
}

impl Position {
    /// Returns whether the consumer gets a message.
    pub(super) fn gets(&self, message: &StreamMessage) -> bool {
        message.sequence >= self.begin && self.takes(&message.subject)
    }

    /// Returns whether the filter of the consumer matches a subject.
    pub(super) fn takes(&self, subject: &str) -> bool {
        matches(&self.filter, subject)
    }

    /// Returns whether the consumer belongs to a route. Long names of routes are hashed.
    pub(super) fn is_of(&self, route: &str) -> bool {
        let group = self.name.split_once('-').map(|(group, _)| group);
        group.is_some_and(|group| self.name == consumer(group, route))
    }
}

/// Combines the states of a message for several consumers.
pub(super) trait MaxByProgress {
    fn max_by_progress(self, other: Self) -> Self;
}

impl MaxByProgress for Option<EventState> {
    fn max_by_progress(self, other: Self) -> Self {
        let rank = |state: &Option<EventState>| match state {
            None => 0,
            Some(EventState::Waiting) => 1,
            Some(EventState::Retrying) => 2,
            Some(_) => 3,
        };
        if rank(&other) > rank(&self) {
            other
        } else {
            self
        }
    }
}

/// Returns the name of the route in a consumer's name. A hashed name stays hashed.
pub(super) fn route_of(consumer: &str) -> Option<Arc<str>> {
    let (_, route) = consumer.split_once('-')?;
    if route == "=long" {
        return None;
    }
    Some(decoded(route).map_or_else(|| Arc::from(route), Arc::from))
}

/// Returns whether a subject matches a filter.
fn matches(filter: &str, subject: &str) -> bool {
    let (mut filter, mut subject) = (filter.split('.'), subject.split('.'));
    loop {
        match (filter.next(), subject.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some(token), Some(segment)) if token == "*" || token == segment => {}
            _ => return false,
        }
    }
}
