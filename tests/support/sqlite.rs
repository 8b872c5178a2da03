//! What the tests of the inbox on disk share: a file, a look into it, events, a clock that is moved by
//! hand.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use botisimo_webhooks::testing::MockRequest;
use botisimo_webhooks::{
    BoxFuture, Event, EventRouter, Handle, HandlerError, RetryPolicy, Runtime, SqliteInbox,
    SqliteInboxBuilder, Stats,
};
use rusqlite::{Connection, OpenFlags};
use tokio::sync::{Semaphore, oneshot};

/// Longer than any test takes.
pub(crate) const LONG: Duration = Duration::from_secs(600);

/// The file of an inbox, in a folder of its own.
pub(crate) struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder().join("inbox.db")
    }

    /// Returns a builder that waits until the inbox before it is closed, and tries again at once.
    pub(crate) fn inbox(&self) -> SqliteInboxBuilder {
        SqliteInbox::builder(self.path())
            .lock_timeout(LONG)
            .retry(at_once(5))
    }

    /// Returns a connection that reads while an inbox has the file.
    pub(crate) fn look(&self) -> Connection {
        Connection::open_with_flags(self.path(), OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap()
    }

    /// Returns the answer to a query for one number.
    pub(crate) fn count(&self, sql: &str) -> i64 {
        self.look().query_row(sql, [], |row| row.get(0)).unwrap()
    }

    /// Waits until no inbox has the file.
    pub(crate) async fn free(&self) {
        let lock = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(self.folder().join("inbox.db-lock"))
            .unwrap();
        until(|| lock.try_lock().is_ok()).await;
    }

    /// Waits until no inbox has the file, and returns a connection to change it.
    pub(crate) async fn closed(&self) -> Connection {
        self.free().await;
        Connection::open(self.path()).unwrap()
    }

    /// Returns a connection to the file as it would be if the process ended now: what waits at the gate
    /// never comes to its end there.
    pub(crate) async fn closed_by(&self, gate: &Semaphore) -> Connection {
        let copy = self.folder().join("copy.db");
        self.look()
            .execute("VACUUM INTO ?1", [copy.to_str()])
            .unwrap();
        gate.add_permits(Semaphore::MAX_PERMITS / 2);
        drop(self.closed().await);
        std::fs::rename(copy, self.path()).unwrap();
        Connection::open(self.path()).unwrap()
    }

    /// Changes the file while no inbox has it.
    pub(crate) async fn edit(&self, sql: &str) -> usize {
        self.closed().await.execute(sql, []).unwrap()
    }
}

/// Returns a policy of this many attempts without waits.
pub(crate) fn at_once(attempts: u32) -> RetryPolicy {
    RetryPolicy::new()
        .max_attempts(attempts)
        .initial_delay(Duration::ZERO)
        .max_delay(Duration::ZERO)
}

/// Waits for what other threads bring about.
#[track_caller]
pub(crate) fn until(mut so: impl FnMut() -> bool) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    async move {
        for _ in 0..20_000 {
            if so() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("it never came to what is waited for at {caller}");
    }
}

pub(crate) fn event(id: &str) -> Event {
    MockRequest::event("a").message_id(id).to_event()
}

/// Returns an event whose data is its order key.
pub(crate) fn keyed(id: &str, key: &str) -> Event {
    MockRequest::event("a").message_id(id).data(key).to_event()
}

pub(crate) fn sized(id: &str, bytes: usize) -> Event {
    MockRequest::event("a")
        .message_id(id)
        .padded(bytes)
        .to_event()
}

/// Returns the order key of a [`keyed`] event.
pub(crate) fn key(event: &Event) -> Option<String> {
    event.decode().ok()
}

/// Law 2.
#[track_caller]
pub(crate) fn balanced(stats: &Stats) {
    let came = stats.accepted + stats.recovered + stats.replayed;
    let is = stats.handled + stats.unhandled + stats.dead + stats.in_flight();
    assert_eq!(came, is, "{stats:?}");
}

/// The events that ran, in their order, as `id#attempt`.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    pub(crate) fn write(&self, line: impl Into<String>) {
        self.0.lock().unwrap().push(line.into());
    }

    pub(crate) fn run(&self, event: &Event) {
        self.write(format!("{}#{}", event.id(), event.attempt()));
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    /// Returns how often each line is there.
    pub(crate) fn counts(&self) -> HashMap<String, usize> {
        let mut counts = HashMap::new();
        for line in self.lines() {
            *counts.entry(line).or_default() += 1;
        }
        counts
    }
}

/// Returns a router that logs what runs.
pub(crate) fn logging(log: &Log) -> EventRouter {
    let log = log.clone();
    EventRouter::new().on("a", move |event: Event| async move { log.run(&event) })
}

/// Returns a router that logs what runs, and ends it with a permit.
pub(crate) fn gated(log: &Log, gate: &Arc<Semaphore>) -> EventRouter {
    let (log, gate) = (log.clone(), Arc::clone(gate));
    EventRouter::new().on("a", move |event: Event| async move {
        log.run(&event);
        gate.acquire().await.unwrap().forget();
    })
}

/// Returns a router that logs what runs, and fails for good.
pub(crate) fn failing(log: &Log) -> EventRouter {
    let log = log.clone();
    EventRouter::new().on("a", move |event: Event| async move {
        log.run(&event);
        Err::<(), _>(HandlerError::permanent("no"))
    })
}

/// Waits until all has ended.
pub(crate) async fn wait_idle(handle: &Handle) {
    tokio::time::timeout(Duration::from_secs(60), handle.wait_idle())
        .await
        .unwrap_or_else(|_| panic!("it never settles: {handle:?}"));
}

/// A runtime whose clock is moved by hand; its tasks are tokio's.
#[derive(Clone)]
pub(crate) struct ByHand {
    tasks: tokio::runtime::Handle,
    time: Arc<Mutex<Time>>,
}

struct Time {
    start: Instant,
    since: Duration,
    timers: Vec<(Duration, oneshot::Sender<()>)>,
}

impl ByHand {
    pub(crate) fn new() -> Self {
        let time = Time {
            start: Instant::now(),
            since: Duration::ZERO,
            timers: Vec::new(),
        };
        Self {
            tasks: tokio::runtime::Handle::current(),
            time: Arc::new(Mutex::new(time)),
        }
    }

    pub(crate) fn advance(&self, by: Duration) {
        let mut time = self.time.lock().unwrap();
        time.since += by;
        let now = time.since;
        let due: Vec<_> = time.timers.extract_if(.., |(at, _)| *at <= now).collect();
        drop(time);
        for (_, timer) in due {
            let _ = timer.send(());
        }
    }

    /// Moves the clock on until it comes to something.
    pub(crate) async fn advance_until(&self, by: Duration, mut so: impl FnMut() -> bool) {
        until(|| {
            let so = so();
            if !so {
                self.advance(by);
            }
            so
        })
        .await;
    }
}

impl Runtime for ByHand {
    fn spawn(&self, task: BoxFuture<()>) {
        drop(self.tasks.spawn(task));
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<()> {
        let (timer, over) = oneshot::channel();
        let mut time = self.time.lock().unwrap();
        let at = time.since.saturating_add(duration);
        if at <= time.since {
            let _ = timer.send(());
        } else {
            time.timers.push((at, timer));
        }
        Box::pin(async move {
            let _ = over.await;
        })
    }

    fn now(&self) -> Instant {
        let time = self.time.lock().unwrap();
        time.start + time.since
    }

    fn system_time(&self) -> SystemTime {
        let since = self.time.lock().unwrap().since;
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000) + since
    }
}
