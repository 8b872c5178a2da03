use super::faults::is_corrupt;
use super::graveyard::{Dropped, bury};
use super::store::Store;
use super::stored::{StoredEvent, time};
use super::window::Window;
use super::writer::Writer;
use crate::catch_panic::discard;
use crate::delivery::Job;

/// How many events are looked at in one go, and how often between two turns.
const LOOK: usize = 256;
const LOOKS: usize = 16;

/// What was loaded and isn't in the window yet.
#[derive(Default)]
struct Loaded {
    jobs: Vec<Job>,
    /// Those of them that an earlier process left.
    marks: Vec<u64>,
    /// What won't run, and why.
    dead: Vec<(StoredEvent, String)>,
}

impl Writer {
    /// Loads what may run, as far as there is room.
    pub(super) fn fill(&mut self) {
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
            if !load.has_room() || (recovered && load.active >= self.concurrency) {
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
                Ok(None) => {
                    self.shared.change(|window| window.died_waiting(0));
                    self.schedule.pass_by(None);
                }
                Err(error) => {
                    let corrupt = is_corrupt(&error);
                    self.say(error);
                    if !corrupt {
                        self.schedule.put_back(id);
                        break;
                    }
                    // It stays on disk and mustn't keep the others waiting.
                    let key = self.store.key(id).unwrap_or_default();
                    self.schedule.pass_by(key.as_ref());
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
                self.shared.change(Window::not_due);
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
        let dead_lettered_at = time(self.clock.now());
        let dead: Vec<_> = dead
            .into_iter()
            .map(|(stored, cause)| {
                (
                    stored.key.clone(),
                    stored.into_letter(&cause, dead_lettered_at),
                )
            })
            .collect();
        if !marks.is_empty() || !dead.is_empty() {
            let (bounds, holds) = (self.bounds, self.holds);
            let written = self.store.transaction(|store| {
                for id in &marks {
                    store.mark(*id)?;
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
            .change(|window| jobs.into_iter().for_each(|job| window.push(Box::new(job))));
    }

    /// Leaves on disk what hasn't been started. From now on the process ends on purpose: what still
    /// runs then hasn't crashed it.
    pub(super) fn unload(&mut self) {
        discard(self.shared.change(Window::unload));
        if self.state.unmarked {
            return;
        }
        match self.store.transaction(Store::unmark_all) {
            Ok(()) => self.state.unmarked = true,
            Err(error) => self.say(error),
        }
    }
}
