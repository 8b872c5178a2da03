use std::sync::Arc;

use super::inner::MemoryInner;
use crate::delivery::{Admission, Job, Progress, spawn};
use crate::event::Event;
use crate::inbox::{AcceptError, AcceptErrorKind, Accepted, Monitor};
use crate::telemetry::{self, Counted};

impl MemoryInner {
    /// Accepts or refuses an event, and counts it.
    pub(super) fn accept(self: &Arc<Self>, event: Event) -> Result<Accepted, AcceptError> {
        let metrics = &self.executor.metrics;
        let label = metrics.label(event.event_type());
        let answer = self.push(event);
        let counted = match &answer {
            Ok(Accepted::New) => Counted::Accepted,
            Ok(Accepted::Duplicate) => Counted::Duplicate,
            Err(_) => Counted::Refused,
        };
        metrics.event(label, counted);
        answer
    }

    /// Puts an event into the queue, or refuses it.
    fn push(self: &Arc<Self>, event: Event) -> Result<Accepted, AcceptError> {
        // User code and the subscriber run before the lock is taken.
        let key = self.executor.settings.order.key(&event);
        let parent_span = self.executor.parent_span(&event);
        let (id, now) = (self.fingerprints.of(event.id()), self.clock.now());

        let mut queue = self.queue();
        let (number, forgot_early) = match queue.admit(event.body().len(), id, now)? {
            Admission::Duplicate => return Ok(Accepted::Duplicate),
            Admission::New {
                number,
                forgot_early,
            } => (number, forgot_early),
        };
        let job = Box::new(Job {
            number,
            event,
            parent_span,
            progress: Progress::new(),
            key,
        });
        let slot = queue.push(job, id);
        drop(queue);

        // Without a slot, a running worker takes the job.
        if let Some(slot) = slot
            && !(spawn(self) && self.queue().confirm(id, slot))
        {
            // The runtime dropped the worker. Later jobs may rely on the worker, so `change_and_spawn` spawns others.
            let withdrawn = self.change_and_spawn(|queue| queue.withdraw(id, number));
            if withdrawn.is_some() {
                return Err(AcceptError::new(AcceptErrorKind::Unavailable));
            }
        }
        Monitor::wake(self);
        if forgot_early {
            telemetry::ids_forgotten_early();
        }
        Ok(Accepted::New)
    }
}
