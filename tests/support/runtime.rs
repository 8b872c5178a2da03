//! Runtimes for tests: a runtime whose parts a test replaces, and a runtime whose clock a test moves.

use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use botisimo_webhooks::{BoxFuture, Runtime};

type Spawn = dyn Fn(BoxFuture<()>) + Send + Sync;
type Sleep = dyn Fn(Duration) -> BoxFuture<()> + Send + Sync;

/// A runtime whose parts a test replaces with closures.
#[derive(Clone)]
pub(crate) struct TestRuntime {
    spawn: Arc<Spawn>,
    sleep: Arc<Sleep>,
    now: Arc<dyn Fn() -> Instant + Send + Sync>,
    system_time: Arc<dyn Fn() -> SystemTime + Send + Sync>,
}

impl TestRuntime {
    /// Runs everything on the current tokio runtime.
    #[cfg(feature = "tokio")]
    pub(crate) fn tokio() -> Self {
        use botisimo_webhooks::TokioRuntime;

        Self {
            spawn: Arc::new(|task| TokioRuntime::new().spawn(task)),
            sleep: Arc::new(|duration| TokioRuntime::new().sleep(duration)),
            now: Arc::new(|| TokioRuntime::new().now()),
            system_time: Arc::new(SystemTime::now),
        }
    }

    /// Runs everything on smol.
    pub(crate) fn smol() -> Self {
        Self::shut_down()
            .on_spawn(|task| smol::spawn(task).detach())
            .on_sleep(|duration| {
                Box::pin(async move {
                    smol::Timer::after(duration).await;
                })
            })
    }

    /// Drops every task, as tokio does after its shutdown. Its timers never fire.
    pub(crate) fn shut_down() -> Self {
        Self {
            spawn: Arc::new(drop),
            sleep: Arc::new(|_| Box::pin(pending())),
            now: Arc::new(Instant::now),
            system_time: Arc::new(SystemTime::now),
        }
    }

    pub(crate) fn on_spawn(self, spawn: impl Fn(BoxFuture<()>) + Send + Sync + 'static) -> Self {
        let spawn = Arc::new(spawn);
        Self { spawn, ..self }
    }

    pub(crate) fn on_sleep(
        self,
        sleep: impl Fn(Duration) -> BoxFuture<()> + Send + Sync + 'static,
    ) -> Self {
        let sleep = Arc::new(sleep);
        Self { sleep, ..self }
    }

    pub(crate) fn on_now(self, now: impl Fn() -> Instant + Send + Sync + 'static) -> Self {
        let now = Arc::new(now);
        Self { now, ..self }
    }

    pub(crate) fn on_system_time(
        self,
        system_time: impl Fn() -> SystemTime + Send + Sync + 'static,
    ) -> Self {
        let system_time = Arc::new(system_time);
        Self {
            system_time,
            ..self
        }
    }
}

impl Runtime for TestRuntime {
    fn spawn(&self, task: BoxFuture<()>) {
        (self.spawn)(task);
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<()> {
        (self.sleep)(duration)
    }

    fn now(&self) -> Instant {
        (self.now)()
    }

    fn system_time(&self) -> SystemTime {
        (self.system_time)()
    }
}

/// A runtime whose clock doesn't move until a test moves it. Its tasks run on tokio.
#[derive(Clone)]
pub(crate) struct ManualClock {
    tasks: tokio::runtime::Handle,
    time: Arc<Mutex<Time>>,
}

struct Time {
    start: Instant,
    since: Duration,
    /// How far the system clock is ahead of the monotonic clock, in seconds.
    ahead: i64,
    timers: Vec<(Duration, tokio::sync::oneshot::Sender<()>)>,
}

impl ManualClock {
    pub(crate) fn new() -> Self {
        let time = Time {
            start: Instant::now(),
            since: Duration::ZERO,
            ahead: 0,
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

    /// Moves only the system clock, by seconds, as if an operator changed it or the machine was asleep.
    pub(crate) fn step(&self, by: i64) {
        self.time.lock().unwrap().ahead += by;
    }

    /// Advances the clock until a condition holds.
    pub(crate) async fn advance_until(&self, by: Duration, mut so: impl FnMut() -> bool) {
        super::until(|| {
            let so = so();
            if !so {
                self.advance(by);
            }
            so
        })
        .await;
    }
}

impl Runtime for ManualClock {
    fn spawn(&self, task: BoxFuture<()>) {
        drop(self.tasks.spawn(task));
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<()> {
        let (timer, over) = tokio::sync::oneshot::channel();
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
        let time = self.time.lock().unwrap();
        let shown = 1_700_000_000_u64.saturating_add_signed(time.ahead);
        SystemTime::UNIX_EPOCH + Duration::from_secs(shown) + time.since
    }
}

/// The runtime of a process that a test ends. Its clock is a [`ManualClock`], which outlives the process.
#[derive(Clone)]
pub(crate) struct Process {
    clock: ManualClock,
    /// The tasks, or `None` if the process has ended.
    tasks: Arc<Mutex<Option<Vec<tokio::task::AbortHandle>>>>,
}

impl Process {
    pub(crate) fn new(clock: &ManualClock) -> Self {
        Self {
            clock: clock.clone(),
            tasks: Arc::new(Mutex::new(Some(Vec::new()))),
        }
    }

    /// Drops all tasks, as a runtime does when its process ends.
    pub(crate) fn end(&self) {
        let tasks = self.tasks.lock().unwrap().take();
        for task in tasks.into_iter().flatten() {
            task.abort();
        }
    }
}

impl Runtime for Process {
    fn spawn(&self, task: BoxFuture<()>) {
        if let Some(tasks) = &mut *self.tasks.lock().unwrap() {
            tasks.retain(|task| !task.is_finished());
            tasks.push(self.clock.tasks.spawn(task).abort_handle());
        }
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<()> {
        self.clock.sleep(duration)
    }

    fn now(&self) -> Instant {
        self.clock.now()
    }

    fn system_time(&self) -> SystemTime {
        self.clock.system_time()
    }
}
