use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::{Either, select};

use super::Opened;
use crate::event::Event;
use crate::inbox::{Accepted, Inbox};
use crate::testing::MockRequest;

/// How long anything may take, by the clock of the inbox's runtime.
const TIMEOUT: Duration = Duration::from_secs(30);

/// What ran, in the order in which it began.
#[derive(Clone, Debug, Default)]
pub(super) struct Runs {
    runs: Arc<Mutex<Vec<Run>>>,
}

#[derive(Clone, Debug)]
pub(super) struct Run {
    pub(super) route: &'static str,
    pub(super) event: Event,
}

impl Runs {
    pub(super) fn add(&self, route: &'static str, event: &Event) {
        let event = event.clone();
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        runs.push(Run { route, event });
    }

    /// Returns a handler that does nothing but this.
    pub(super) fn noting(
        &self,
        route: &'static str,
    ) -> impl FnOnce(Event) -> std::future::Ready<()> + Clone + Send + Sync + 'static {
        let runs = self.clone();
        move |event| {
            runs.add(route, &event);
            std::future::ready(())
        }
    }

    pub(super) fn all(&self) -> Vec<Run> {
        let runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        runs.clone()
    }

    /// Returns the attempts at which a route ran.
    pub(super) fn attempts(&self, route: &str) -> Vec<u32> {
        let all = self.all().into_iter();
        all.filter(|run| run.route == route)
            .map(|run| run.event.attempt())
            .collect()
    }

    pub(super) fn count(&self, route: &str) -> usize {
        self.attempts(route).len()
    }
}

/// Returns the event of a type and an id.
pub(super) fn event(event_type: &str, id: &str) -> Event {
    MockRequest::event(event_type).message_id(id).to_event()
}

impl<I: Inbox> Opened<I> {
    /// Accepts an event that must be new.
    pub(super) async fn take(&self, event: Event) {
        let answer = self.inbox.accept(event.clone()).await;
        assert_eq!(answer, Ok(Accepted::New), "{event:?} is new");
    }

    /// Waits until a condition holds, and then until nothing is left that could change it.
    pub(super) async fn until(&self, what: &str, holds: impl Fn() -> bool + Send) {
        let runtime = self.inbox.runtime();
        let begun = runtime.now();
        while !holds() {
            let waited = runtime.now().saturating_duration_since(begun);
            assert!(waited < TIMEOUT, "not within {TIMEOUT:?}: {what}");
            runtime.sleep(Duration::from_millis(5)).await;
        }
        let over = runtime.sleep(TIMEOUT);
        let wait_idle = select((self.wait_idle)(), over).await;
        assert!(
            matches!(wait_idle, Either::Left(_)),
            "it settles within {TIMEOUT:?}, once {what}"
        );
        self.assert_balanced();
    }

    /// Law of the counts.
    pub(super) fn assert_balanced(&self) {
        let stats = self.inbox.handle().stats();
        let came = stats.accepted + stats.recovered + stats.replayed;
        let ended = stats.handled + stats.unhandled + stats.dead + stats.published;
        assert_eq!(
            came,
            ended + stats.in_flight(),
            "every event is counted once: {stats:?}"
        );
    }
}
