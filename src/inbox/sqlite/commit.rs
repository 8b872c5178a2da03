use std::time::{Duration, SystemTime};

use super::health::is_corrupt;
use super::letters::{Dropped, bury};
use super::mailbox::{Arrival, Return};
use super::store::Store;
use super::writer::{Bounds, STEP, Writer};
use crate::contain::{contain, discard};
use crate::delivery::{DeadLetter, Job, Next, Progress, Verdict};
use crate::inbox::{Accepted, Refused};
use crate::runtime::millis;
use crate::telemetry::{self, Origin};

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

impl Writer {
    /// Writes all that waits in one transaction, and then lets everyone know.
    pub(super) fn write(&mut self, arrivals: Vec<Arrival>) {
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
