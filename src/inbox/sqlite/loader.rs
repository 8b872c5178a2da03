use super::command::{Complete, Step};
use super::database::Database;
use super::error::is_corrupt;
use super::schedule::Schedule;
use super::shared_inbox::DROPPED_DELAY;
use super::store::Store;
use super::volume::Volume;
use crate::delivery::{Job, JobExecutor};
use crate::runtime::{Clock, millis};

/// The number of heads per read.
const HEADS: usize = 256;

/// The maximum number of reads of heads per turn.
const MAX_READS: usize = 16;

/// Loads the events that may run, in the order of the schedule.
pub(super) struct Loader {
    pub(super) schedule: Schedule,
    /// The last event that an earlier process accepted.
    recovered: u64,
    /// The events that earlier processes left, according to the totals, minus the events whose heads the loader has read.
    /// `None` once the loader has read all heads. At that point, the difference was 0, unless another program changed the
    /// rows while no inbox had the file open.
    unread: Option<Volume>,
    pub(super) concurrency: usize,
    max_crashes: u32,
}

/// The events that a turn loaded.
#[derive(Default)]
pub(super) struct Loaded {
    pub(super) jobs: Vec<Job>,
    /// Events that won't run. Each one becomes a dead letter.
    pub(super) ended: Vec<Complete>,
    /// Whether there is more to load.
    pub(super) more: bool,
}

impl Loader {
    /// Returns the loader of a database that was just opened. If dead letters block no keys, unblocks all keys.
    pub(super) fn new(
        database: &mut Database,
        executor: &JobExecutor,
        max_crashes: u32,
    ) -> rusqlite::Result<Self> {
        let totals = database.store.totals;
        let delivery = &executor.settings;
        let max_delay = millis(executor.longest_retry_delay().max(DROPPED_DELAY));
        let mut schedule = Schedule::new(totals.next_id.saturating_sub(1), max_delay);
        if delivery.block_key_on_dead_letter {
            let blocked = database.store.blocked_keys()?;
            blocked.into_iter().for_each(|key| schedule.block(key));
        } else {
            database.transaction(Store::unblock_keys)?;
        }
        Ok(Self {
            recovered: schedule.last,
            schedule,
            unread: Some(totals.events),
            concurrency: delivery.inbox_concurrency(),
            max_crashes,
        })
    }

    /// Loads events while the window has `free` space. Loads at most `workers` recovered events, and marks them as running
    /// before they run.
    pub(super) fn load(
        &mut self,
        database: &mut Database,
        mut free: Volume,
        workers: usize,
        clock: &Clock,
    ) -> Loaded {
        let (mut loaded, mut reads) = (Loaded::default(), 0);
        while free.is_free() {
            let Some(id) = self.schedule.next.pop_front() else {
                reads += 1;
                loaded.more = reads > MAX_READS;
                if loaded.more || !self.read_heads(database, clock.now()) {
                    break;
                }
                continue;
            };
            // The loader marks recovered events as running, so it loads only as many as can run.
            if id <= self.recovered && loaded.jobs.len() >= workers {
                self.schedule.next.push_front(id);
                break;
            }
            match database.store.event(id) {
                Ok(Some(stored)) => {
                    let (crashed, size) = (stored.crashes > 0, stored.body.len() as u64);
                    let key = stored.key.clone();
                    match stored.into_job(self.max_crashes, clock.system_time()) {
                        // The event waits for another poison candidate.
                        Ok(_) if crashed && !self.schedule.try_poison_candidate(id) => {
                            // Until then, the routes run for other events.
                            drop(self.schedule.take_park(id));
                            continue;
                        }
                        Ok(job) => loaded.jobs.push(job),
                        Err(letter) => {
                            drop(self.schedule.take_park(id));
                            loaded.ended.push(Complete {
                                number: id,
                                key,
                                size,
                                step: Step::DeadLetter(letter, None),
                                park: None,
                                used_keys: Vec::new(),
                            });
                        }
                    }
                    free.remove(size);
                }
                // Another process deleted the event.
                Ok(None) => {
                    database.needs_recount();
                    self.schedule.skip(id);
                }
                Err(error) => {
                    let corrupt = is_corrupt(&error);
                    database.failed(error);
                    if !corrupt {
                        self.schedule.next.push_front(id);
                        break;
                    }
                    // The event stays on disk, and the next event of its key continues.
                    self.schedule.skip(id);
                }
            }
        }
        self.mark_running(database, &mut loaded.jobs);
        let now = clock.now();
        for job in &mut loaded.jobs {
            if let Some(park) = self.schedule.take_park(job.number) {
                park.resume(&mut job.progress, now);
            }
        }
        loaded
    }

    /// Reads the next heads on disk. Returns false if there are none.
    fn read_heads(&mut self, database: &mut Database, now: u64) -> bool {
        let Some(after) = self.schedule.unseen() else {
            return false;
        };
        let mut heads = Vec::new();
        let read = database.store.heads(after, HEADS, &mut heads);
        let last = heads.len() < HEADS;
        for head in heads {
            if let Some(unread) = &mut self.unread
                && head.id <= self.recovered
            {
                unread.events = unread.events.wrapping_sub(1);
                unread.bytes = unread.bytes.wrapping_sub(head.size);
            }
            self.schedule.see(head, now);
        }
        match read {
            Ok(()) if last => {
                self.schedule.cursor = self.schedule.last;
                let unread = self.unread.take().unwrap_or_default();
                if unread != Volume::default() {
                    database.needs_recount();
                }
            }
            Ok(()) => {}
            Err(error) => {
                let corrupt = is_corrupt(&error);
                database.failed(error);
                if corrupt {
                    // The events on the corrupt page stay on disk, and the other events continue.
                    self.schedule.cursor += 1;
                    // A recount would fail on that page too.
                    self.unread = None;
                }
                return corrupt;
            }
        }
        true
    }

    /// Marks recovered events as running. If the transaction fails, returns all loaded events to the schedule.
    fn mark_running(&mut self, database: &mut Database, jobs: &mut Vec<Job>) {
        let recovered = jobs.iter().map(|job| job.number);
        let recovered: Vec<_> = recovered.filter(|id| *id <= self.recovered).collect();
        if recovered.is_empty() {
            return;
        }
        let marked = database.try_transaction(|store| {
            let mut ids = recovered.iter();
            ids.try_for_each(|id| store.set_running(*id).map(drop))
        });
        if marked.is_none() {
            let jobs = jobs.drain(..).rev();
            jobs.for_each(|job| self.schedule.next.push_front(job.number));
        }
    }
}
