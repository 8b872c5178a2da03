use std::sync::Arc;
use std::time::Duration;

use super::database::Database;
use super::state::Shared;
use crate::delivery::{Fingerprints, SeenIds};
use crate::runtime::Clock;

/// Restores the message ids that earlier processes stored.
pub(super) struct MessageIds {
    fingerprints: Arc<Fingerprints>,
    max_ids: usize,
    window: Duration,
    restored: bool,
}

impl MessageIds {
    pub(super) fn new(fingerprints: Arc<Fingerprints>, max_ids: usize, window: Duration) -> Self {
        Self {
            fingerprints,
            max_ids,
            window,
            restored: false,
        }
    }

    /// Returns whether the inbox remembers any ids.
    pub(super) fn remembers(&self) -> bool {
        self.max_ids > 0 && !self.window.is_zero()
    }

    pub(super) fn are_restored(&self) -> bool {
        self.restored
    }

    /// Reads the ids, unless they have been read. Returns false on failure: the inbox then can't accept events.
    pub(super) fn restore(
        &mut self,
        database: &mut Database,
        shared: &Shared,
        clock: &Clock,
    ) -> bool {
        if self.restored {
            return true;
        }
        let (mut ids, now) = (SeenIds::new(self.max_ids, self.window), clock.now());
        let read = database.store.message_ids(|number, at, id| {
            ids.recall(self.fingerprints.of(id), number, at.min(now), now);
        });
        match read {
            Ok(()) => {
                let next_id = database.store.totals().next_id;
                shared.update(|state| state.admissions.restore(next_id, ids));
                self.restored = true;
            }
            Err(error) => database.failed(error),
        }
        self.restored
    }
}
