//! Rounds with all faults together: handlers that panic, hang and fail, clients that disconnect, copies, a full
//! inbox, drains and restarts. Every accepted event ends, the counts always balance, and memory stays flat.
//!
//! `SOAK_SECONDS=1800 cargo test --release --test soak -- --nocapture` runs longer.
#![cfg(feature = "tokio")]
#![allow(clippy::unwrap_used)]

mod disk;
mod faults;
mod memory;
mod resident;
#[path = "../support/mod.rs"]
mod support;

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use faults::runtime;
use resident::Resident;

/// Runs rounds, each from its own seed, until the time is over.
fn soak(name: &str, mut round: impl FnMut(u64)) {
    let seconds = std::env::var("SOAK_SECONDS").map_or(2, |text| text.parse().unwrap());
    let end = Instant::now() + Duration::from_secs(seconds);
    let (mut rounds, mut resident) = (0_u64, Resident::default());
    while Instant::now() < end {
        round(RandomState::new().hash_one(rounds));
        resident.sample();
        rounds += 1;
    }
    println!("{name}: {rounds} rounds, {resident}");
    assert!(rounds > 0);
    resident.assert_flat();
}

#[test]
fn every_accepted_event_runs_and_ends_once_through_all_faults() {
    let main = runtime(4);
    soak("in memory", |seed| memory::round(seed, &main));
}

#[test]
fn every_event_answered_200_ends_through_drains_and_restarts() {
    let main = runtime(2);
    let mut soaked = disk::Soak::new();
    soak("on disk", |seed| soaked.round(seed, &main));
    println!("on disk: {soaked}");
}
