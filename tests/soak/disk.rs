//! An inbox on disk behind a receiver. Each round drains, closes and opens the inbox.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use botisimo_webhooks::testing::MockRequest;
use botisimo_webhooks::{
    DeliverySettings, Event, EventRouter, Handle, Inbox, RetryPolicy, SqliteInbox,
    SqliteInboxBuilder, WebhookLayer,
};
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::Full;
use tokio::runtime::Runtime;
use tower::{Layer, ServiceExt, service_fn};

use crate::faults::{BOUND, Dice, misbehave, runtime};
use crate::support::malformed::Malformed;
use crate::support::panics::panic_on_purpose;
use crate::support::sqlite::{InboxFile, delivery};
use crate::support::{balanced, wait_idle};

const PATH: &str = "/webhooks/botisimo";

/// The number of rounds after which all accepted events must have ended.
const ROUNDS: u64 = 4;

/// The answers and the outcomes of each id since the inbox was last idle.
#[derive(Default)]
struct Seen {
    /// Whether the event was answered with 200, and how many times it ended.
    ids: HashMap<u64, (bool, u32)>,
    statuses: HashMap<u16, u64>,
    left: u64,
}

pub(crate) struct Soak {
    place: InboxFile,
    seen: Arc<Mutex<Seen>>,
    rounds: u64,
    next_id: u64,
    answered: u64,
    /// The number of events that ended more than once, because they were running when their inbox was closed.
    again: u64,
    largest: u64,
}

impl Soak {
    pub(crate) fn new() -> Self {
        Self {
            place: InboxFile::new(),
            seen: Arc::default(),
            rounds: 0,
            next_id: 0,
            answered: 0,
            again: 0,
            largest: 0,
        }
    }

    pub(crate) fn round(&mut self, seed: u64, main: &Runtime) {
        let mut dice = Dice(seed);
        self.rounds += 1;
        let inbox = main.block_on(self.open(&mut dice));
        let handle = inbox.handle();
        let end = Instant::now() + Duration::from_millis(100 + dice.roll(300));
        let sampling = Sampling::start(handle.clone());
        let senders: Vec<_> = (0..1 + dice.roll(4))
            .map(|_| main.spawn(self.sender(&mut dice).run(inbox.clone(), end)))
            .collect();
        if dice.roll(4) == 0 {
            // Some senders' runtimes shut down while the senders are waiting for answers.
            let leaver = runtime(1);
            leaver.spawn(self.sender(&mut dice).run(inbox.clone(), end));
            std::thread::sleep(Duration::from_millis(dice.roll(60)));
            leaver.shutdown_timeout(BOUND);
        }
        main.block_on(async {
            if dice.roll(3) == 0 {
                let _ = handle.drain(Duration::from_millis(dice.roll(20))).await;
            }
            for sender in senders {
                sender.await.unwrap();
            }
            if dice.roll(2) == 0 {
                let _ = handle.drain(Duration::from_millis(dice.roll(20))).await;
            }
        });
        sampling.stop();
        drop((inbox, handle));
        if self.rounds.is_multiple_of(ROUNDS) {
            main.block_on(self.finish());
        }
    }

    async fn open(&self, dice: &mut Dice) -> SqliteInbox {
        let attempts = 1 + u32::try_from(dice.roll(4)).unwrap();
        let retry = RetryPolicy::new()
            .max_attempts(attempts)
            .initial_delay(Duration::from_millis(1));
        let running = 1 + usize::try_from(dice.roll(32)).unwrap();
        let delivery = self.delivery().concurrency(running).retry(retry);
        let builder = self.builder(delivery).max_events(50 + dice.roll(2000));
        let router = EventRouter::new().on_prefix("a", misbehave);
        builder.open(router).await.unwrap()
    }

    fn sender(&mut self, dice: &mut Dice) -> Sender {
        self.next_id += 1_000_000;
        Sender {
            ids: self.next_id,
            dice: Dice(dice.roll(u64::MAX)),
            seen: Arc::clone(&self.seen),
        }
    }

    fn builder(&self, delivery: DeliverySettings) -> SqliteInboxBuilder {
        self.place
            .inbox()
            .delivery(delivery)
            .max_remembered_ids(10_000)
            .max_dead_letters(1_000)
    }

    fn delivery(&self) -> DeliverySettings {
        let seen = Arc::clone(&self.seen);
        delivery()
            .attempt_timeout(Duration::from_millis(5))
            .on_attempt(move |attempt| {
                if attempt.event_outcome().is_some() {
                    let id = attempt.event().id().parse().unwrap();
                    seen.lock().unwrap().ids.entry(id).or_default().1 += 1;
                }
                panic_on_purpose();
            })
    }

    /// Opens the inbox with handlers that succeed. Asserts that the inbox then becomes empty and has lost no
    /// event.
    async fn finish(&mut self) {
        let router = EventRouter::new().on_any(|_: Event| async {});
        let inbox = self.builder(self.delivery()).open(router).await.unwrap();
        let handle = inbox.handle();
        let stats = wait_idle(&handle).await;
        assert_eq!(stats.dead, 0, "{stats:?}");
        drop((inbox, handle));
        self.place.free().await;
        let size = std::fs::metadata(self.place.path()).unwrap().len();
        self.largest = self.largest.max(size);
        for (id, (answered, ends)) in self.seen.lock().unwrap().ids.drain() {
            assert!(!answered || ends > 0, "{id} was answered 200 and is lost");
            self.answered += u64::from(answered);
            self.again += u64::from(ends > 1);
        }
    }
}

struct Sender {
    /// The first id of the sender.
    ids: u64,
    dice: Dice,
    seen: Arc<Mutex<Seen>>,
}

impl Sender {
    async fn run(mut self, inbox: SqliteInbox, end: Instant) {
        let home = service_fn(|_: Request<Full<Bytes>>| async {
            Ok::<_, std::convert::Infallible>(Response::new(Full::<Bytes>::default()))
        });
        let layer = WebhookLayer::new(PATH, inbox)
            .max_body_bytes(4096)
            .response_timeout(Duration::from_secs(1));
        let service = layer.layer(home);
        let mut sent = 0;
        while Instant::now() < end {
            for _ in 0..=self.dice.roll(20) {
                // Some events are copies of earlier events.
                let copy = sent > 0 && self.dice.roll(8) == 0;
                let number = if copy { self.dice.roll(sent) } else { sent };
                sent += u64::from(!copy);
                let id = self.ids + number;
                let request = MockRequest::event("a").message_id(id.to_string());
                let request = match self.dice.roll(40) {
                    0 => request.truncated(),
                    1 => request.padded(5_000),
                    2 => request.method(Method::PUT),
                    _ => request,
                };
                let answer = service.clone().oneshot(request.build::<Full<Bytes>>());
                let timeout = match self.dice.roll(10) {
                    0 => Duration::from_micros(self.dice.roll(500)),
                    _ => BOUND,
                };
                let answer = tokio::time::timeout(timeout, answer).await;
                let mut seen = self.seen.lock().unwrap();
                let Ok(answer) = answer else {
                    assert_ne!(timeout, BOUND, "{id} got no answer");
                    seen.left += 1;
                    continue;
                };
                let status = answer.unwrap().status().as_u16();
                *seen.statuses.entry(status).or_default() += 1;
                if status == 200 {
                    seen.ids.entry(id).or_default().0 = true;
                }
            }
            tokio::time::sleep(Duration::from_micros(self.dice.roll(2000))).await;
        }
    }
}

/// A thread that reads the counts continuously.
struct Sampling {
    done: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<()>,
}

impl Sampling {
    fn start(handle: Handle) -> Self {
        let done = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&done);
        let thread = std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                balanced(&handle.stats());
                std::thread::sleep(Duration::from_micros(200));
            }
        });
        Self { done, thread }
    }

    fn stop(self) {
        self.done.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
    }
}

impl fmt::Display for Soak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seen = self.seen.lock().unwrap();
        let mut statuses: Vec<_> = seen.statuses.iter().collect();
        statuses.sort_unstable();
        write!(
            f,
            "answers {statuses:?}, {} clients left; {} events answered 200 and none lost, {} ended again; the file had {} kilobytes at most",
            seen.left,
            self.answered,
            self.again,
            self.largest / 1024,
        )
    }
}
