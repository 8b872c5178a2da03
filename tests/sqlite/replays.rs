//! Accepts, retries, replays, deletions, restarts and crashes in a random order, compared with a model.

use std::time::Duration;

use botisimo_webhooks::{EventState, Inbox, SqliteInbox};
use proptest::prelude::*;

use crate::support::replay_model::{Model, Rules, Step, step};
use crate::support::sqlite::{InboxFile, LONG};
use crate::support::{until, wait_idle};

async fn open(
    place: &InboxFile,
    model: &Model,
    limits: (u64, u64),
    in_memory: usize,
) -> SqliteInbox {
    let inbox = place
        .inbox()
        .delivery(model.delivery())
        .keep_handled(LONG)
        .max_events(limits.0)
        .max_bytes(limits.1)
        .max_events_in_memory(in_memory);
    inbox.open(model.router()).await.unwrap()
}

/// Copies the file, as it would be if the process were killed now.
fn copied(place: &InboxFile) -> InboxFile {
    let copy = InboxFile::new();
    let to = copy.path();
    place
        .look()
        .execute("VACUUM INTO ?1", [to.to_str()])
        .unwrap();
    // A crash in the process that recovered an event makes the event a poison candidate. The model has no such events.
    let connection = rusqlite::Connection::open(to).unwrap();
    connection
        .execute("UPDATE events SET running = 0", [])
        .unwrap();
    copy
}

async fn against_the_model(steps: &[Step], rules: Rules, limits: (u64, u64), in_memory: usize) {
    let (mut place, mut model) = (InboxFile::new(), Model::new(rules));
    let mut inbox = open(&place, &model, limits, in_memory).await;
    for step in steps {
        let in_flight = inbox.handle().stats().in_flight();
        match step {
            Step::Crash => {
                let (copy, killed) = (copied(&place), model.clone());
                model = killed.next_process();
                let next = open(&copy, &model, limits, in_memory).await;
                // The runs of the killed process end, and their results don't reach the copy.
                drop(std::mem::replace(&mut inbox, next));
                killed.finish();
                place.free().await;
                place = copy;
                assert_eq!(inbox.handle().stats().recovered, in_flight);
            }
            Step::Restart => {
                let drain = async { inbox.handle().drain(Duration::from_secs(10)).await };
                let (drained, ()) = tokio::join!(drain, async { model.finish() });
                assert_eq!(
                    inbox.handle().stats().running,
                    0,
                    "{:?}",
                    inbox.handle().stats()
                );
                drop(inbox);
                model = model.next_process();
                inbox = open(&place, &model, limits, in_memory).await;
                assert_eq!(inbox.handle().stats().recovered, drained.remaining);
            }
            // Events that aren't in memory are loaded by id. So a replayed event may run before a later event of its key, which
            // the model doesn't describe.
            Step::Replay(..) | Step::ReplayMatching(..) if in_flight > in_memory as u64 => {}
            step => model.apply(&inbox, step, limits).await,
        }
        let handle = inbox.handle();
        until(|| model.is_quiet(&handle.stats())).await;
        model.check(&handle).await;
    }
    model.finish();
    let handle = inbox.handle();
    while handle.stats().in_flight() > 0 {
        until(|| model.is_quiet(&handle.stats())).await;
        model.check(&handle).await;
        let dead = Step::DeleteMatching(EventState::Dead);
        model.apply(&inbox, &dead, limits).await;
    }
    wait_idle(&handle).await;
    model.check(&handle).await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    /// A replay runs each of its routes once an attempt, and no other route. Events of a key run one after another and in order,
    /// and a dead letter blocks its key. After a restart or a crash, the next process continues each event.
    #[test]
    fn replays_run_their_routes_once_and_keep_the_order_of_each_key_through_restarts_and_crashes(
        steps in prop::collection::vec(step(), 1..50),
        seed in any::<u32>(),
        blocks_keys in any::<bool>(),
        limits in prop::sample::select(vec![(10_000, 1 << 20), (6, 1 << 20), (10_000, 2_500)]),
        in_memory in prop::sample::select(vec![4_usize, 1_000]),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let rules = Rules { seed: u64::from(seed), blocks_keys };
        runtime.block_on(against_the_model(&steps, rules, limits, in_memory));
        runtime.shutdown_timeout(Duration::from_secs(1));
    }
}
