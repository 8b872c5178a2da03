//! The executor and the clocks: the trait [`Runtime`], the inbox's [`Clock`], and the [`SystemClock`] of attempts.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

mod clock;
#[cfg(feature = "signal")]
mod signals;
mod system_clock;
#[cfg(feature = "tokio")]
mod tokio;

pub(crate) use self::clock::{Clock, ClockReading, millis, to_millis};
#[cfg(feature = "signal")]
pub(crate) use self::signals::stop_signals;
pub(crate) use self::system_clock::SystemClock;
#[cfg(feature = "tokio")]
pub use self::tokio::TokioRuntime;

/// The boxed future that [`Runtime`] takes and returns.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The executor and the clocks of an inbox and its receiver.
///
/// With the feature `tokio` the default is [`TokioRuntime`]. For any other executor, implement this trait.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use botisimo_webhooks::{BoxFuture, Event, EventRouter, MemoryInbox, Runtime};
///
/// struct Smol;
///
/// impl Runtime for Smol {
///     fn spawn(&self, task: BoxFuture<()>) {
///         smol::spawn(task).detach();
///     }
///
///     fn sleep(&self, duration: Duration) -> BoxFuture<()> {
///         Box::pin(async move { smol::Timer::after(duration).await; })
///     }
/// }
///
/// let router = EventRouter::new().on_any(|_: Event| async {});
/// let inbox = MemoryInbox::builder().build_with(Smol, router);
/// ```
pub trait Runtime: Send + Sync + 'static {
    /// Runs a task to completion, in parallel with other tasks if the executor has several threads.
    ///
    /// The executor may drop a task before completion, for example when the executor shuts down. A durable inbox then
    /// retries the task's event. Any other inbox dead-letters the event.
    ///
    /// # Panics
    ///
    /// May panic if the executor can't spawn, for example outside its context. The inbox catches the panic and refuses the
    /// event.
    fn spawn(&self, task: BoxFuture<()>);

    /// Returns a future that completes after `duration`.
    fn sleep(&self, duration: Duration) -> BoxFuture<()>;

    /// Returns the current time of the clock that [`sleep`](Runtime::sleep) uses. The default is [`Instant::now`].
    fn now(&self) -> Instant {
        Instant::now()
    }

    /// Returns the system time, for example for [`Event::received_at`](crate::Event::received_at). The default is
    /// [`SystemTime::now`].
    fn system_time(&self) -> SystemTime {
        SystemTime::now()
    }
}

impl<R: Runtime + ?Sized> Runtime for Arc<R> {
    fn spawn(&self, task: BoxFuture<()>) {
        (**self).spawn(task);
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<()> {
        (**self).sleep(duration)
    }

    fn now(&self) -> Instant {
        (**self).now()
    }

    fn system_time(&self) -> SystemTime {
        (**self).system_time()
    }
}
