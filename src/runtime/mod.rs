//! What is asked of an executor.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

mod clock;
#[cfg(feature = "tokio")]
mod tokio;

pub(crate) use self::clock::to_millis;
pub(crate) use self::clock::{Clock, millis};
#[cfg(feature = "tokio")]
pub use self::tokio::TokioRuntime;

/// A boxed future, as a [`Runtime`] takes and gives it.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The executor and the clocks that deliveries run on.
///
/// An inbox holds one and lends it to the front door. With the feature `tokio` it is
/// [`TokioRuntime`] unless another one is given; on any other executor these methods are all there
/// is to write.
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
/// let inbox = MemoryInbox::with_runtime(Smol, router);
/// ```
pub trait Runtime: Send + Sync + 'static {
    /// Runs a task to its end, in parallel with others where the executor has threads.
    ///
    /// A task that the executor drops before its end, because it shuts down for instance, is
    /// counted: its event is dead, or with an inbox that outlives the process tried again.
    ///
    /// # Panics
    ///
    /// May panic where it can't spawn, outside its executor for instance. The inbox catches that
    /// and refuses the event.
    fn spawn(&self, task: BoxFuture<()>);

    /// Returns a future that is ready after `duration` from now.
    fn sleep(&self, duration: Duration) -> BoxFuture<()>;

    /// Returns the present of the clock that [`sleep`](Runtime::sleep) goes by. The default is
    /// [`Instant::now`].
    fn now(&self) -> Instant {
        Instant::now()
    }

    /// Returns the time of day, for [`Event::received_at`](crate::Event::received_at). The default
    /// is [`SystemTime::now`].
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
