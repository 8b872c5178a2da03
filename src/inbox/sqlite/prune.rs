use super::writer::{PATIENT, STEP, Writer};
use crate::runtime::millis;

impl Writer {
    /// Deletes what has grown too old, in small steps.
    pub(super) fn prune(&mut self, idle: bool) {
        let now = self.clock.now();
        // Asked for the ids' sake: what is over is forgotten.
        if idle && self.ids.expire(now) > self.state.forgotten {
            let up_to = self.ids.forgotten();
            match self
                .store
                .transaction(|store| store.forget(up_to, 4 * STEP))
            {
                Ok(true) => self.state.forgotten = up_to,
                Ok(false) => self.mailbox.call(),
                Err(error) => self.say(error),
            }
        }
        if now.saturating_sub(self.state.pruned_at) >= millis(PATIENT) {
            let before = now.saturating_sub(millis(self.bounds.keep_letters));
            match self.delete_before(before, STEP) {
                Ok(deleted) if deleted < STEP => self.state.pruned_at = now,
                Ok(_) => self.mailbox.call(),
                Err(error) => {
                    self.state.pruned_at = now;
                    self.say(error);
                }
            }
        }
    }
}
