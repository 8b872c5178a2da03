//! Each round has a new inbox in memory, which several threads and runtimes use. Each accepted event runs and
//! ends once.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use botisimo_webhooks::testing::MockRequest;
use botisimo_webhooks::{
    Accepted, DeliverySettings, Event, EventRouter, Inbox, MemoryInbox, RetryPolicy,
};
use futures_util::FutureExt;
use tokio::runtime::Runtime;

use crate::faults::{BOUND, Dice, misbehave, runtime};
use crate::support::panics::panic_on_purpose;
use crate::support::{balanced, wait_idle};

/// The answers and the outcomes of each id.
#[derive(Default)]
struct Fates(Mutex<HashMap<String, Fate>>);

#[derive(Clone, Copy, Debug, Default)]
struct Fate {
    /// How many times the inbox accepted the event as new.
    taken: u32,
    /// The number of runs of the handler.
    runs: u32,
    /// The number of final outcomes.
    ends: u32,
    /// The number of final outcomes without a run, because the runtime dropped the event.
    dropped: u32,
}

impl Fates {
    fn note(&self, id: &str, note: impl FnOnce(&mut Fate)) {
        note(self.0.lock().unwrap().entry(id.to_owned()).or_default());
    }
}

fn inbox(dice: &mut Dice, fates: &Arc<Fates>) -> MemoryInbox {
    let (runs, ends) = (Arc::clone(fates), Arc::clone(fates));
    let router = EventRouter::new()
        .on_any(|event: Event| async move {
            if event.id().ends_with("77") {
                panic_on_purpose()
            }
        })
        .on_prefix("a", move |event: Event| {
            runs.note(event.id(), |fate| fate.runs += 1);
            misbehave(event)
        });
    let retry = RetryPolicy::new()
        .max_attempts(1 + u32::try_from(dice.roll(4)).unwrap())
        .initial_delay(Duration::from_millis(1));
    let running = 1 + usize::try_from(dice.roll(8)).unwrap();
    MemoryInbox::builder()
        .delivery(
            DeliverySettings::new()
                .concurrency(running)
                .attempt_timeout(Duration::from_millis(5))
                .retry(retry)
                .on_attempt(move |delivery| {
                    if delivery.event_outcome().is_some() {
                        let dropped = delivery.report().iter().any(|(_, outcome)| {
                            matches!(outcome, botisimo_webhooks::Outcome::Dropped)
                        });
                        ends.note(delivery.event().id(), |fate| {
                            fate.ends += 1;
                            fate.dropped += u32::from(dropped);
                        });
                    }
                    panic_on_purpose();
                }),
        )
        .max_events(running + usize::try_from(dice.roll(40)).unwrap())
        .build(router)
}

/// Sends events to the inbox. Sends some events twice, and disconnects before the answers to some events arrive.
async fn send(inbox: MemoryInbox, fates: Arc<Fates>, mut dice: Dice, end: Instant) {
    while Instant::now() < end {
        for _ in 0..dice.roll(20) {
            let id = format!("{}", dice.roll(20_000));
            let accept = inbox.accept(MockRequest::event("a").message_id(&id).to_event());
            // The handler may run and end before the sender records the answer.
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

pub(crate) fn round(seed: u64, main: &Runtime) {
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
    // Some runtimes shut down while they deliver events.
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
        wait_idle(&handle).await;
        if !drains {
            // Every worker slot is free again.
            for id in 0..20 {
                let id = format!("last {id}");
                let accept = inbox.accept(MockRequest::event("a").message_id(&id).to_event());
                assert_eq!(accept.await, Ok(Accepted::New), "seed {seed}");
                fates.note(&id, |fate| fate.taken += 1);
                wait_idle(&handle).await;
            }
        }
        wait_idle(&handle).await
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
        // If a runtime drops a sender, the sender may have no record of its last answer.
        let noted = taken == 1 || (leavers > 0 && taken == 0);
        let ran = runs >= 1 || (leavers > 0 && dropped == 1);
        assert!(noted && ends == 1 && ran, "seed {seed}, {id}: {fate:?}");
    }
    assert_eq!(stats.accepted, fates.len() as u64, "seed {seed}");
}
