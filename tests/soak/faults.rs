//! Random numbers, and handlers that misbehave, for the rounds.

use std::future::pending;
use std::hash::{Hash, Hasher};
use std::time::Duration;

use crate::support::panics::panic_on_purpose;
use botisimo_webhooks::{Event, HandlerError, HandlerResult};
use tokio::runtime::{Builder, Runtime};

/// The time limit of a test that might hang.
pub(crate) const BOUND: Duration = Duration::from_secs(20);

/// Draws numbers. The same seed draws the same numbers.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        // Splitmix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}

struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic_on_purpose();
        }
    }
}

/// A handler that fails, panics, hangs or succeeds, by event and attempt.
pub(crate) async fn misbehave(event: Event) -> HandlerResult {
    let mut hasher = std::hash::DefaultHasher::new();
    (event.id(), event.attempt()).hash(&mut hasher);
    match hasher.finish() % 10 {
        0 => Err(HandlerError::from("failed")),
        1 => panic_on_purpose(),
        2 => {
            tokio::task::yield_now().await;
            panic_on_purpose()
        }
        3 => pending().await,
        4 => {
            let _bomb = Bomb;
            pending().await
        }
        5 => {
            drop(Bomb);
            Ok(())
        }
        6 => tokio::spawn(async {
            tokio::task::yield_now().await;
            Ok(())
        })
        .await
        .map_err(HandlerError::from)?,
        7 => Err(HandlerError::permanent("failed")),
        8 => {
            tokio::time::sleep(Duration::from_millis(1)).await;
            Ok(())
        }
        _ => Ok(()),
    }
}

pub(crate) fn runtime(threads: usize) -> Runtime {
    let mut builder = Builder::new_multi_thread();
    builder
        .worker_threads(threads)
        .enable_all()
        .build()
        .unwrap()
}
