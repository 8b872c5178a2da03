use super::command::{Complete, Step};
use super::database::Database;
use super::error::is_corrupt;
use super::schedule::Schedule;
use super::volume::Volume;
use super::window::Usage;
use crate::delivery::Job;
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
    /// The events that earlier processes left, according to the totals, minus the events whose heads the loader has read.
    /// `None` once the loader has read all heads. The rest is then 0, unless another program changed the rows while no
    /// inbox had the file open.
    unread: Option<Volume>,
    concurrency: usize,
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
    pub(super) fn new(
        schedule: Schedule,
        unread: Volume,
        concurrency: usize,
        max_crashes: u32,
    ) -> Self {
        Self {
            recovered: schedule.last(),
            unread: Some(unread),
            schedule,
            concurrency,
            max_crashes,
        }
    }

    /// Loads events while the window has space. Marks recovered events as running before they run.
    pub(super) fn load(
        &mut self,
        database: &mut Database,
        mut usage: Usage,
        clock: &Clock,
    ) -> Loaded {
        let (mut loaded, mut reads) = (Loaded::default(), 0);
        while usage.has_space() {
            let Some(id) = self.schedule.pop() else {
                reads += 1;
                loaded.more = reads > MAX_READS;
                if loaded.more || !self.read_heads(database, clock.now()) {
                    break;
                }
                continue;
            };
            // The loader marks recovered events as running, so it loads only as many as can run.
            if id <= self.recovered && usage.active >= self.concurrency {
                self.schedule.put_back(id);
                break;
            }
            match self.load_event(id, database, clock) {
                Ok(Some(Ok(job))) => {
                    usage.add(job.size() as u64, true);
                    loaded.jobs.push(job);
                }
                Ok(Some(Err(ended))) => {
                    usage.add(ended.size, false);
                    loaded.ended.push(ended);
                }
                Ok(None) => {}
                Err(error) => {
                    let corrupt = is_corrupt(&error);
                    database.failed(error);
                    if !corrupt {
                        self.schedule.put_back(id);
                        break;
                    }
                    // The event stays on disk, and the next event of its key continues.
                    self.schedule.skip(id);
                }
            }
        }
        self.mark_running(database, &mut loaded.jobs);
        loaded
    }

    /// Loads an event: its job, or its dead letter if it won't run. Returns `None` if the event waits for another poison
    /// candidate, or if another process deleted the event.
    fn load_event(
        &mut self,
        id: u64,
        database: &mut Database,
        clock: &Clock,
    ) -> rusqlite::Result<Option<Result<Job, Complete>>> {
        let Some(stored) = database.store.event(id)? else {
            database.needs_recount();
            self.schedule.skip(id);
            return Ok(None);
        };
        let (size, key, crashes) = (stored.body.len() as u64, stored.key.clone(), stored.crashes);
        let job = if crashes >= self.max_crashes {
            let cause = format!("the process ended {crashes} times while the event was running");
            Err((stored, cause))
        } else if crashes > 0 && !self.schedule.try_poison_candidate(id) {
            return Ok(None);
        } else {
            stored.into_job()
        };
        Ok(Some(job.map_err(|(stored, cause)| {
            let letter = stored.into_dead_letter(&cause, clock.system_time());
            Complete {
                number: id,
                key,
                size,
                step: Step::DeadLetter(Box::new(letter)),
            }
        })))
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
                self.schedule.seen_all();
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

    /// Marks recovered events as running. If that fails, puts all events back.
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
            jobs.for_each(|job| self.schedule.put_back(job.number));
        }
    }
}
