use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::{Either, select};

use super::Opened;
use botisimo_webhooks::testing::MockRequest;
use botisimo_webhooks::{Accepted, Event, Inbox};

/// The limit of every wait, by the clock of the inbox's runtime.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The runs of all routes, in the order of their starts.
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
        let mut runs = self.runs.lock().unwrap();
        runs.push(Run { route, event });
    }

    /// Returns a handler that records its run.
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
        let runs = self.runs.lock().unwrap();
        runs.clone()
    }

    /// Returns the numbers of the attempts in which a route ran.
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

/// Returns an event with this type and id.
pub(super) fn event(event_type: &str, id: &str) -> Event {
    MockRequest::event(event_type).message_id(id).to_event()
}

impl<I: Inbox> Opened<I> {
    /// Accepts an event that must be new.
    pub(super) async fn accept(&self, event: Event) {
        let answer = self.inbox.accept(event.clone()).await;
        assert_eq!(answer, Ok(Accepted::New), "{event:?} is new");
    }

    /// Waits until a condition holds, and then until the inbox is idle.
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
            "not idle within {TIMEOUT:?}, once {what}"
        );
        self.assert_balanced();
    }

    /// Asserts law 2.
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
