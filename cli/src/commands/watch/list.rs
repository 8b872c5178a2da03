//! The events that the command knows.

use std::collections::BTreeMap;

use serde_json::Value;

use super::event::Event;
use super::follow::Changes;

/// The maximum number of events. Older events are forgotten.
const MAX_EVENTS: usize = 1_000;

#[derive(Clone, Default)]
pub(super) struct EventList {
    events: BTreeMap<u64, Known>,
}

#[derive(Clone)]
struct Known {
    event: Event,
    value: Value,
}

/// The differences that an update makes.
#[derive(Debug, Default)]
pub(super) struct Differences {
    /// New events and events that changed, the oldest first.
    pub(super) changed: Vec<u64>,
    /// Events that no longer match or have left the inbox.
    pub(super) gone: Vec<u64>,
}

impl EventList {
    pub(super) fn apply(&mut self, changes: Changes) -> Differences {
        let mut differences = Differences::default();
        for value in changes.events {
            let Some(event) = Event::read(&value) else {
                continue;
            };
            let id = event.id;
            let known = self.events.insert(id, Known { event, value });
            let is_same = known.is_some_and(|known| known.value == self.events[&id].value);
            if !is_same {
                differences.changed.push(id);
            }
        }
        differences.changed.sort_unstable();
        self.events.retain(|id, _| {
            let stays = *id < changes.from || changes.ids.contains(id);
            if !stays {
                differences.gone.push(*id);
            }
            stays
        });
        while self.events.len() > MAX_EVENTS {
            self.events.pop_first();
        }
        differences
    }

    pub(super) fn clear(&mut self) {
        self.events.clear();
    }

    pub(super) fn get(&self, id: u64) -> Option<&Event> {
        self.events.get(&id).map(|known| &known.event)
    }

    /// Returns the event as the server serialized it.
    pub(super) fn value(&self, id: u64) -> Option<&Value> {
        self.events.get(&id).map(|known| &known.value)
    }

    pub(super) fn len(&self) -> usize {
        self.events.len()
    }

    /// Returns the events, the newest first.
    pub(super) fn newest_first(&self) -> impl DoubleEndedIterator<Item = &Event> {
        self.events.values().rev().map(|known| &known.event)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    pub(super) fn event(id: u64, state: &str) -> Value {
        json!({ "id": id, "message_id": "m", "event_type": "a.b", "state": state, "cause": null, "received_at": 0, "ended_at": null })
    }

    fn changes(from: u64, ids: &[u64], events: &[(u64, &str)]) -> Changes {
        let events = events.iter().map(|(id, state)| event(*id, state));
        Changes {
            from,
            ids: ids.to_vec(),
            events: events.collect(),
        }
    }

    #[test]
    fn each_change_is_found_once() {
        let mut list = EventList::default();
        let first = list.apply(changes(0, &[2, 1], &[(2, "running"), (1, "dead")]));
        assert_eq!(first.changed, [1, 2]);
        let again = list.apply(changes(0, &[2, 1], &[(2, "running"), (1, "handled")]));
        assert_eq!((again.changed, again.gone), (vec![1], vec![]));
        let gone = list.apply(changes(2, &[3], &[(3, "waiting")]));
        assert_eq!((gone.changed, gone.gone), (vec![3], vec![2]));
        assert_eq!(
            list.newest_first()
                .map(|event| event.id)
                .collect::<Vec<_>>(),
            [3, 1]
        );
    }

    #[test]
    fn the_number_of_events_is_limited() {
        let mut list = EventList::default();
        for id in 0..2_000 {
            list.apply(changes(id, &[id], &[(id, "dead")]));
        }
        assert_eq!(list.len(), MAX_EVENTS);
        assert!(list.get(1_999).is_some() && list.get(999).is_none());
    }
}
