use std::error::Error as StdError;
use std::fmt;
use std::future::ready;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_channel::oneshot;
use futures_util::future::{Either, FutureExt, join_all, select};
use futures_util::stream::{self, BoxStream, StreamExt};

use super::{Drained, Handle};
use crate::catch_panic::{CatchPanic, catch_panic};
use crate::error::{Error, ErrorKind};
use crate::runtime::{BoxFuture, Runtime};
use crate::telemetry;

/// Serves until the process must stop, and then drains the inbox before the server closes.
///
/// [`Handle::shutdown_on_signal`](crate::Handle::shutdown_on_signal) and
/// [`Handle::shutdown_on`](crate::Handle::shutdown_on) return a shutdown. [`serve`](Shutdown::serve) runs a server. If
/// the process has no server, await the shutdown itself: the shutdown waits for the signal and drains.
///
/// # Steps
///
/// 1. The server runs until the first SIGTERM or Ctrl-C, or until the future of `shutdown_on` completes.
/// 2. The receiver answers new events with 503, so the sender retries them. The server still accepts connections and
///    serves all other requests. The inbox drains for at most [`drain_timeout`](Shutdown::drain_timeout).
/// 3. The server closes its port and its connections, for at most [`close_timeout`](Shutdown::close_timeout). After this
///    time, `serve` returns even if a client hasn't finished its request or holds a stream open. When `main` returns, the
///    runtime ends the remaining connections.
///
/// | event | result |
/// |---|---|
/// | a second signal arrives during step 2 or 3 | `serve` returns immediately, with the number of remaining events |
/// | the server ends before step 3 | the inbox drains, and then `serve` returns; if the server failed, `serve` returns the error |
/// | the process can't receive signals | `serve` returns an error, and doesn't start the server |
///
/// The limits of 20 s and 4 s fit into the grace period of Kubernetes, which is 30 s. Docker's grace period is 10 s: use
/// `docker stop -t 30`.
///
/// # Examples
///
/// With axum:
///
/// ```no_run
/// # use botisimo_webhooks::{EventRouter, WebhookLayer};
/// # async fn run(router: EventRouter) -> Result<(), Box<dyn std::error::Error>> {
/// let webhooks = WebhookLayer::new("/webhooks/botisimo", router);
/// let handle = webhooks.handle();
/// let app = axum::Router::new().layer(webhooks);
/// let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
/// let ended = handle
///     .shutdown_on_signal()
///     .serve(|drained| axum::serve(listener, app).with_graceful_shutdown(drained))
///     .await?;
/// println!("{} events remain", ended.remaining);
/// # Ok(())
/// # }
/// ```
///
/// With tonic:
///
/// ```no_run
/// # use botisimo_webhooks::{EventRouter, WebhookLayer};
/// # async fn run(router: EventRouter) -> Result<(), Box<dyn std::error::Error>> {
/// let webhooks = WebhookLayer::new("/webhooks/botisimo", router);
/// let handle = webhooks.handle();
/// let (_, health) = tonic_health::server::health_reporter();
/// let server = tonic::transport::Server::builder()
///     .accept_http1(true)
///     .layer(webhooks)
///     .add_service(health);
/// let addr = "127.0.0.1:3000".parse()?;
/// handle
///     .shutdown_on_signal()
///     .serve(|drained| server.serve_with_shutdown(addr, drained))
///     .await?;
/// # Ok(())
/// # }
/// ```
///
/// With hyper, pass a function that runs the accept loop until `drained` completes: see `examples/hyper.rs`.
#[must_use = "a shutdown does nothing until `serve` is called or the shutdown is awaited"]
pub struct Shutdown {
    /// The requests to stop. The first request starts the drain, and the second request ends it.
    requests: Result<BoxStream<'static, ()>, Error>,
    runtime: Arc<dyn Runtime>,
    drains: Vec<Box<dyn Drain>>,
    drain_timeout: Duration,
    close_timeout: Duration,
}

/// An inbox or a worker that a shutdown drains.
pub(crate) trait Drain: Send + Sync + 'static {
    fn drain(&self, within: Duration) -> BoxFuture<Drained>;

    /// Counts the remaining events again, after the drain has started.
    fn count(&self) -> BoxFuture<Drained>;

    /// Returns whether the remaining events run after a restart.
    fn is_durable(&self) -> bool;
}

impl Drain for Handle {
    fn drain(&self, within: Duration) -> BoxFuture<Drained> {
        Box::pin(self.drain(within))
    }

    fn count(&self) -> BoxFuture<Drained> {
        self.drain_silently(Duration::ZERO)
    }

    fn is_durable(&self) -> bool {
        self.info().is_durable
    }
}

/// The argument of [`Shutdown::also_drain`].
struct AlsoDrain<D>(D);

impl<D, F> Drain for AlsoDrain<D>
where
    D: Fn(Duration) -> F + Send + Sync + 'static,
    F: Future<Output = Drained> + Send + 'static,
{
    fn drain(&self, within: Duration) -> BoxFuture<Drained> {
        Box::pin((self.0)(within))
    }

    fn count(&self) -> BoxFuture<Drained> {
        self.drain(Duration::ZERO)
    }

    fn is_durable(&self) -> bool {
        false
    }
}

impl Shutdown {
    /// Returns a shutdown that drains on SIGTERM or Ctrl-C.
    #[cfg(feature = "signal")]
    pub(crate) fn on_signal(drain: impl Drain, runtime: Arc<dyn Runtime>) -> Self {
        Self::new(crate::runtime::stop_signals(), drain, runtime)
    }

    /// Returns a shutdown that drains when `stop` completes.
    pub(crate) fn on(
        stop: impl Future<Output = ()> + Send + 'static,
        drain: impl Drain,
        runtime: Arc<dyn Runtime>,
    ) -> Self {
        let requests = stream::once(stop).chain(stream::pending());
        Self::new(Ok(requests.boxed()), drain, runtime)
    }

    fn new(
        requests: Result<BoxStream<'static, ()>, Error>,
        drain: impl Drain,
        runtime: Arc<dyn Runtime>,
    ) -> Self {
        Self {
            requests,
            runtime,
            drains: vec![Box::new(drain)],
            drain_timeout: Duration::from_secs(20),
            close_timeout: Duration::from_secs(4),
        }
    }

    /// Sets the maximum time of the drain. The default is 20 s.
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.drain_timeout = timeout;
        self
    }

    /// Sets the maximum time that the server may take to close. The default is 4 s.
    ///
    /// A client that stalls in the middle of a request, or that holds a stream open, uses all of this time.
    pub fn close_timeout(mut self, timeout: Duration) -> Self {
        self.close_timeout = timeout;
        self
    }

    /// Also drains another inbox or worker of this process, at the same time.
    ///
    /// The shutdown calls `drain` with the [`drain_timeout`](Shutdown::drain_timeout). [`Drained::remaining`] of the
    /// result is the sum.
    ///
    /// # Examples
    ///
    /// ```
    /// # use botisimo_webhooks::{Handle, Shutdown};
    /// fn both(webhooks: &Handle, other: Handle) -> Shutdown {
    ///     webhooks
    ///         .shutdown_on_signal()
    ///         .also_drain(move |within| other.drain(within))
    /// }
    /// ```
    pub fn also_drain<F>(mut self, drain: impl Fn(Duration) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Drained> + Send + 'static,
    {
        self.drains.push(Box::new(AlsoDrain(drain)));
        self
    }

    /// Runs a server until the process must stop, and then drains the inbox and closes the server.
    ///
    /// `server` receives a future that completes once the inbox has drained. Pass this future to the server's own
    /// graceful shutdown: `with_graceful_shutdown` of axum, or `serve_with_shutdown` of tonic.
    ///
    /// Returns the number of events that remained. A memory inbox loses these events when the process exits. A durable
    /// inbox delivers them after a restart.
    ///
    /// # Second signal
    ///
    /// After a second SIGTERM or Ctrl-C, `serve` returns immediately. From then on, the process ignores both signals. If a
    /// handler blocks its thread, `#[tokio::main]` waits for this handler. To end the process without waiting, call
    /// [`std::process::exit`] after `serve`.
    ///
    /// # Errors
    ///
    /// - [`Server`](ErrorKind::Server): the server has failed. `serve` has drained the inbox.
    ///   [`source`](StdError::source) returns the server's own error.
    /// - [`Signal`](ErrorKind::Signal): the process can't receive signals. `serve` hasn't started the server.
    ///
    /// # Panics
    ///
    /// Panics if `server` or its future panics. In that case, the inbox doesn't drain.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the server is dropped too, and the inbox doesn't drain. If the drain has started, the
    /// receiver continues to answer 503.
    pub async fn serve<S, E>(
        self,
        server: impl FnOnce(BoxFuture<()>) -> S,
    ) -> Result<Drained, Error>
    where
        S: IntoFuture<Output = Result<(), E>>,
        E: Into<Box<dyn StdError + Send + Sync>>,
    {
        let Self {
            requests,
            runtime,
            drains,
            drain_timeout,
            close_timeout,
        } = self;
        let mut requests = requests?;
        // If this future is dropped, `close` is dropped too, so a server that runs in another task closes.
        let (close, closing) = oneshot::channel::<()>();
        let server = server(Box::pin(closing.map(drop))).into_future();
        let mut server = pin!(server.map(|served| served.map_err(server_failed)));

        let mut served = match select(requests.next(), server.as_mut()).await {
            Either::Left(_) => None,
            Either::Right((served, _)) => Some(served),
        };
        let server_ended = served.is_some();
        telemetry::shutdown_started(server_ended);
        // If the server has ended, the next request to stop is the first, and only the second ends the drain.
        let second_request = requests.skip(usize::from(server_ended)).into_future();

        let mut remaining = None;
        let steps = async {
            let drain = pin!(drain_all(&drains, drain_timeout));
            remaining = Some(if server_ended {
                drain.await
            } else {
                match select(drain, server.as_mut()).await {
                    Either::Left((remaining, _)) => remaining,
                    Either::Right((early, drain)) => {
                        served = Some(early);
                        drain.await
                    }
                }
            });
            drop(close);
            if served.is_none() {
                match select(server.as_mut(), sleep(&*runtime, close_timeout)).await {
                    Either::Left((closed, _)) => served = Some(closed),
                    Either::Right(_) => telemetry::server_not_closed(close_timeout),
                }
            }
        };
        if let Either::Right(_) = select(pin!(steps), second_request).await {
            telemetry::shutdown_interrupted();
        }
        let remaining = match remaining {
            Some(0) => 0,
            // Events may also end while the server closes.
            _ => count_all(&drains).await,
        };
        let is_durable = drains.iter().all(|each| each.is_durable());
        telemetry::shutdown_finished(remaining, is_durable);
        served.unwrap_or(Ok(()))?;
        Ok(Drained::new(remaining))
    }
}

/// Waits until the process must stop, and drains. Await the shutdown directly if the process has no server, or if other
/// code closes the server.
///
/// The result, the errors and the cancel safety are as in [`serve`](Shutdown::serve).
impl IntoFuture for Shutdown {
    type Output = Result<Drained, Error>;
    type IntoFuture = BoxFuture<Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.serve(|drained| drained.map(Ok::<_, Error>)))
    }
}

impl fmt::Debug for Shutdown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shutdown")
            .field("drain_timeout", &self.drain_timeout)
            .field("close_timeout", &self.close_timeout)
            .finish_non_exhaustive()
    }
}

/// Drains all inboxes and workers at the same time, and returns the total number of remaining events.
async fn drain_all(drains: &[Box<dyn Drain>], within: Duration) -> u64 {
    sum(join_all(drains.iter().map(|each| each.drain(within))).await)
}

async fn count_all(drains: &[Box<dyn Drain>]) -> u64 {
    sum(join_all(drains.iter().map(|each| each.count())).await)
}

fn sum(drained: Vec<Drained>) -> u64 {
    drained.into_iter().map(|drained| drained.remaining).sum()
}

/// Waits for `time`. If the runtime has no timer, returns immediately, because the wait would be unbounded.
fn sleep(runtime: &dyn Runtime, time: Duration) -> impl Future<Output = ()> + Send + Unpin + use<> {
    let sleep = catch_panic(|| runtime.sleep(time)).ok();
    let sleep = sleep.unwrap_or_else(|| Box::pin(ready(())));
    Box::pin(CatchPanic::new(sleep).map(drop))
}

fn server_failed(error: impl Into<Box<dyn StdError + Send + Sync>>) -> Error {
    Error::caused(ErrorKind::Server, "the server has failed", error)
}
