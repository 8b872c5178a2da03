//! Accepts, retries, replays and deletions in a random order, compared with a model.

use botisimo_webhooks::{Inbox, MemoryInbox};
use proptest::prelude::*;

use crate::support::replay_model::{Model, Rules, Step, step};
use crate::support::{run_ready_tasks, wait_idle};

async fn against_the_model(steps: &[Step], rules: Rules, limits: (u64, u64)) {
    let model = Model::new(rules);
    let inbox = MemoryInbox::builder()
        .delivery(model.delivery())
        .max_events(usize::try_from(limits.0).unwrap())
        .max_bytes(usize::try_from(limits.1).unwrap())
        .build(model.router());
    let handle = inbox.handle();
    for step in steps {
        model.apply(&inbox, step, limits).await;
        run_ready_tasks().await;
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        model.check(&handle).await;
    }
    model.finish();
    while handle.stats().in_flight() > 0 {
        run_ready_tasks().await;
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        model.check(&handle).await;
        let dead = Step::DeleteMatching(botisimo_webhooks::EventState::Dead);
        model.apply(&inbox, &dead, limits).await;
    }
    wait_idle(&handle).await;
    model.check(&handle).await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A replay runs each of its routes once per attempt, and no other route. Events of a key run one after another and in order,
    /// and a dead letter blocks its key.
    #[test]
    fn replays_run_their_routes_once_and_keep_the_order_of_each_key(
        steps in prop::collection::vec(step(), 1..60),
        seed in any::<u32>(),
        blocks_keys in any::<bool>(),
        limits in prop::sample::select(vec![(10_000, 1 << 20), (6, 1 << 20), (10_000, 2_500)]),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let rules = Rules { seed: u64::from(seed), blocks_keys };
        runtime.block_on(against_the_model(&steps, rules, limits));
    }
}
