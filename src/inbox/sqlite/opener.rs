use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::desk::SqliteDesk;
use super::faults::failed;
use super::file::Owned;
use super::health::Health;
use super::mailbox::Mailbox;
use super::schedule::Schedule;
use super::schema;
use super::store::Store;
use super::window::Shared;
use super::writer::{Bounds, Office, State, Writer};
use crate::catch_panic::catch_panic;
use crate::delivery::{Fingerprints, SeenIds};
use crate::error::{Error, ErrorKind};
use crate::runtime::{Clock, Runtime};

/// Where the store is, and its bounds.
#[derive(Clone, Debug)]
pub(super) struct Setup {
    pub(super) path: PathBuf,
    pub(super) lock_timeout: Duration,
    pub(super) bounds: Bounds,
    pub(super) max_log: u64,
    pub(super) max_ids: usize,
    pub(super) duplicate_window: Duration,
}

/// Opens the store, on the thread that will own it.
pub(super) struct Opener {
    setup: Setup,
    holds: bool,
    concurrency: usize,
    mailbox: Arc<Mailbox<Writer>>,
    shared: Arc<Shared>,
    clock: Arc<Clock>,
    fingerprints: Arc<Fingerprints>,
    runtime: Arc<dyn Runtime>,
    office: Weak<dyn Office>,
}

impl Opener {
    pub(super) fn new(setup: Setup, desk: &Arc<SqliteDesk>) -> Self {
        let office: Weak<dyn Office> = Arc::<SqliteDesk>::downgrade(desk);
        let settings = &desk.executor.settings;
        Self {
            setup,
            holds: settings.block_key_on_dead_letter,
            concurrency: settings.concurrency,
            mailbox: Arc::clone(&desk.mailbox),
            shared: Arc::clone(&desk.shared),
            clock: Arc::clone(&desk.clock),
            fingerprints: Arc::clone(&desk.fingerprints),
            runtime: Arc::clone(&desk.executor.runtime),
            office,
        }
    }

    /// Opens the store and returns its writer, which has delivered nothing yet.
    pub(super) fn open(self) -> Result<Writer, Error> {
        able(&*self.runtime)?;
        let (setup, holds) = (self.setup, self.holds);
        let path = &*setup.path;
        let wanted = || !self.mailbox.is_closed();
        let owned = Owned::acquire(path, setup.lock_timeout, wanted)?;
        let connection = schema::open(path)?;
        let explain = |error| failed(path, error).0;
        let mut store = Store::new(connection).map_err(explain)?;
        store.transaction(Store::count_crashes).map_err(explain)?;
        let totals = store.totals();
        let last = totals.next_id.saturating_sub(1);
        let mut schedule = Schedule::new(last);
        if holds {
            let held = store.held().map_err(explain)?;
            held.into_iter().for_each(|key| schedule.hold(key));
        } else {
            store.transaction(Store::let_go).map_err(explain)?;
        }
        self.shared.change(|window| {
            window.recovered(totals.events, totals.event_bytes);
            window.stats.dead_letters = totals.dead_letters;
        });
        let remembers = setup.max_ids > 0 && !setup.duplicate_window.is_zero();
        Ok(Writer {
            health: Health::new(path, setup.max_log),
            owned,
            store,
            mailbox: self.mailbox,
            shared: self.shared,
            office: self.office,
            clock: self.clock,
            bounds: setup.bounds,
            holds,
            concurrency: self.concurrency,
            ids: SeenIds::new(setup.max_ids, setup.duplicate_window),
            remembers,
            fingerprints: self.fingerprints,
            schedule,
            recovered: last,
            state: State::default(),
        })
    }
}

/// Sees whether a runtime can spawn from this thread: what is accepted would wait for ever otherwise.
fn able(runtime: &dyn Runtime) -> Result<(), Error> {
    catch_panic(|| runtime.spawn(Box::pin(async {}))).map_err(|_| {
        let text = "the runtime can't spawn from a thread of the inbox's own: give it a handle";
        Error::new(ErrorKind::Inbox, text)
    })
}
