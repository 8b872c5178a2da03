use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use super::{BoxFuture, Runtime};

/// The [`Runtime`] of tokio. It is the default.
///
/// Each task runs on the tokio runtime that is current when the task is spawned. So an inbox can be built before the runtime
/// starts. [`with_handle`](TokioRuntime::with_handle) spawns on another runtime instead.
///
/// The tokio runtime needs its time driver: see [`enable_time`](tokio::runtime::Builder::enable_time). `#[tokio::main]`
/// enables the driver.
#[derive(Clone, Debug, Default)]
pub struct TokioRuntime {
    handle: Option<Handle>,
}

impl TokioRuntime {
    /// Returns a runtime that spawns on tokio's current runtime.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns a runtime that spawns on the runtime of `handle`.
    ///
    /// # Examples
    ///
    /// ```
    /// use botisimo_webhooks::{EventRouter, MemoryInbox, TokioRuntime};
    ///
    /// let workers = tokio::runtime::Runtime::new()?;
    /// let runtime = TokioRuntime::with_handle(workers.handle().clone());
    /// let inbox = MemoryInbox::builder().build_with(runtime, EventRouter::new());
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
        // Tokio binds a timer to the runtime that creates it.
        let _entered = self.handle.as_ref().map(Handle::enter);
        // A timer consumes the task's budget. Without `unconstrained`, the timer never fires in a task that always exhausts
        // its budget.
        Box::pin(tokio::task::unconstrained(tokio::time::sleep(duration)))
    }

    fn now(&self) -> Instant {
        // A test may have paused the clock of this runtime.
        let _entered = self.handle.as_ref().map(Handle::enter);
        tokio::time::Instant::now().into_std()
    }
}
