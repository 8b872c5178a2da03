use std::sync::Arc;
use std::time::SystemTime;

use tower_service::Service;

use super::{Delivery, Job, Next, Settings, Verdict, attempt};
use crate::contain::contain;
use crate::error::BoxError;
use crate::event::Event;
use crate::outcome::{End, Ledger, Outcome, Report};
use crate::runtime::Runtime;
use crate::sync::Mutex;
use crate::telemetry;

/// What an inbox delivers to. A name for the bounds, which the public functions write out.
pub(crate) trait EventService:
    Service<Event, Response = Report, Error: Into<BoxError>, Future: Send> + Clone + Send + 'static
{
}

impl<S> EventService for S where
    S: Service<Event, Response = Report, Error: Into<BoxError>, Future: Send>
        + Clone
        + Send
        + 'static
{
}

/// What it takes to deliver an event.
pub(crate) struct Deliverer<S> {
    /// Locked to be cloned: a service needn't be `Sync`.
    service: Mutex<S>,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) settings: Settings,
}

impl<S> Deliverer<S> {
    pub(crate) fn new(service: S, runtime: Arc<dyn Runtime>, settings: Settings) -> Self {
        Self {
            service: Mutex::new(service),
            runtime,
            settings,
        }
    }

    /// Takes in that an attempt ended as `report` says: returns what follows, once the log and the
    /// hooks know it.
    pub(crate) fn conclude(&self, job: &mut Job, ledger: &Arc<Ledger>, report: Report) -> Next {
        let policy = &self.settings.retry;
        let next = job.progress.advance(&report, policy, job.event.id());
        self.tell(job, ledger, report, next);
        next
    }

    /// Takes in that the runtime dropped an attempt, after which there is none.
    pub(crate) fn give_up(&self, job: &mut Job, ledger: &Arc<Ledger>) -> Next {
        // What had finished counts; for the rest there is no later.
        let report = ledger.close(&End::Lost(Outcome::Dropped));
        let next = Next::End(job.progress.give_up(&report));
        self.tell(job, ledger, report, next);
        next
    }

    /// Takes in that the runtime dropped the wait for the next attempt.
    pub(crate) fn abandon(&self, job: &mut Job) {
        let ledger = job.progress.ledger();
        let report = job.progress.abandon();
        self.tell(job, &ledger, report, Next::End(Verdict::Dead));
    }

    /// Returns the time of day, also where the runtime can't.
    pub(crate) fn time_of_day(&self) -> SystemTime {
        contain(|| self.runtime.wall()).unwrap_or_else(|_| SystemTime::now())
    }

    /// Tells the log and the hooks of an attempt that ended. Nothing of theirs can keep the attempt
    /// from being counted.
    fn tell(&self, job: &Job, ledger: &Arc<Ledger>, report: Report, next: Next) {
        let event = job.event.clone().with_ledger(Arc::clone(ledger));
        let delivery = Delivery::new(event, report, next);
        let (event, report) = (delivery.event(), delivery.report());
        telemetry::delivered(event, report, delivery.retry_in(), self.settings.log_errors);
        self.settings.on_delivery.tell(&delivery);
    }
}

impl<S: EventService> Deliverer<S> {
    /// Makes one attempt.
    pub(crate) async fn attempt(&self, event: Event, ledger: &Arc<Ledger>) -> Report {
        let timeout = self.settings.attempt_timeout;
        attempt(&self.service, event, ledger, &*self.runtime, timeout).await
    }
}
