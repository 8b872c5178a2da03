//! Everything at once over several threads and runtimes: each accepted event runs, and ends once.
//!
//! `SOAK_SECONDS=60 cargo test --test soak` takes longer over it.
#![cfg(feature = "tokio")]
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::future::pending;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use botisimo_webhooks::testing::MockRequest;
use botisimo_webhooks::{
    Accepted, Event, EventRouter, Handle, HandlerError, HandlerResult, Inbox, MemoryInbox,
    RetryPolicy, Stats,
};
use futures_util::FutureExt;
use tokio::runtime::{Builder, Runtime};

/// Bounds what would hang for ever.
const BOUND: Duration = Duration::from_secs(20);

/// Law 2.
#[track_caller]
fn balanced(stats: &Stats) {
    let came = stats.accepted + stats.recovered + stats.replayed;
    let ended = stats.handled + stats.unhandled + stats.dead;
    assert_eq!(came, ended + stats.in_flight(), "{stats:?}");
}

/// Draws numbers; the same ones for the same seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        // Splitmix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}

/// What became of each id.
#[derive(Default)]
struct Fates(Mutex<HashMap<String, Fate>>);

#[derive(Clone, Copy, Debug, Default)]
struct Fate {
    /// Accepted as new.
    taken: u32,
    /// Runs of its handler.
    runs: u32,
    /// Final verdicts.
    ends: u32,
    /// Of these, without a run: the runtime dropped the event.
    dropped: u32,
}

impl Fates {
    fn note(&self, id: &str, note: impl FnOnce(&mut Fate)) {
        note(self.0.lock().unwrap().entry(id.to_owned()).or_default());
    }
}

/// Panics, and is not written about.
struct Purpose;

fn on_purpose() -> ! {
    std::panic::panic_any(Purpose)
}

struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            on_purpose();
        }
    }
}

/// A handler that does another bad thing with each event and attempt.
async fn misbehave(event: Event) -> HandlerResult {
    let mut hasher = std::hash::DefaultHasher::new();
    (event.id(), event.attempt()).hash(&mut hasher);
    match hasher.finish() % 10 {
        0 => Err(HandlerError::new("failed")),
        1 => on_purpose(),
        2 => {
            tokio::task::yield_now().await;
            on_purpose()
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
        .map_err(HandlerError::new)?,
        7 => Err(HandlerError::permanent("failed")),
        8 => {
            tokio::time::sleep(Duration::from_millis(1)).await;
            Ok(())
        }
        _ => Ok(()),
    }
}

fn inbox(dice: &mut Dice, fates: &Arc<Fates>) -> MemoryInbox {
    let (runs, ends) = (Arc::clone(fates), Arc::clone(fates));
    let router = EventRouter::new()
        .on_any(|event: Event| async move {
            if event.id().ends_with("77") {
                on_purpose()
            }
        })
        .on_prefix("a", move |event: Event| {
            runs.note(event.id(), |fate| fate.runs += 1);
            misbehave(event)
        });
    let retry = RetryPolicy::new()
        .max_attempts(1 + u32::try_from(dice.roll(4)).unwrap())
        .base(Duration::from_millis(1));
    let running = 1 + usize::try_from(dice.roll(8)).unwrap();
    MemoryInbox::builder()
        .max_running(running)
        .max_events(running + usize::try_from(dice.roll(40)).unwrap())
        .attempt_timeout(Duration::from_millis(5))
        .retry(retry)
        .on_delivery(move |delivery| {
            if delivery.verdict().is_some() {
                let dropped =
                    delivery.report().routes().iter().any(|route| {
                        matches!(route.outcome(), botisimo_webhooks::Outcome::Dropped)
                    });
                ends.note(delivery.event().id(), |fate| {
                    fate.ends += 1;
                    fate.dropped += u32::from(dropped);
                });
            }
            on_purpose();
        })
        .build(router)
}

/// Sends events to the inbox, some twice, some given up.
async fn send(inbox: MemoryInbox, fates: Arc<Fates>, mut dice: Dice, end: Instant) {
    while Instant::now() < end {
        for _ in 0..dice.roll(20) {
            let id = format!("{}", dice.roll(20_000));
            let accept = inbox.accept(MockRequest::event("a").message_id(&id).to_event());
            // Between the acceptance and this note its handler may run and end.
            match dice.roll(8) {
                0 => drop(accept),
                _ => {
                    if let Some(Ok(Accepted::New)) = accept.now_or_never() {
                        fates.note(&id, |fate| fate.taken += 1);
                    }
                }
            }
        }
        match dice.roll(3) {
            0 => tokio::time::sleep(Duration::from_micros(dice.roll(2000))).await,
            _ => tokio::task::yield_now().await,
        }
    }
}

fn runtime(threads: usize) -> Runtime {
    let mut builder = Builder::new_multi_thread();
    builder
        .worker_threads(threads)
        .enable_all()
        .build()
        .unwrap()
}

async fn settled(handle: &Handle) -> Stats {
    let settled = tokio::time::timeout(BOUND, handle.settled()).await;
    settled.unwrap_or_else(|_| panic!("it hangs: {:?}", handle.stats()));
    let stats = handle.stats();
    balanced(&stats);
    assert_eq!((stats.in_flight(), stats.bytes), (0, 0));
    stats
}

fn round(seed: u64, main: &Runtime) {
    let mut dice = Dice(seed);
    let fates = Arc::<Fates>::default();
    let inbox = inbox(&mut dice, &fates);
    let handle = inbox.handle();
    let end = Instant::now() + Duration::from_millis(100 + dice.roll(200));
    let senders = 1 + dice.roll(4);
    let send = |dice: &mut Dice| {
        let dice = Dice(dice.roll(u64::MAX));
        send(inbox.clone(), Arc::clone(&fates), dice, end)
    };
    let mut tasks: Vec<_> = (0..senders).map(|_| main.spawn(send(&mut dice))).collect();
    let (reader, done) = (handle.clone(), Arc::new(AtomicBool::new(false)));
    let stop = Arc::clone(&done);
    let reader = std::thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            balanced(&reader.stats());
            std::thread::yield_now();
        }
    });
    // Some end in the middle, with what they deliver.
    let leavers = dice.roll(3);
    for _ in 0..leavers {
        let leaver = runtime(2);
        leaver.spawn(send(&mut dice));
        std::thread::sleep(Duration::from_millis(dice.roll(60)));
        leaver.shutdown_timeout(BOUND);
    }
    let drains = dice.roll(3) == 0;
    if drains {
        let (handle, within) = (handle.clone(), Duration::from_millis(dice.roll(20)));
        tasks.push(main.spawn(async move {
            let _ = handle.drain(within).await;
        }));
    }
    let stats = main.block_on(async {
        for task in tasks {
            task.await.unwrap();
        }
        settled(&handle).await;
        if !drains {
            // No place among those in delivery was lost.
            for id in 0..20 {
                let id = format!("last {id}");
                let accept = inbox.accept(MockRequest::event("a").message_id(&id).to_event());
                assert_eq!(accept.await, Ok(Accepted::New), "seed {seed}");
                fates.note(&id, |fate| fate.taken += 1);
                settled(&handle).await;
            }
        }
        settled(&handle).await
    });
    done.store(true, Ordering::Relaxed);
    reader.join().unwrap();
    let fates = fates.0.lock().unwrap();
    for (id, fate) in fates.iter() {
        let Fate {
            taken,
            runs,
            ends,
            dropped,
        } = *fate;
        // A runtime that ends may end a sender between the acceptance and its note.
        let noted = taken == 1 || (leavers > 0 && taken == 0);
        let ran = runs >= 1 || (leavers > 0 && dropped == 1);
        assert!(noted && ends == 1 && ran, "seed {seed}, {id}: {fate:?}");
    }
    assert_eq!(stats.accepted, fates.len() as u64, "seed {seed}");
}

#[test]
fn every_event_that_is_taken_runs_and_ends_once_whatever_happens() {
    let written = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !panic.payload().is::<Purpose>() {
            written(panic);
        }
    }));
    let seconds = std::env::var("SOAK_SECONDS").map_or(2, |text| text.parse().unwrap());
    let end = Instant::now() + Duration::from_secs(seconds);
    let main = runtime(4);
    let mut rounds = 0;
    while Instant::now() < end {
        round(RandomState::new().hash_one(rounds), &main);
        rounds += 1;
    }
    println!("{rounds} rounds");
    assert!(rounds > 0);
}
