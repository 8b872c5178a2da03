//! The contract of inboxes: one test for each law, over every inbox.
//!
//! An [`InboxFactory`] opens the inbox under test. [`contract_tests`](crate::contract_tests) makes a test for
//! each law. All waits use the inbox's own runtime, and end after 30 s by the runtime's clock.

mod acceptance;
mod delivery;
mod events;
mod inbox_factory;
mod runs;

pub(crate) use self::acceptance::{
    an_accept_that_is_dropped_is_all_or_nothing, an_accept_that_was_never_polled_stores_nothing,
    copies_are_accepted_once, events_are_delivered_as_they_came,
    new_events_are_refused_after_a_drain, of_concurrent_copies_one_is_accepted,
};
pub(crate) use self::delivery::{
    a_dead_letter_can_be_replayed_and_deleted, a_handler_affects_only_its_own_route,
    a_permanent_failure_is_not_retried, a_route_that_reaches_its_own_timeout_fails_alone,
    a_stale_event_is_skipped_and_reaches_other_routes, attempts_end_after_the_maximum,
    each_route_has_its_own_number_of_attempts, only_routes_that_failed_run_again,
};
pub(crate) use self::events::{
    a_replay_of_one_route_runs_no_other_route, events_are_listed_newest_first_in_their_states,
    replays_keep_the_counts_balanced,
};
use self::inbox_factory::attempts;
pub(crate) use self::inbox_factory::{InboxFactory, Opened};

/// Makes a test for each law, with an attribute such as `#[tokio::test]`, for the inboxes of a factory.
#[macro_export]
macro_rules! contract_tests {
    (#[$($test:tt)*] $factory:ident) => {
        $crate::contract_tests! {
            [#[$($test)*]] $factory:
            events_are_delivered_as_they_came
            copies_are_accepted_once
            of_concurrent_copies_one_is_accepted
            an_accept_that_was_never_polled_stores_nothing
            an_accept_that_is_dropped_is_all_or_nothing
            new_events_are_refused_after_a_drain
            only_routes_that_failed_run_again
            attempts_end_after_the_maximum
            a_permanent_failure_is_not_retried
            a_handler_affects_only_its_own_route
            a_stale_event_is_skipped_and_reaches_other_routes
            each_route_has_its_own_number_of_attempts
            a_route_that_reaches_its_own_timeout_fails_alone
            a_dead_letter_can_be_replayed_and_deleted
            events_are_listed_newest_first_in_their_states
            a_replay_of_one_route_runs_no_other_route
            replays_keep_the_counts_balanced
        }
    };
    ($test:tt $factory:ident: $($law:ident)*) => {
        $($crate::contract_tests! { $test $factory = $law })*
    };
    ([#[$($test:tt)*]] $factory:ident = $law:ident) => {
        #[$($test)*]
        async fn $law() {
            $crate::support::contract::$law(&$factory).await;
        }
    };
}
