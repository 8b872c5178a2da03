use super::arrivals::Decision;
use super::faults::is_corrupt;
use super::graveyard::{Dropped, bury};
use super::mailbox::{Arrival, Return};
use super::store::Store;
use super::stored::time;
use super::writer::{Bounds, STEP, Writer};
use crate::catch_panic::discard;
use crate::delivery::{DeadLetter, EventOutcome, Next};
use crate::runtime::millis;

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
        self.count_written();
        let stuck = !self.state.owed.is_empty() || self.health.is_blocked();
        // Before those who are answered look for what they can put workers to.
        self.shared.change(|window| window.set_failing(stuck));
        self.answer(arrivals, decisions, committed, first);
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
                Err(error) if is_corrupt(&error) => {
                    // There is no letter that could hold its key. Else it is released as ever.
                    let unheld = holds && matches!(returned.next, Next::End(EventOutcome::Dead));
                    let dropped = Dropped {
                        count: 0,
                        passing: returned
                            .job
                            .key
                            .clone()
                            .filter(|_| unheld)
                            .into_iter()
                            .collect(),
                    };
                    let letters = Vec::new();
                    self.settle(one, &Written { letters, dropped });
                }
                Err(error) => {
                    self.say(error);
                    self.state.owed.push(returned);
                    continue;
                }
            }
            discard([returned]);
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
                    Next::End(event_outcome) => window.ended(job, *event_outcome),
                    Next::Retry(_) => window.rescheduled(job),
                }
            }
        });
        for returned in owed {
            let Return { job, next, .. } = returned;
            self.schedule.clear(job.number);
            match next {
                Next::Retry(_) => self.schedule.retry(job.number, returned.due_at()),
                Next::End(EventOutcome::Dead) if self.holds => {}
                Next::End(_) => self.schedule.release(job.key.as_ref()),
            }
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
                store.reschedule(job.number, &job.progress, returned.due_at())?;
            }
            Next::End(EventOutcome::Handled | EventOutcome::Unhandled) => {
                done.push((job.number, job.size()));
            }
            Next::End(EventOutcome::Dead) => {
                let dead_lettered_at = time(*at);
                let letter = DeadLetter::new(
                    job.number,
                    job.event.clone(),
                    &job.progress,
                    dead_lettered_at,
                );
                let key = job.key.as_ref();
                bury(store, &letter, key, bounds, holds, &mut written.dropped)?;
                written.letters.push(letter);
            }
        }
    }
    store.delete_all(&mut done)?;
    Ok(written)
}
