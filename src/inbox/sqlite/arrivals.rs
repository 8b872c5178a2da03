use super::mailbox::Arrival;
use super::writer::Writer;
use crate::catch_panic::{catch_panic, discard};
use crate::delivery::{Job, Progress};
use crate::inbox::{AcceptError, Accepted};
use crate::telemetry::{self, ParentSpan};

/// What becomes of an arrival.
pub(super) enum Decision {
    New,
    Copy,
    Refused(AcceptError),
}

impl Writer {
    /// Decides about each arrival, and remembers the ids of those that are to be written.
    pub(super) fn decide(&mut self, arrivals: &[Arrival]) -> Vec<Decision> {
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
                return Decision::Refused(AcceptError::draining());
            }
            if !usable {
                return Decision::Refused(AcceptError::unavailable());
            }
            let size = arrival.event.body().len() as u64;
            if self.bounds.are_reached(totals, size) {
                return Decision::Refused(AcceptError::full());
            }
            let forgot = !self.ids.insert(arrival.id, totals.next_id, now);
            if forgot && !std::mem::replace(&mut self.state.forgetful, true) {
                telemetry::ids_forgotten_early();
            }
            totals.next_id += 1;
            totals.events += 1;
            totals.event_bytes += size;
            Decision::New
        };
        arrivals.iter().map(&mut decide).collect()
    }

    /// Tells those who wait what became of their events, and puts what may run into the window.
    pub(super) fn answer(
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
                let mut parent_span = Some(arrival.parent_span);
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
                            window.push(Box::new(Job {
                                number,
                                event: arrival.event,
                                parent_span: parent_span.take().unwrap_or_else(ParentSpan::none),
                                progress: Progress::new(),
                                key: arrival.key,
                            }));
                        }
                        number += 1;
                        Ok(Accepted::New)
                    }
                    Decision::Copy | Decision::New => Err(AcceptError::unavailable()),
                };
                window.stats.refused += u64::from(answer.is_err());
                answers.push((arrival.answer, answer, pushed));
                origins.extend(parent_span);
            }
        });
        discard(origins);
        for (waiting, answer, pushed) in answers {
            // Who gave up needn't be told, and does nothing about it any more.
            let heard = catch_panic(|| waiting.send(answer)).is_ok_and(|sent| sent.is_ok());
            self.state.attended += usize::from(pushed && heard);
        }
    }
}
