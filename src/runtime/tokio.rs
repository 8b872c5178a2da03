use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use super::{BoxFuture, Runtime};

/// The [`Runtime`] of tokio, and the default.
///
/// It takes the runtime that it is called from when it spawns, not when it is made: a router can be
/// built before the runtime starts. [`with_handle`](TokioRuntime::with_handle) sends deliveries to
/// a runtime of their own instead.
///
/// It needs the time driver, [`enable_time`](tokio::runtime::Builder::enable_time), which
/// `#[tokio::main]` enables.
#[derive(Clone, Debug, Default)]
pub struct TokioRuntime {
    handle: Option<Handle>,
}

impl TokioRuntime {
    /// Returns the runtime that is current at each spawn.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the runtime of `handle`, wherever it is called from.
    ///
    /// # Examples
    ///
    /// ```
    /// use botisimo_webhooks::{EventRouter, MemoryInbox, TokioRuntime};
    ///
    /// let workers = tokio::runtime::Runtime::new()?;
    /// let runtime = TokioRuntime::with_handle(workers.handle().clone());
    /// let inbox = MemoryInbox::with_runtime(runtime, EventRouter::new());
    /// # Ok::<_, std::io::Error>(())
    /// ```
    #[must_use]
    pub fn with_handle(handle: Handle) -> Self {
        Self {
            handle: Some(handle),
        }
    }
}

impl Runtime for TokioRuntime {
    fn spawn(&self, task: BoxFuture<()>) {
        match &self.handle {
            Some(handle) => drop(handle.spawn(task)),
            None => drop(tokio::spawn(task)),
        }
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<()> {
        // A timer belongs to the runtime that it is made in.
        let _entered = self.handle.as_ref().map(Handle::enter);
        // A timer that takes part in tokio's budgets is never over in a task that has always used up its own.
        Box::pin(tokio::task::unconstrained(tokio::time::sleep(duration)))
    }

    fn now(&self) -> Instant {
        // So does the clock, where a test has paused it.
        let _entered = self.handle.as_ref().map(Handle::enter);
        tokio::time::Instant::now().into_std()
    }
}
