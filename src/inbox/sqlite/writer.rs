use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use futures_channel::oneshot;

use super::file::Owned;
use super::health::{Health, failed};
use super::mailbox::{Arrival, Mail, Mailbox, Return};
use super::schedule::Schedule;
use super::store::Store;
use super::stored::StoredEvent;
use super::window::Shared;
use crate::contain::{contain, discard};
use crate::delivery::{
    DeadLetter, Duplicates, Fingerprints, Job, Next, OrderKey, Progress, Verdict,
};
use crate::inbox::{Accepted, Refused};
use crate::runtime::{Clock, millis};
use crate::telemetry::{self, Origin};

/// How many events are looked at in one go, and how often between two turns.
const LOOK: usize = 256;
const LOOKS: usize = 16;

/// How many old ids are forgotten in one transaction at least, and how many old letters.
const STEP: usize = 256;

/// How long the writer waits for mail: while something couldn't be written, and otherwise.
const IMPATIENT: Duration = Duration::from_secs(1);
const PATIENT: Duration = Duration::from_secs(60);

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

/// The inbox's other half, as its writer sees it.
pub(super) trait Office: Send + Sync {
    /// Puts workers to what is ready.
    fn staff(self: Arc<Self>);

    /// Tells the hooks of an event that was given up.
    fn died(&self, letter: &DeadLetter);

    /// Calls the writer after a time, unless what it returns is dropped.
    fn alarm(&self, after: Duration) -> oneshot::Sender<()>;
}

/// The thread that owns the database.
pub(super) struct Writer {
    pub(super) store: Store,
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) shared: Arc<Shared>,
    /// Gone once nobody has the inbox any more.
    pub(super) office: Weak<dyn Office>,
    pub(super) clock: Arc<Clock>,
    pub(super) bounds: Bounds,
    pub(super) holds: bool,
    pub(super) max_running: usize,
    pub(super) ids: Duplicates,
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
    ids_read: bool,
    /// Whether ids are forgotten before their window is over, because there are so many.
    forgetful: bool,
    /// The ids of events up to this one are deleted.
    forgotten: u64,
    /// What was handed back and couldn't be written yet.
    owed: Vec<Return>,
    /// When the writer is called next for an attempt that is due.
    alarm: Option<(u64, oneshot::Sender<()>)>,
    /// When old letters were looked for.
    pruned_at: u64,
    /// How many events went into the window whose acceptors see to it that there are workers.
    attended: usize,
}

/// What becomes of an arrival.
enum Decision {
    New,
    Copy,
    Refused(Refused),
}

/// What a transaction did to events that were handed back.
#[derive(Default)]
struct Written {
    letters: Vec<DeadLetter>,
    dropped: Dropped,
}

/// The letters that had to go for others.
#[derive(Default)]
pub(super) struct Dropped {
    count: u64,
    /// What they held back.
    passing: Vec<OrderKey>,
}

impl Writer {
    /// Delivers what earlier processes left, then takes what comes, until nobody has the inbox any
    /// more.
    pub(super) fn run(mut self) {
        // Before the ids, so that a large store doesn't keep its events waiting.
        self.fill();
        self.set_alarm();
        self.staff();
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

    fn turn(&mut self, mail: Mail) {
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
            let _ = contain(|| request(self));
        }
        self.wake_due();
        if !draining {
            self.fill();
        }
        self.prune(idle);
        if idle && !blocked && self.health.is_uneasy() {
            self.health.checkpoint(self.store.connection());
        }
        self.set_alarm();
        self.staff();
    }

    /// Puts workers to what is ready, unless those who wait for its acceptance do.
    fn staff(&mut self) {
        let attended = std::mem::take(&mut self.state.attended);
        if self.shared.lock().ready() > attended
            && let Some(office) = self.office.upgrade()
        {
            office.staff();
        }
    }

    fn read_ids(&mut self) {
        let (ids, fingerprints) = (&mut self.ids, &self.fingerprints);
        let read = self.store.remembered(|number, at, id| {
            ids.insert(fingerprints.of(id), number, at);
        });
        match read {
            Ok(()) => self.state.ids_read = true,
            Err(error) => {
                self.ids.clear();
                self.say(error);
            }
        }
    }

    /// Writes all that waits in one transaction, and then lets everyone know.
    fn write(&mut self, arrivals: Vec<Arrival>) {
        let decisions = self.decide(&arrivals);
        let admitted: Vec<&Arrival> = arrivals
            .iter()
            .zip(&decisions)
            .filter(|(_, decision)| matches!(decision, Decision::New))
            .map(|(arrival, _)| arrival)
            .collect();
        let first = self.store.totals().next_id;
        let committed = admitted.is_empty() || self.commit(&admitted);
        if !committed {
            let ids = admitted.iter().map(|arrival| arrival.id);
            ids.for_each(|id| self.ids.remove(id));
            // What ends makes room, and may have some left where arrivals haven't.
            self.commit(&[]);
        } else if admitted.is_empty() {
            self.commit(&[]);
        }
        let stuck = !self.state.owed.is_empty() || self.health.is_blocked();
        // Before those who are answered look for what they can put workers to.
        self.shared.change(|window| window.set_failing(stuck));
        self.answer(arrivals, decisions, committed, first);
    }

    /// Decides about each arrival, and remembers the ids of those that are to be written.
    fn decide(&mut self, arrivals: &[Arrival]) -> Vec<Decision> {
        if arrivals.is_empty() {
            return Vec::new();
        }
        let (now, draining) = (self.clock.now(), self.shared.lock().is_draining());
        let health = self.health.check(self.store.connection());
        if let Err(error) = &health {
            self.health.say(error, "the inbox takes nothing");
        }
        let usable = health.is_ok() && self.state.ids_read;
        let mut totals = self.store.totals();
        let mut decide = |arrival: &Arrival| {
            if self.ids.contains(arrival.id, now) {
                return Decision::Copy;
            }
            if draining {
                return Decision::Refused(Refused::draining());
            }
            if !usable {
                return Decision::Refused(Refused::unavailable());
            }
            let size = arrival.event.body().len() as u64;
            let (events, bytes) = (self.bounds.events, self.bounds.bytes);
            // One event is always taken: to refuse an event for ever would get the endpoint disabled.
            if totals.events > 0 && (totals.events >= events || totals.event_bytes + size > bytes) {
                return Decision::Refused(Refused::full());
            }
            let forgot = !self.ids.insert(arrival.id, totals.next_id, now);
            if forgot && !std::mem::replace(&mut self.state.forgetful, true) {
                telemetry::window_shortened();
            }
            totals.next_id += 1;
            totals.events += 1;
            totals.event_bytes += size;
            Decision::New
        };
        arrivals.iter().map(&mut decide).collect()
    }

    /// Writes what was handed back and what arrived, in one transaction; false if that fails.
    fn commit(&mut self, admitted: &[&Arrival]) -> bool {
        let owed = std::mem::take(&mut self.state.owed);
        let forgettable = self.ids.forgotten() > self.state.forgotten;
        if owed.is_empty() && admitted.is_empty() {
            return true;
        }
        let (now, bounds, holds) = (self.clock.now(), self.bounds, self.holds);
        let (remembers, up_to) = (self.remembers, self.ids.forgotten());
        let mut all_forgotten = false;
        let written = self.store.transaction(|store| {
            let written = write_returns(store, &owed, bounds, holds)?;
            let first = store.totals().next_id;
            let events = admitted.iter();
            store.insert(events.map(|arrival| (&arrival.event, arrival.key.as_ref())))?;
            if remembers {
                store.remember(
                    first,
                    now,
                    admitted.iter().map(|arrival| arrival.event.id()),
                )?;
            }
            if forgettable {
                all_forgotten = store.forget(up_to, STEP.max(2 * admitted.len()))?;
            }
            Ok(written)
        });
        match written {
            Ok(written) => {
                let size = |arrival: &&Arrival| arrival.event.body().len() as u64;
                let bytes = admitted.iter().map(size).sum();
                self.health.committed(bytes, self.store.connection());
                self.health.well(self.store.connection());
                if all_forgotten {
                    self.state.forgotten = up_to;
                }
                self.settle(&owed, &written);
                discard(owed);
                true
            }
            Err(error) => {
                self.state.owed = owed;
                if is_corrupt(&error) && admitted.is_empty() {
                    self.commit_each();
                }
                self.say(error);
                // A log that can't grow begins anew once all of it is in the database.
                self.health.checkpoint(self.store.connection());
                false
            }
        }
    }

    /// Writes what was handed back one by one. What touches a corrupt page is let go: it has run, and
    /// will run again with the next process, while those that wait run with this one.
    fn commit_each(&mut self) {
        let (bounds, holds) = (self.bounds, self.holds);
        for returned in std::mem::take(&mut self.state.owed) {
            let one = std::slice::from_ref(&returned);
            let written = self
                .store
                .transaction(|store| write_returns(store, one, bounds, holds));
            match written {
                Ok(written) => self.settle(one, &written),
                Err(error) if is_corrupt(&error) => self.settle(one, &Written::default()),
                Err(error) => {
                    self.say(error);
                    self.state.owed.push(returned);
                }
            }
        }
    }

    /// Counts out what has ended, and lets pass what it held back.
    fn settle(&mut self, owed: &[Return], written: &Written) {
        // Before they are counted, as with every hook; and whoever hears that they are dead finds
        // their letters counted.
        self.mourn(&written.letters);
        self.let_pass(&written.dropped);
        self.shared.change(|window| {
            for Return { job, next, .. } in owed {
                match next {
                    Next::End(verdict) => window.ended(job, *verdict),
                    Next::Retry(_) => window.rescheduled(job),
                }
            }
        });
        for returned in owed {
            let Return { job, next, .. } = returned;
            self.schedule.clear(job.number);
            match next {
                Next::Retry(_) => self.schedule.retry(job.number, returned.due_at()),
                Next::End(Verdict::Dead) if self.holds => {}
                Next::End(_) => self.schedule.release(job.key.as_ref()),
            }
        }
    }

    fn mourn(&self, letters: &[DeadLetter]) {
        if let Some(office) = self.office.upgrade() {
            letters.iter().for_each(|letter| office.died(letter));
        }
    }

    /// Counts letters that had to go, and lets pass what they held back.
    pub(super) fn let_pass(&mut self, dropped: &Dropped) {
        for key in &dropped.passing {
            self.schedule.release(Some(key));
        }
        let letters = self.store.totals().dead_letters;
        self.shared.change(|window| {
            window.stats.dead_letters = letters;
            window.stats.dead_letters_dropped += dropped.count;
        });
    }

    /// Tells those who wait what became of their events, and puts what may run into the window.
    fn answer(
        &mut self,
        arrivals: Vec<Arrival>,
        decisions: Vec<Decision>,
        committed: bool,
        first: u64,
    ) {
        let mut number = first;
        let mut answers = Vec::with_capacity(arrivals.len());
        // A span ends where it is dropped, which is code of the subscriber's: not under the lock.
        let mut origins = Vec::new();
        let now = self.clock.now();
        let (schedule, ids) = (&mut self.schedule, &mut self.ids);
        self.shared.change(|window| {
            let draining = window.is_draining();
            for (arrival, decision) in arrivals.into_iter().zip(decisions) {
                let mut pushed = false;
                let mut origin = Some(arrival.origin);
                let answer = match decision {
                    Decision::Refused(refused) => Err(refused),
                    // Of one that was taken before, or together with this one.
                    Decision::Copy if committed || ids.contains(arrival.id, now) => {
                        window.stats.duplicates += 1;
                        Ok(Accepted::Duplicate)
                    }
                    Decision::New if committed => {
                        let size = arrival.event.body().len();
                        window.stats.accepted += 1;
                        window.stored(size);
                        let room = window.has_room() && !draining;
                        pushed = schedule.arrived(number, arrival.key.clone(), room);
                        if pushed {
                            window.push(Job {
                                number,
                                event: arrival.event,
                                origin: origin.take().unwrap_or_else(Origin::none),
                                progress: Progress::new(),
                                key: arrival.key,
                            });
                        }
                        number += 1;
                        Ok(Accepted::New)
                    }
                    Decision::Copy | Decision::New => Err(Refused::unavailable()),
                };
                window.stats.refused += u64::from(answer.is_err());
                answers.push((arrival.answer, answer, pushed));
                origins.extend(origin);
            }
        });
        discard(origins);
        for (waiting, answer, pushed) in answers {
            // Who gave up needn't be told, and does nothing about it any more.
            let heard = contain(|| waiting.send(answer)).is_ok_and(|sent| sent.is_ok());
            self.state.attended += usize::from(pushed && heard);
        }
    }

    fn wake_due(&mut self) {
        let due = self.schedule.wake_due(self.clock.now());
        if due > 0 {
            self.shared
                .change(|window| (0..due).for_each(|_| window.due()));
        }
    }

    /// Loads what may run, as far as there is room.
    fn fill(&mut self) {
        if self.shared.lock().is_failing() {
            return;
        }
        let mut load = self.shared.lock().room();
        let mut loaded = Loaded::default();
        let mut looks = 0;
        loop {
            let Some(id) = self.schedule.peek() else {
                looks += 1;
                if looks > LOOKS {
                    // Others wait too.
                    self.mailbox.call();
                    break;
                }
                if self.look_further() {
                    continue;
                }
                break;
            };
            let recovered = id <= self.recovered;
            // Those are marked as running, so no more of them are loaded than can run.
            if !load.has_room() || (recovered && load.active >= self.max_running) {
                break;
            }
            self.schedule.pop();
            match self.store.event(id) {
                Ok(Some(stored)) => {
                    let size = stored.body.len();
                    let dead = loaded.dead.len();
                    let runs = self.sort(stored, recovered, &mut loaded);
                    if runs || loaded.dead.len() > dead {
                        load.took(size, runs);
                    }
                }
                // Somebody deleted it by hand.
                Ok(None) => self.shared.change(|window| window.died_waiting(0)),
                Err(error) => {
                    let corrupt = is_corrupt(&error);
                    self.say(error);
                    if !corrupt {
                        self.schedule.put_back(id);
                        break;
                    }
                    // It stays on disk and mustn't keep the others waiting.
                }
            }
        }
        self.start(loaded);
    }

    /// Looks at what comes next on disk; false if there is nothing.
    fn look_further(&mut self) -> bool {
        let Some(after) = self.schedule.unseen() else {
            return false;
        };
        let mut heads = Vec::new();
        let looked = self.store.heads(after, LOOK, &mut heads);
        let (now, all) = (self.clock.now(), heads.len() < LOOK);
        for head in heads {
            if self.schedule.see(head, now) {
                self.shared.change(super::window::Window::not_due);
            }
        }
        match looked {
            Ok(()) if all => self.schedule.seen_all(),
            Ok(()) => {}
            Err(error) => {
                let corrupt = is_corrupt(&error);
                self.say(error);
                if corrupt {
                    // What is on that page stays there and mustn't keep the others waiting.
                    self.schedule.pass_over();
                }
                return corrupt;
            }
        }
        true
    }

    /// Decides what becomes of a stored event. Returns whether it is to run.
    fn sort(&mut self, stored: StoredEvent, recovered: bool, loaded: &mut Loaded) -> bool {
        let (id, crashes) = (stored.id, stored.crashes);
        if crashes >= self.bounds.crashes {
            let cause = format!("the process ended {crashes} times while it ran");
            loaded.dead.push((stored, cause));
            return false;
        }
        if crashes > 0 && !self.schedule.try_suspect(id) {
            return false;
        }
        match stored.into_job() {
            Ok(job) => {
                if recovered {
                    loaded.marks.push(id);
                }
                loaded.jobs.push(job);
                true
            }
            Err((stored, error)) => {
                let cause = format!("this version can't decode it: {error}");
                loaded.dead.push((stored, cause));
                false
            }
        }
    }

    /// Writes what is to be known of what was loaded before it runs, and puts it into the window.
    fn start(&mut self, loaded: Loaded) {
        let Loaded { jobs, marks, dead } = loaded;
        let died_at = SystemTime::UNIX_EPOCH + Duration::from_millis(self.clock.now());
        let dead: Vec<_> = dead
            .into_iter()
            .map(|(stored, cause)| (stored.key.clone(), stored.into_letter(&cause, died_at)))
            .collect();
        if !marks.is_empty() || !dead.is_empty() {
            let (bounds, holds) = (self.bounds, self.holds);
            let written = self.store.transaction(|store| {
                for id in &marks {
                    store.mark(*id, true)?;
                }
                let mut dropped = Dropped::default();
                for (key, letter) in &dead {
                    bury(store, letter, key.as_ref(), bounds, holds, &mut dropped)?;
                }
                Ok(dropped)
            });
            match written {
                Ok(dropped) => {
                    self.health.well(self.store.connection());
                    self.let_pass(&dropped);
                }
                Err(error) => {
                    self.say(error);
                    let jobs = jobs.iter().map(|job| job.number);
                    let dead = dead.iter().map(|(_, letter)| letter.id());
                    for id in jobs.chain(dead).collect::<Vec<_>>().into_iter().rev() {
                        self.schedule.put_back(id);
                        self.schedule.unsuspect(id);
                    }
                    return;
                }
            }
        }
        for (key, letter) in dead {
            self.mourn(std::slice::from_ref(&letter));
            let size = letter.body().len();
            self.shared.change(|window| window.died_waiting(size));
            self.schedule.clear(letter.id());
            if !self.holds {
                self.schedule.release(key.as_ref());
            }
            // What it let pass is loaded in the next turn.
            self.mailbox.call();
        }
        if !jobs.is_empty() {
            // Nobody but the writer sees to workers for these.
            self.state.attended = 0;
        }
        self.shared
            .change(|window| jobs.into_iter().for_each(|job| window.push(job)));
    }

    /// Leaves on disk what hasn't been started.
    fn unload(&mut self) {
        let left = self.shared.change(super::window::Window::unload);
        let ids = left.iter().map(|job| job.number);
        let marked: Vec<_> = ids.filter(|id| *id <= self.recovered).collect();
        discard(left);
        if marked.is_empty() {
            return;
        }
        let unmarked = self.store.transaction(|store| {
            let mut ids = marked.iter();
            ids.try_for_each(|id| store.mark(*id, false))
        });
        if let Err(error) = unmarked {
            self.say(error);
        }
    }

    /// Deletes what has grown too old, in small steps.
    fn prune(&mut self, idle: bool) {
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

    /// Deletes up to `limit` letters whose event was given up before a time, and returns how many.
    pub(super) fn delete_before(&mut self, before: u64, limit: usize) -> rusqlite::Result<usize> {
        let old = self.store.letters_before(before, limit)?;
        self.delete_letters(&old)
    }

    /// Deletes letters, and returns how many there were.
    pub(super) fn delete_letters(&mut self, letters: &[u64]) -> rusqlite::Result<usize> {
        if letters.is_empty() {
            return Ok(0);
        }
        let exhumed = self.store.transaction(|store| {
            let exhumed = letters.iter().map(|id| store.exhume(*id));
            exhumed.collect::<rusqlite::Result<Vec<_>>>()
        })?;
        let exhumed: Vec<_> = exhumed.into_iter().flatten().collect();
        let deleted = exhumed.len();
        self.let_pass(&Dropped {
            count: 0,
            passing: exhumed.into_iter().filter_map(|one| one.held).collect(),
        });
        Ok(deleted)
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

fn is_corrupt(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseCorrupt)
}

/// What was loaded and isn't in the window yet.
#[derive(Default)]
struct Loaded {
    jobs: Vec<Job>,
    /// Those of them that an earlier process left.
    marks: Vec<u64>,
    /// What won't run, and why.
    dead: Vec<(StoredEvent, String)>,
}

impl Return {
    fn due_at(&self) -> u64 {
        match self.next {
            Next::Retry(delay) => self.at.saturating_add(millis(delay)),
            Next::End(_) => self.at,
        }
    }
}

fn write_returns(
    store: &mut Store,
    owed: &[Return],
    bounds: Bounds,
    holds: bool,
) -> rusqlite::Result<Written> {
    let mut written = Written::default();
    let mut done = Vec::with_capacity(owed.len());
    for returned in owed {
        let Return { job, next, at } = returned;
        match next {
            Next::Retry(_) => {
                let (attempt, ends) = (job.progress.attempts(), job.progress.ends());
                store.reschedule(job.number, attempt, returned.due_at(), ends)?;
            }
            Next::End(Verdict::Handled | Verdict::Unhandled) => {
                done.push((job.number, job.size()));
            }
            Next::End(Verdict::Dead) => {
                let died_at = SystemTime::UNIX_EPOCH + Duration::from_millis(*at);
                let letter = DeadLetter::new(job.number, job.event.clone(), &job.progress, died_at);
                let key = job.key.as_ref();
                bury(store, &letter, key, bounds, holds, &mut written.dropped)?;
                written.letters.push(letter);
            }
        }
    }
    store.delete_all(&mut done)?;
    Ok(written)
}

/// Keeps a letter, and drops the oldest ones for which there is no room then.
fn bury(
    store: &mut Store,
    letter: &DeadLetter,
    key: Option<&OrderKey>,
    bounds: Bounds,
    holds: bool,
    dropped: &mut Dropped,
) -> rusqlite::Result<()> {
    store.bury(letter, key, holds && key.is_some())?;
    loop {
        let totals = store.totals();
        let over =
            totals.dead_letters > bounds.letters || totals.dead_letter_bytes > bounds.letter_bytes;
        let Some(oldest) = (if over { store.oldest_letter()? } else { None }) else {
            return Ok(());
        };
        if let Some(exhumed) = store.exhume(oldest)? {
            dropped.count += 1;
            dropped.passing.extend(exhumed.held);
        }
    }
}
