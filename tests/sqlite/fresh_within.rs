//! `fresh_within` on disk: the limit holds after a restart, and the file stores a skip.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use botisimo_webhooks::testing::MockRequest;
use botisimo_webhooks::{Event, EventFilter, EventRouter, Inbox, Runtime};
use proptest::prelude::*;

use crate::support::freshness::{Model, Step, steps};
use crate::support::runtime::ManualClock;
use crate::support::sqlite::{InboxFile, LONG};
use crate::support::{until, wait_idle};

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn a_retry_that_a_restart_delays_is_skipped_and_the_history_keeps_the_last_error() {
    let (place, clock) = (InboxFile::new(), ManualClock::new());
    let runs = Arc::new(AtomicU32::new(0));
    let router = || {
        let runs = Arc::clone(&runs);
        EventRouter::new()
            .on("a", move |_: Event| async move {
                runs.fetch_add(1, Ordering::Relaxed);
                Err::<(), _>("the chat is down")
            })
            .named("announce")
            .fresh_within(HOUR)
    };
    let builder = || {
        let builder = place.inbox().delivery(Model::delivery());
        builder.keep_handled(LONG * 1000)
    };
    let inbox = builder().open_with(clock.clone(), router()).await.unwrap();
    let now = clock.system_time().duration_since(SystemTime::UNIX_EPOCH);
    let event = MockRequest::event("a").member("timestamp", now.unwrap().as_millis() as u64);
    inbox.accept(event.to_event()).await.unwrap();
    let handle = inbox.handle();
    until(|| handle.stats().retrying == 1).await;
    drop((inbox, handle));
    drop(place.closed().await);

    clock.advance(2 * HOUR);
    let inbox = builder().open_with(clock.clone(), router()).await.unwrap();
    let stats = wait_idle(&inbox.handle()).await;
    assert_eq!((stats.recovered, stats.handled, stats.skipped), (1, 1, 1));
    assert_eq!(runs.load(Ordering::Relaxed), 1);
    let events = inbox.handle().events();
    let record = events.list(&EventFilter::new(), 9).await.unwrap().remove(0);
    assert_eq!(record.routes()[0].reason(), Some("skipped: stale"));
    let attempts = record.history().iter().flat_map(|each| each.routes());
    let reasons: Vec<_> = attempts.filter_map(|each| each.reason()).collect();
    assert_eq!(reasons, ["failed: the chat is down", "skipped: stale"]);
    let skips =
        "SELECT count(*) FROM handled WHERE history LIKE '%\"skipped\":\"skipped: stale\"%'";
    assert_eq!(place.count(skips), 1);
}

async fn check(steps: &[Step]) {
    let (place, model) = (InboxFile::new(), Model::new());
    let open = || async {
        let builder = place.inbox().delivery(Model::delivery());
        let builder = builder.keep_handled(LONG * 1000);
        builder
            .open_with(model.clock.clone(), model.router())
            .await
            .unwrap()
    };
    let inbox = open().await;
    let reopen = |inbox| async {
        drop(inbox);
        open().await
    };
    model.check(inbox, steps, reopen).await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn no_random_age_failure_clock_or_restart_makes_a_stale_event_run_or_be_lost(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(check(&steps));
    }
}
