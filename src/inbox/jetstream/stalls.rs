#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind};
use crate::inbox::{Findings, HealthProblemKind};
use crate::runtime::Runtime;
use crate::telemetry;

/// The time between two warnings about a lasting stall.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// If a stall recurs with the same cause within this time, it isn't announced again. A stream at its limit may accept one event and
/// refuse the next.
const FLAPPING: Duration = Duration::from_secs(5);

/// An operation of a worker or an inbox that can fail or fall behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Operation {
    Admit,
    Publish,
    Pull,
    KeepUp,
    Acknowledge,
    StoreDeadLetter,
    StoreCheckpoint,
    CheckConsumer,
    CheckStream,
}

impl Operation {
    /// Returns the kind of the problem if the operation fails.
    fn problem(self) -> HealthProblemKind {
        match self {
            Self::Admit | Self::Publish => HealthProblemKind::InboxFailing,
            Self::CheckStream | Self::StoreCheckpoint => HealthProblemKind::InboxDamaged,
            Self::KeepUp => HealthProblemKind::EventsDelayed,
            _ => HealthProblemKind::RouteStalled,
        }
    }

    fn is_of_inbox(self) -> bool {
        matches!(self, Self::Admit | Self::Publish)
    }

    /// Inboxes and workers check the stream. The monitor writes that stall to the log.
    fn is_of_worker(self) -> bool {
        !self.is_of_inbox() && self != Self::CheckStream
    }
}

/// The operations that are currently failing, each with its cause.
pub(super) struct Stalls {
    runtime: Arc<dyn Runtime>,
    entries: Mutex<BTreeMap<Key, Entry>>,
}

/// The route, or `None` for all routes.
type Key = (Option<Arc<str>>, Operation);

struct Entry {
    cause: String,
    since: Instant,
    failed: Instant,
    warned: Instant,
    /// Whether a warning has been logged. If so, the recovery is also logged.
    is_announced: bool,
    /// When the operation succeeded again.
    ended: Option<Instant>,
}

impl Stalls {
    pub(super) fn new(runtime: Arc<dyn Runtime>) -> Self {
        Self {
            runtime,
            entries: Mutex::default(),
        }
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<Key, Entry>> {
        // No user code runs under the lock, so the state is consistent even if the lock is poisoned.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that an operation failed. Warns immediately, when the cause changes, and every minute. Returns whether it warned.
    pub(super) fn raise(
        &self,
        route: Option<&Arc<str>>,
        operation: Operation,
        cause: String,
    ) -> bool {
        let now = self.runtime.now();
        let since = {
            let mut entries = self.entries();
            let entry = entries.entry((route.cloned(), operation));
            let entry = entry.or_insert_with(|| Entry::new(now));
            let is_new = match entry.ended.take() {
                Some(ended) => {
                    (entry.since, entry.is_announced) = (now, false);
                    now.saturating_duration_since(ended) >= FLAPPING
                }
                None => false,
            };
            let is_due = now.saturating_duration_since(entry.warned) >= WARN_EVERY;
            let is_changed = entry.cause != cause;
            entry.failed = now;
            entry.cause.clone_from(&cause);
            if !is_new && !is_due && !is_changed {
                return false;
            }
            (entry.warned, entry.is_announced) = (now, true);
            entry.since
        };
        // The subscriber is the user's code, so it runs without the lock.
        if operation.is_of_inbox() {
            telemetry::inbox_failing(&Error::new(ErrorKind::Inbox, cause));
        } else if operation.is_of_worker() {
            let lasted = now.saturating_duration_since(since);
            telemetry::worker_stalled(route.map(|route| &**route), &cause, lasted);
        }
        true
    }

    /// Records whether an operation failed.
    pub(super) fn report<T>(
        &self,
        route: Option<&Arc<str>>,
        operation: Operation,
        result: &Result<T, Error>,
    ) {
        match result {
            Ok(_) => self.clear(route, operation),
            Err(error) => {
                self.raise(route, operation, describe(error));
            }
        }
    }

    /// Records that an operation works.
    pub(super) fn clear(&self, route: Option<&Arc<str>>, operation: Operation) {
        let now = self.runtime.now();
        let announced = {
            let mut entries = self.entries();
            // Usually no operation is failing, so return before building a key.
            if entries.values().all(|entry| entry.ended.is_some()) {
                return;
            }
            let entry = entries.get_mut(&(route.cloned(), operation));
            let Some(entry) = entry.filter(|entry| entry.ended.is_none()) else {
                return;
            };
            entry.ended = Some(now);
            let lasted = now.saturating_duration_since(entry.since);
            entry.is_announced.then(|| (entry.cause.clone(), lasted))
        };
        match announced {
            Some(_) if operation.is_of_inbox() => telemetry::inbox_recovered(),
            Some((cause, lasted)) if operation.is_of_worker() => {
                telemetry::worker_recovered(route.map(|route| &**route), &cause, lasted);
            }
            _ => {}
        }
    }

    /// Ends the stall of an operation that hasn't failed for a while. If another worker acknowledges the event, or if no event
    /// follows, nothing else ends the stall.
    pub(super) fn expire(&self, route: &Arc<str>, operation: Operation) {
        let now = self.runtime.now();
        let key = (Some(Arc::clone(route)), operation);
        let failed = self.entries().get(&key).map(|entry| entry.failed);
        if failed.is_some_and(|failed| now.saturating_duration_since(failed) >= WARN_EVERY) {
            self.clear(Some(route), operation);
        }
    }

    /// Adds a problem for each operation that is currently failing.
    pub(super) fn find(&self, findings: &mut Findings) {
        let entries = self.entries();
        let active = entries.iter().filter(|(_, entry)| entry.ended.is_none());
        for ((route, operation), entry) in active {
            let lasted = findings.since(entry.since);
            let problem = findings.add(operation.problem(), lasted);
            problem.because(&*entry.cause);
            if *operation != Operation::CheckStream {
                problem.logged();
            }
            if *operation != Operation::KeepUp {
                problem.advise("check the server, the stream and the permissions of this user");
            }
            if let Some(route) = route {
                problem.route_named(Arc::clone(route));
            }
        }
    }
}

impl Entry {
    fn new(now: Instant) -> Self {
        Self {
            cause: String::new(),
            since: now,
            failed: now,
            warned: now,
            is_announced: false,
            ended: None,
        }
    }
}

/// Returns the messages of an error and its source in one line.
fn describe(error: &Error) -> String {
    let text = match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    match text.contains("timed out") {
        true => format!("{text} (the server doesn't answer requests that it denies to a user)"),
        false => text,
    }
}
