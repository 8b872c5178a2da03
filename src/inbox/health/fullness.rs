use std::time::Duration;

use super::{Findings, HealthProblemKind};
use crate::runtime::millis;

/// If a full inbox refuses no event for this time and has space again, it counts as recovered.
const RECOVERED: Duration = Duration::from_secs(60);

/// The refusals of a full inbox. Times are in milliseconds by the inbox's clock.
#[derive(Debug, Default)]
pub(crate) struct Fullness {
    refusals: u64,
    since: u64,
    last: u64,
    /// The number of accepted events at the last refusal.
    accepted: u64,
}

impl Fullness {
    /// Records that the inbox refused an event because it is full. `accepted` is the number of accepted events.
    pub(crate) fn refused(&mut self, now: u64, accepted: u64) {
        // The sender may retry rarely, so a pause without an accepted event isn't a recovery.
        let had_space = accepted != self.accepted;
        if self.refusals == 0 || had_space && now.saturating_sub(self.last) >= millis(RECOVERED) {
            (self.refusals, self.since) = (0, now);
        }
        self.refusals += 1;
        (self.last, self.accepted) = (now, accepted);
    }

    /// Adds a problem if the inbox is full. `is_full` is true if the inbox has no space now.
    pub(crate) fn find(&self, now: u64, is_full: bool, findings: &mut Findings) {
        let is_over = !is_full && now.saturating_sub(self.last) >= millis(RECOVERED);
        if self.refusals == 0 || is_over {
            return;
        }
        let lasted = Duration::from_millis(now.saturating_sub(self.since));
        if findings.limits.rejections.is_reached(self.refusals, lasted) {
            findings.add(HealthProblemKind::Full, lasted);
        }
    }
}
