use super::database::Database;
use super::error::is_corrupt;
use super::schedule::Schedule;
use super::store::{DeadLetterLimits, Dropped, Head, StoredEvent, Totals};
use super::window::Capacity;
use crate::delivery::{DeadLetter, Job, OrderKey};
use crate::runtime::Clock;

/// The number of heads per read.
const HEADS: usize = 256;

/// The maximum number of reads of heads per turn.
const MAX_READS: usize = 16;

/// Loads the events that may run, in the order of the schedule.
pub(super) struct Loader {
    pub(super) schedule: Schedule,
    /// The last event that an earlier process accepted.
    recovered: u64,
    /// The rows that earlier processes left, minus the rows that the loader has read. `None` once the loader has read
    /// all rows.
    unread: Option<Unread>,
    concurrency: usize,
    max_crashes: u32,
    limits: DeadLetterLimits,
}

/// Rows of events that the totals count and the loader hasn't read yet.
///
/// Once all rows are read, both counts are zero, unless another program changed the rows while no inbox had the file
/// open.
pub(super) struct Unread {
    events: i128,
    bytes: i128,
}

/// The events that a turn loaded.
#[derive(Default)]
pub(super) struct Loaded {
    pub(super) jobs: Vec<Job>,
    /// The ids of the events that an earlier process accepted.
    recovered: Vec<u64>,
    /// Events that won't run, and the reasons.
    undeliverable: Vec<(StoredEvent, String)>,
    /// The dead letters that were written for events that won't run.
    pub(super) letters: Vec<DeadLetter>,
    /// The size of each letter's stored body, in bytes.
    pub(super) letter_sizes: Vec<usize>,
    pub(super) dropped: Dropped,
    /// Events whose attempt isn't due.
    pub(super) delayed: u64,
    /// Whether there is more to load.
    pub(super) more: bool,
}

impl Loader {
    pub(super) fn new(
        schedule: Schedule,
        totals: Totals,
        concurrency: usize,
        max_crashes: u32,
        limits: DeadLetterLimits,
    ) -> Self {
        Self {
            recovered: schedule.last(),
            unread: Some(Unread {
                events: totals.events.into(),
                bytes: totals.event_bytes.into(),
            }),
            schedule,
            concurrency,
            max_crashes,
            limits,
        }
    }

    /// Returns whether there may be something to load.
    pub(super) fn has_work(&self) -> bool {
        self.schedule.peek().is_some() || self.schedule.unseen().is_some()
    }

    /// Loads events while the window has space.
    pub(super) fn load(
        &mut self,
        database: &mut Database,
        mut capacity: Capacity,
        clock: &Clock,
    ) -> Loaded {
        let now = clock.now();
        let mut loaded = Loaded::default();
        let mut reads = 0;
        loop {
            let Some(id) = self.schedule.peek() else {
                reads += 1;
                loaded.more = reads > MAX_READS;
                if loaded.more || !self.read_heads(database, now, &mut loaded) {
                    break;
                }
                continue;
            };
            let recovered = id <= self.recovered;
            // The loader marks recovered events as running, so it loads only as many as can run.
            if !capacity.has_room() || (recovered && capacity.active >= self.concurrency) {
                break;
            }
            self.schedule.pop();
            match database.store.event(id) {
                Ok(Some(stored)) => {
                    let size = stored.body.len();
                    let undeliverable = loaded.undeliverable.len();
                    let runs = self.sort(stored, recovered, &mut loaded);
                    if runs || loaded.undeliverable.len() > undeliverable {
                        capacity.take(size, runs);
                    }
                }
                // Another process deleted the event.
                Ok(None) => {
                    database.needs_recount();
                    self.schedule.skip_deleted(id);
                }
                Err(error) => {
                    let corrupt = is_corrupt(&error);
                    database.failed(error);
                    if !corrupt {
                        self.schedule.put_back(id);
                        break;
                    }
                    // The event stays on disk, and the next event of its key continues.
                    let key = database.store.order_key(id).unwrap_or_default();
                    self.schedule.skip(key.as_ref());
                }
            }
        }
        self.write(database, &mut loaded, clock);
        loaded
    }

    /// Reads the next heads on disk. Returns false if there are none.
    fn read_heads(&mut self, database: &mut Database, now: u64, loaded: &mut Loaded) -> bool {
        let Some(after) = self.schedule.unseen() else {
            return false;
        };
        let mut heads = Vec::new();
        let read = database.store.heads(after, HEADS, &mut heads);
        let last = heads.len() < HEADS;
        for head in heads {
            self.count_read(&head);
            loaded.delayed += u64::from(self.schedule.see(head, now));
        }
        match read {
            Ok(()) if last => {
                self.schedule.seen_all();
                let unread = self.unread.take();
                if unread.is_some_and(|unread| (unread.events, unread.bytes) != (0, 0)) {
                    database.needs_recount();
                }
            }
            Ok(()) => {}
            Err(error) => {
                let corrupt = is_corrupt(&error);
                database.failed(error);
                if corrupt {
                    // The events on the corrupt page stay on disk, and the others continue.
                    self.schedule.skip_unreadable();
                    // A recount would fail on that page too.
                    self.unread = None;
                }
                return corrupt;
            }
        }
        true
    }

    fn count_read(&mut self, head: &Head) {
        if let Some(unread) = &mut self.unread
            && head.id <= self.recovered
        {
            unread.events -= 1;
            unread.bytes -= i128::from(head.size);
        }
    }

    /// Decides whether a stored event runs.
    fn sort(&mut self, stored: StoredEvent, recovered: bool, loaded: &mut Loaded) -> bool {
        let (id, crashes) = (stored.id, stored.crashes);
        if crashes >= self.max_crashes {
            let cause = format!("the process ended {crashes} times while the event was running");
            loaded.undeliverable.push((stored, cause));
            return false;
        }
        if crashes > 0 && !self.schedule.try_poison_candidate(id) {
            return false;
        }
        match stored.into_job() {
            Ok(job) => {
                if recovered {
                    loaded.recovered.push(id);
                }
                loaded.jobs.push(job);
                true
            }
            Err((stored, error)) => {
                let cause = format!("this version can't decode it: {error}");
                loaded.undeliverable.push((stored, cause));
                false
            }
        }
    }

    /// Marks recovered events as running and writes dead letters, before anything runs. If that fails, nothing is loaded.
    fn write(&mut self, database: &mut Database, loaded: &mut Loaded, clock: &Clock) {
        let undeliverable = std::mem::take(&mut loaded.undeliverable);
        if loaded.recovered.is_empty() && undeliverable.is_empty() {
            return;
        }
        let letter = |(stored, cause): (StoredEvent, String)| {
            let (size, key) = (stored.body.len(), stored.key.clone());
            let letter = stored.into_dead_letter(&cause, clock.system_time());
            (letter, size, key)
        };
        let letters: Vec<(DeadLetter, usize, Option<OrderKey>)> =
            undeliverable.into_iter().map(letter).collect();
        let limits = self.limits;
        let written = database.transaction(|store| {
            for id in &loaded.recovered {
                store.set_running(*id)?;
            }
            let mut dropped = Dropped::default();
            for (letter, size, key) in &letters {
                store.dead_letter(letter, *size, key.as_ref(), limits, &mut dropped)?;
            }
            Ok(dropped)
        });
        match written {
            Ok(dropped) => {
                loaded.dropped = dropped;
                // The next turn loads the next event of a released key.
                loaded.more |= !letters.is_empty();
                for (letter, size, key) in letters {
                    self.schedule.end_poison_candidate(letter.id());
                    if !limits.block_key {
                        self.schedule.release(key.as_ref());
                    }
                    loaded.letters.push(letter);
                    loaded.letter_sizes.push(size);
                }
            }
            Err(error) => {
                database.failed(error);
                let jobs = loaded.jobs.drain(..).map(|job| job.number);
                let ids = jobs.chain(letters.iter().map(|(letter, ..)| letter.id()));
                for id in ids.collect::<Vec<_>>().into_iter().rev() {
                    self.schedule.put_back(id);
                    self.schedule.cancel_poison_candidate(id);
                }
            }
        }
    }
}
