use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// The maximum number of keys that a route remembers.
pub(super) const MAX_KEYS: usize = 100_000;

/// How long a key is kept after its window, in milliseconds. An event that the inbox accepted at the end of the window may not
/// count as unfinished yet.
const MARGIN: u64 = 60_000;

/// The key of an event for a route that runs once per key.
#[derive(Clone, Debug)]
pub(crate) struct RunKey {
    pub(crate) key: Arc<[u8]>,
    /// The route's window, in milliseconds.
    pub(crate) window: u64,
    /// The number of the event in its inbox.
    pub(crate) event: u64,
    /// When the inbox accepted the event, in milliseconds since the Unix epoch.
    pub(crate) accepted_at: u64,
    pub(crate) message_id: Arc<str>,
}

/// A key for which a route has handled an event.
#[derive(Clone, Debug)]
pub(crate) struct UsedKey {
    pub(crate) route: Arc<str>,
    pub(crate) run: RunKey,
    /// When the route handled the event, in milliseconds since the Unix epoch.
    pub(crate) used_at: u64,
    /// The event whose key the route forgot, because the route remembered too many keys.
    pub(crate) forgotten: Option<u64>,
}

/// The keys for which a route has handled an event. Bounded by time and by count.
#[derive(Debug, Default)]
pub(super) struct UsedKeys {
    keys: HashMap<Arc<[u8]>, Vec<RunKey>>,
    /// The times of use and the keys, oldest first.
    order: VecDeque<(u64, RunKey)>,
}

impl UsedKey {
    /// Returns when the key expires: a minute after the window has passed since the route handled the event.
    pub(crate) fn expires_at(&self) -> u64 {
        self.run.expires_at(self.used_at)
    }
}

impl RunKey {
    fn expires_at(&self, used_at: u64) -> u64 {
        let from = used_at.max(self.accepted_at);
        from.saturating_add(self.window).saturating_add(MARGIN)
    }
}

impl UsedKeys {
    /// Returns the message id of another event with this key that the route has handled, if the inbox accepted both events
    /// within the window.
    pub(super) fn duplicate_of(&self, run: &RunKey) -> Option<Arc<str>> {
        let mut used = self.keys.get(&run.key)?.iter();
        let sibling = used.find(|used| {
            used.event != run.event && used.accepted_at.abs_diff(run.accepted_at) <= run.window
        });
        sibling.map(|used| Arc::clone(&used.message_id))
    }

    /// Adds a key. If there are more than `max` keys, forgets and returns the oldest key.
    pub(super) fn insert(&mut self, run: RunKey, used_at: u64, max: usize) -> Option<RunKey> {
        let used = self.keys.entry(Arc::clone(&run.key)).or_default();
        // A replayed event uses its key again.
        if used.iter().any(|used| used.event == run.event) {
            used.retain(|used| used.event != run.event);
            self.order.retain(|(_, used)| used.event != run.event);
        }
        used.push(run.clone());
        self.order.push_back((used_at, run));
        if self.order.len() > max {
            self.forget_oldest()
        } else {
            None
        }
    }

    /// Forgets the keys that expired before `horizon`: the time at which the inbox accepted its oldest unfinished event. Every
    /// event that could share such a key has ended.
    pub(super) fn expire(&mut self, horizon: u64) {
        while let Some((used_at, run)) = self.order.front()
            && run.expires_at(*used_at) < horizon
        {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) -> Option<RunKey> {
        let (_, oldest) = self.order.pop_front()?;
        if let Some(used) = self.keys.get_mut(&oldest.key) {
            used.retain(|used| used.event != oldest.event);
            if used.is_empty() {
                self.keys.remove(&oldest.key);
            }
        }
        Some(oldest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(key: &str, event: u64, accepted_at: u64) -> RunKey {
        RunKey {
            key: Arc::from(key.as_bytes()),
            window: 100,
            event,
            accepted_at,
            message_id: Arc::from(format!("m{event}")),
        }
    }

    fn used(keys: &UsedKeys, run: &RunKey) -> Option<String> {
        keys.duplicate_of(run).map(|id| id.to_string())
    }

    #[test]
    fn the_window_counts_from_acceptance_in_both_directions() {
        let mut keys = UsedKeys::default();
        keys.insert(key("a", 1, 1_000), 5_000, 10);
        for (accepted_at, expected) in [
            (899, None),
            (900, Some("m1")),
            (1_100, Some("m1")),
            (1_101, None),
        ] {
            let found = used(&keys, &key("a", 2, accepted_at));
            assert_eq!(found.as_deref(), expected, "at {accepted_at}");
        }
        assert_eq!(used(&keys, &key("b", 2, 1_000)), None);
    }

    #[test]
    fn an_event_is_no_duplicate_of_itself() {
        let mut keys = UsedKeys::default();
        keys.insert(key("a", 1, 1_000), 1_000, 10);
        assert_eq!(used(&keys, &key("a", 1, 1_000)), None);
        keys.insert(key("a", 1, 1_000), 2_000, 10);
        keys.expire(2_101 + MARGIN);
        assert_eq!(used(&keys, &key("a", 2, 1_000)), None);
        assert!(keys.keys.is_empty() && keys.order.is_empty());
    }

    #[test]
    fn a_replayed_event_keeps_its_key_when_the_oldest_key_is_forgotten() {
        let mut keys = UsedKeys::default();
        keys.insert(key("a", 1, 1_000), 1_000, 2);
        keys.insert(key("b", 2, 1_000), 1_001, 2);
        assert!(keys.insert(key("a", 1, 1_000), 1_002, 2).is_none());
        let forgotten = keys.insert(key("c", 3, 1_000), 1_003, 2);
        assert_eq!(forgotten.map(|run| run.event), Some(2));
        assert_eq!(used(&keys, &key("a", 4, 1_000)).as_deref(), Some("m1"));
    }

    #[test]
    fn a_key_expires_once_no_unfinished_event_can_share_it() {
        let mut keys = UsedKeys::default();
        keys.insert(key("a", 1, 1_000), 5_000, 10);
        keys.expire(5_100 + MARGIN);
        assert_eq!(used(&keys, &key("a", 2, 1_000)).as_deref(), Some("m1"));
        keys.expire(5_101 + MARGIN);
        assert!(keys.keys.is_empty() && keys.order.is_empty());
    }

    #[test]
    fn the_oldest_key_is_forgotten_first() {
        let mut keys = UsedKeys::default();
        assert!(keys.insert(key("a", 1, 1_000), 1_000, 2).is_none());
        assert!(keys.insert(key("b", 2, 1_000), 1_001, 2).is_none());
        let forgotten = keys.insert(key("c", 3, 1_000), 1_002, 2);
        assert_eq!(forgotten.map(|run| run.event), Some(1));
        assert_eq!(used(&keys, &key("a", 4, 1_000)), None);
        assert_eq!(used(&keys, &key("b", 4, 1_000)).as_deref(), Some("m2"));
    }
}
