//! What every inbox has to hold to, as tests: those of this crate do, and one of your own should.
//!
//! A [`Candidate`] says how the inbox is opened. [`all`] tries every law on inboxes of its own, one after
//! another, and panics at the first that is broken; each is a function too, for a test of its own.
//!
//! ```
//! use botisimo_webhooks::testing::contract::{self, Candidate, Opened, Terms};
//! use botisimo_webhooks::{EventRouter, MemoryInbox};
//!
//! struct Memory;
//!
//! impl Candidate for Memory {
//!     type Inbox = MemoryInbox;
//!
//!     async fn open(&self, router: EventRouter, terms: Terms) -> Opened<MemoryInbox> {
//!         let inbox = MemoryInbox::builder()
//!             .retry(terms.retry)
//!             .attempt_timeout(terms.attempt_timeout)
//!             .build(router);
//!         Opened::new(inbox)
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! contract::all(&Memory).await;
//! # }
//! ```
//!
//! All waiting is done by the inbox's [`Runtime`](crate::Runtime), for 30 s at the most by its clock.

mod acceptance;
mod candidate;
mod delivery;
mod runs;

pub use self::acceptance::{
    an_accept_that_is_dropped_is_all_or_nothing, an_accept_that_was_never_polled_takes_nothing,
    copies_are_taken_once, events_are_delivered_as_they_came, new_events_are_refused_after_a_drain,
    of_concurrent_copies_one_is_taken,
};
pub use self::candidate::{Candidate, Opened, Terms};
pub use self::delivery::{
    a_failure_for_good_is_not_tried_again, a_handler_hurts_no_other, attempts_end,
    only_routes_that_failed_run_again, what_is_given_up_can_be_replayed,
};

/// Tries every law.
///
/// # Panics
///
/// If one is broken. The message says what happened instead.
pub async fn all(candidate: &impl Candidate) {
    events_are_delivered_as_they_came(candidate).await;
    copies_are_taken_once(candidate).await;
    of_concurrent_copies_one_is_taken(candidate).await;
    an_accept_that_was_never_polled_takes_nothing(candidate).await;
    an_accept_that_is_dropped_is_all_or_nothing(candidate).await;
    new_events_are_refused_after_a_drain(candidate).await;
    only_routes_that_failed_run_again(candidate).await;
    attempts_end(candidate).await;
    a_failure_for_good_is_not_tried_again(candidate).await;
    a_handler_hurts_no_other(candidate).await;
    what_is_given_up_can_be_replayed(candidate).await;
}
