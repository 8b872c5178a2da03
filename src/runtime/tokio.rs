use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use super::{BoxFuture, Runtime};

/// The [`Runtime`] of tokio. It is the default.
///
/// It spawns on the tokio runtime that is current at the spawn. So an inbox can be built before the runtime starts.
/// [`with_handle`](TokioRuntime::with_handle) spawns on another runtime instead.
///
/// It needs tokio's time driver: see [`enable_time`](tokio::runtime::Builder::enable_time). `#[tokio::main]` enables it.
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
        // A timer belongs to the runtime that it is made in.
        let _entered = self.handle.as_ref().map(Handle::enter);
        // A timer consumes the task's budget. In a task whose budget is always used up, it would never complete.
        Box::pin(tokio::task::unconstrained(tokio::time::sleep(duration)))
    }

    fn now(&self) -> Instant {
        // A test may have paused the clock of this runtime.
        let _entered = self.handle.as_ref().map(Handle::enter);
        tokio::time::Instant::now().into_std()
    }
}
