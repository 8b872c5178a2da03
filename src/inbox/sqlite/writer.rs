use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_channel::oneshot;

use super::faults::failed;
use super::file::Owned;
use super::health::Health;
use super::mailbox::{Mail, Mailbox, Return};
use super::schedule::Schedule;
use super::store::{Store, Totals};
use super::window::Shared;
use crate::catch_panic::catch_panic;
use crate::delivery::{DeadLetter, Fingerprints, SeenIds};
use crate::runtime::Clock;

/// How many old ids are forgotten in one transaction at least, and how many letters are read or
/// changed, so that arrivals needn't wait for long.
pub(super) const STEP: usize = 256;

/// How long the writer waits for mail: while something couldn't be written, and otherwise.
const IMPATIENT: Duration = Duration::from_secs(1);
pub(super) const PATIENT: Duration = Duration::from_secs(60);

/// How much the store holds, and for how long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) events: u64,
    pub(super) bytes: u64,
    pub(super) letters: u64,
    pub(super) letter_bytes: u64,
    pub(super) keep_letters: Duration,
    pub(super) crashes: u32,
}

impl Bounds {
    /// Returns whether one more event of `size` bytes has no room beside what is there. One event is
    /// always taken: to refuse an event for ever would get the endpoint disabled.
    pub(super) fn are_reached(&self, there: Totals, size: u64) -> bool {
        there.events > 0 && (there.events >= self.events || there.event_bytes + size > self.bytes)
    }
}

/// The inbox's other half, as its writer sees it.
pub(super) trait Office: Send + Sync {
    /// Puts workers to what is ready.
    fn spawn_workers(self: Arc<Self>);

    /// Tells the hooks of an event that was given up.
    fn died(&self, letter: &DeadLetter);

    /// Calls the writer after a time, unless what it returns is dropped.
    fn alarm(&self, after: Duration) -> oneshot::Sender<()>;
}

/// The thread that owns the database.
pub(super) struct Writer {
    pub(super) store: Store,
    pub(super) mailbox: Arc<Mailbox<Writer>>,
    pub(super) shared: Arc<Shared>,
    /// Gone once nobody has the inbox any more.
    pub(super) office: Weak<dyn Office>,
    pub(super) clock: Arc<Clock>,
    pub(super) bounds: Bounds,
    pub(super) holds: bool,
    pub(super) concurrency: usize,
    pub(super) ids: SeenIds,
    pub(super) remembers: bool,
    pub(super) fingerprints: Arc<Fingerprints>,
    pub(super) schedule: Schedule,
    pub(super) health: Health,
    /// The events up to here are those of earlier processes.
    pub(super) recovered: u64,
    pub(super) state: State,
    /// Dropped last: who waits for the file must find it closed.
    pub(super) owned: Owned,
}

/// What the writer keeps in mind from one turn to the next.
#[derive(Default)]
pub(super) struct State {
    /// Whether the ids have been read from the store.
    pub(super) ids_read: bool,
    /// Whether ids are forgotten before their window is over, because there are so many.
    pub(super) forgetful: bool,
    /// The ids of events up to this one are deleted.
    pub(super) forgotten: u64,
    /// What was handed back and couldn't be written yet.
    pub(super) owed: Vec<Return>,
    /// When the writer is called next for an attempt that is due.
    pub(super) alarm: Option<(u64, oneshot::Sender<()>)>,
    /// When old letters were looked for.
    pub(super) pruned_at: u64,
    /// Whether the marks were taken off, because the process is to end.
    pub(super) unmarked: bool,
    /// How many events went into the window whose acceptors see to it that there are workers.
    pub(super) attended: usize,
}

impl Writer {
    /// Delivers what earlier processes left, then takes what comes, until nobody has the inbox any
    /// more.
    pub(super) fn run(mut self) {
        // Before the ids, so that a large store doesn't keep its events waiting.
        self.fill();
        self.set_alarm();
        self.spawn_workers();
        self.read_ids();
        while let Some(mail) = self.mailbox.collect(self.patience()) {
            self.turn(mail);
        }
        self.unload();
    }

    fn patience(&self) -> Duration {
        let owes = !self.state.owed.is_empty() || !self.state.ids_read;
        let uneasy = owes || self.health.is_uneasy();
        if uneasy { IMPATIENT } else { PATIENT }
    }

    fn turn(&mut self, mail: Mail<Self>) {
        let idle = mail.arrivals.is_empty() && mail.returns.is_empty();
        if !self.state.ids_read {
            self.read_ids();
        }
        self.state.owed.extend(mail.returns);
        let blocked = self.health.is_blocked();
        if blocked {
            // Before anything is decided, so that what waits goes on once it isn't any more.
            self.health.checkpoint(self.store.connection());
        }
        self.write(mail.arrivals);
        let draining = self.shared.lock().is_draining();
        if draining {
            self.unload();
        }
        for request in mail.requests {
            // It wakes who asked.
            let _ = catch_panic(|| request(self));
        }
        self.wake_due();
        if !draining {
            self.fill();
        }
        self.prune(idle);
        self.count_written();
        if idle && !blocked && self.health.is_uneasy() {
            self.health.checkpoint(self.store.connection());
        }
        self.set_alarm();
        self.spawn_workers();
    }

    /// Puts workers to what is ready, unless those who wait for its acceptance do.
    fn spawn_workers(&mut self) {
        let attended = std::mem::take(&mut self.state.attended);
        if self.shared.lock().ready() > attended
            && let Some(office) = self.office.upgrade()
        {
            office.spawn_workers();
        }
    }

    /// Counts what was written against the bound of the log.
    pub(super) fn count_written(&mut self) {
        let bytes = self.store.take_written();
        if bytes > 0 {
            self.health.committed(bytes, self.store.connection());
        }
    }

    fn read_ids(&mut self) {
        let (ids, fingerprints, now) = (&mut self.ids, &self.fingerprints, self.clock.now());
        let read = self.store.remembered(|number, at, id| {
            ids.recall(fingerprints.of(id), number, at, now);
        });
        match read {
            Ok(()) => self.state.ids_read = true,
            Err(error) => {
                self.ids.clear();
                self.say(error);
            }
        }
    }

    fn wake_due(&mut self) {
        let due = self.schedule.wake_due(self.clock.now());
        if due > 0 {
            self.shared
                .change(|window| (0..due).for_each(|_| window.due()));
        }
    }

    fn set_alarm(&mut self) {
        let now = self.clock.now();
        let Some(due) = self.schedule.next_due() else {
            return;
        };
        // One that has rung, or went down with its runtime, doesn't ring again, whatever the time.
        let rings = |alarm: &oneshot::Sender<()>| !alarm.is_canceled();
        let set = self.state.alarm.as_ref();
        if set.is_some_and(|(at, alarm)| *at > now && *at <= due && rings(alarm)) {
            return;
        }
        if let Some(office) = self.office.upgrade() {
            let wait = Duration::from_millis(due.saturating_sub(now));
            self.state.alarm = Some((due, office.alarm(wait)));
        }
    }

    /// Says what is wrong with the store.
    pub(super) fn say(&mut self, error: rusqlite::Error) {
        let (error, what) = failed(&self.owned.path, error);
        self.health.say(&error, what);
    }
}
