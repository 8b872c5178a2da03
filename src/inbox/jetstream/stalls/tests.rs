//! Tests the times of stalls while the system clock jumps.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use proptest::prelude::*;

use super::{Operation, Stalls, WARN_EVERY};
use crate::inbox::{Findings, Health, HealthLimits};
use crate::runtime::{BoxFuture, Runtime};

/// A runtime whose clocks are set by the test.
struct Clocks(Mutex<(Instant, SystemTime)>);

impl Clocks {
    fn advance(&self, by: Duration) {
        let mut clocks = self.0.lock().expect("no panic");
        clocks.0 += by;
        clocks.1 += by;
    }

    fn set_time_of_day(&self, time: SystemTime) {
        self.0.lock().expect("no panic").1 = time;
    }
}

impl Runtime for Clocks {
    fn spawn(&self, _: BoxFuture<()>) {
        unreachable!("stalls spawn nothing");
    }

    fn sleep(&self, _: Duration) -> BoxFuture<()> {
        unreachable!("stalls wait for nothing");
    }

    fn now(&self) -> Instant {
        self.0.lock().expect("no panic").0
    }

    fn system_time(&self) -> SystemTime {
        self.0.lock().expect("no panic").1
    }
}

fn health(clocks: &Clocks, stalls: &Stalls) -> Health {
    let limits = HealthLimits::new();
    let mut findings = Findings::new(clocks.now(), clocks.system_time(), limits);
    stalls.find(&mut findings);
    findings.into_health()
}

fn day(days: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(days * 24 * 60 * 60)
}

proptest! {
    /// Each step sets the system clock and lets some seconds pass.
    #[test]
    fn steps_of_the_clock_change_neither_the_length_of_a_stall_nor_its_warnings(
        steps in prop::collection::vec((0_u64..40_000, 0_u64..50), 1..60),
    ) {
        let clocks = Arc::new(Clocks(Mutex::new((Instant::now(), day(20_000)))));
        let stalls = Stalls::new(Arc::clone(&clocks) as Arc<dyn Runtime>);
        let route = Arc::from("route");
        let raise = || stalls.raise(Some(&route), Operation::Pull, "denied".to_owned());
        prop_assert!(raise());
        let (mut lasted, mut since_warning) = (Duration::ZERO, Duration::ZERO);
        for (days, seconds) in steps {
            clocks.set_time_of_day(day(days));
            let passed = Duration::from_secs(seconds);
            clocks.advance(passed);
            lasted += passed;
            since_warning += passed;
            let is_due = since_warning >= WARN_EVERY;
            prop_assert_eq!(raise(), is_due);
            if is_due {
                since_warning = Duration::ZERO;
            }
            let health = health(&clocks, &stalls);
            let [problem] = health.problems() else {
                panic!("{health}");
            };
            let since = clocks.system_time().checked_sub(lasted).unwrap_or(clocks.system_time());
            prop_assert_eq!(problem.since(), since);
        }
        stalls.clear(Some(&route), Operation::Pull);
        prop_assert!(health(&clocks, &stalls).is_ok());
    }
}

#[test]
fn a_stall_that_comes_back_at_once_is_announced_once_a_minute() {
    let clocks = Arc::new(Clocks(Mutex::new((Instant::now(), day(20_000)))));
    let stalls = Stalls::new(Arc::clone(&clocks) as Arc<dyn Runtime>);
    let raise = |cause: &str| stalls.raise(None, Operation::Publish, cause.to_owned());
    let mut announced = 0;
    for _ in 0..100 {
        announced += u32::from(raise("full"));
        stalls.clear(None, Operation::Publish);
        clocks.advance(Duration::from_secs(1));
    }
    assert_eq!(announced, 2);
    assert!(raise("missing"), "another cause is announced");
    stalls.clear(None, Operation::Publish);
    clocks.advance(Duration::from_secs(10));
    assert!(raise("missing"), "a later stall is announced");
}
