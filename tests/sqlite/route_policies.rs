//! `retry` and `max_attempts` of a route on disk: the delays and the attempts of each route survive a restart.

use proptest::prelude::*;

use crate::support::route_policies::{Model, Plan, Step, case};
use crate::support::sqlite::{InboxFile, LONG};

async fn check(plans: [Plan; 3], steps: &[Step]) {
    let (place, model) = (InboxFile::new(), Model::new(plans));
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
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn no_random_policies_or_restarts_make_a_route_run_early_or_more_often((plans, steps) in case()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(check(plans, &steps));
    }
}
