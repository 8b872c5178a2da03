use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::reason::RejectionReason;
use crate::inbox::{Findings, HealthProblemKind, HealthSource};

/// The rejections of a receiver since its last accepted event, in three groups.
#[derive(Debug, Default)]
pub(super) struct RejectionStreaks {
    /// The number of streaks. While this number is 0, an accepted event takes no lock.
    len: AtomicUsize,
    streaks: Mutex<[Option<Streak>; 3]>,
}

/// The kinds of problems, in the order of the streaks.
const KINDS: [HealthProblemKind; 3] = [
    HealthProblemKind::Unverified,
    HealthProblemKind::Malformed,
    HealthProblemKind::Rejected,
];

#[derive(Clone, Copy, Debug)]
struct Streak {
    requests: u64,
    since: Instant,
    last: Instant,
    /// The reason of the first rejection.
    reason: RejectionReason,
    /// The fault of the first body.
    detail: Option<&'static str>,
}

impl RejectionStreaks {
    /// Records a rejection. `detail` names the fault in the body.
    pub(super) fn rejected(
        &self,
        reason: RejectionReason,
        detail: Option<&'static str>,
        now: Instant,
    ) {
        let index = match reason {
            // A browser or a health check sends `GET`, and a draining inbox reports itself.
            RejectionReason::NotPost | RejectionReason::Draining => return,
            RejectionReason::Unverified => 0,
            RejectionReason::Malformed => 1,
            _ => 2,
        };
        let mut streaks = self.streaks();
        let streak = streaks[index].get_or_insert(Streak {
            requests: 0,
            since: now,
            last: now,
            reason,
            detail,
        });
        streak.requests += 1;
        streak.last = now;
        self.len
            .store(streaks.iter().flatten().count(), Ordering::Relaxed);
    }

    /// Ends all streaks, because the inbox has accepted an event.
    #[inline]
    pub(super) fn accepted(&self) {
        // Relaxed: a streak that another thread begins at the same time may survive one accepted event.
        if self.len.load(Ordering::Relaxed) > 0 {
            *self.streaks() = [None; 3];
            self.len.store(0, Ordering::Relaxed);
        }
    }

    fn streaks(&self) -> MutexGuard<'_, [Option<Streak>; 3]> {
        // No user code runs under the lock, so the streaks are consistent even if the lock is poisoned.
        self.streaks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HealthSource for RejectionStreaks {
    fn find(&self, findings: &mut Findings) {
        let streaks = *self.streaks();
        for (kind, streak) in KINDS.into_iter().zip(streaks) {
            let Some(streak) = streak else { continue };
            let is_known = match streak.reason {
                RejectionReason::Full => findings.has(HealthProblemKind::Full),
                RejectionReason::Unavailable | RejectionReason::Slow => {
                    findings.has(HealthProblemKind::InboxFailing)
                }
                _ => false,
            };
            let lasted = streak.last.saturating_duration_since(streak.since);
            let is_reached = findings
                .limits
                .rejections
                .is_reached(streak.requests, lasted);
            if is_known || !is_reached || findings.is_forgotten(streak.last) {
                continue;
            }
            let lasted = findings.since(streak.since);
            let problem = findings.add(kind, lasted);
            match kind {
                HealthProblemKind::Malformed => {
                    problem.because(streak.detail.unwrap_or(streak.reason.as_str()));
                }
                HealthProblemKind::Rejected => {
                    problem.because(streak.reason.as_str());
                }
                _ => {}
            }
        }
    }
}
