use std::io;
use std::task::{Context, Poll};

use futures_util::stream::{self, BoxStream, StreamExt};
use tokio::runtime::Handle;

use crate::catch_panic::catch_panic;
use crate::error::{Error, ErrorKind};

/// Registers handlers for the signals that end a process, and returns a stream with one item for each signal. The stream
/// also contains the signals that arrive before its first poll.
pub(crate) fn stop_signals() -> Result<BoxStream<'static, ()>, Error> {
    const NO_RUNTIME: &str = "signals need a tokio runtime with an I/O driver: call `shutdown_on_signal` inside \
         `#[tokio::main]`, or pass another future to `shutdown_on`";

    let missing = || Error::new(ErrorKind::Signal, NO_RUNTIME);
    Handle::try_current().map_err(|_| missing())?;
    // If the runtime has no I/O driver, tokio panics.
    let registered = catch_panic(Signals::register).map_err(|_| missing())?;
    let mut signals = registered.map_err(|error| {
        Error::caused(
            ErrorKind::Signal,
            "can't register a signal handler: pass another future to `shutdown_on`",
            error,
        )
    })?;
    Ok(stream::poll_fn(move |cx| signals.poll_next(cx)).boxed())
}

#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn register() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};

        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<()>> {
        for signal in [&mut self.interrupt, &mut self.terminate] {
            if let Poll::Ready(Some(())) = signal.poll_recv(cx) {
                return Poll::Ready(Some(()));
            }
        }
        Poll::Pending
    }
}

#[cfg(windows)]
struct Signals {
    ctrl_c: tokio::signal::windows::CtrlC,
}

#[cfg(windows)]
impl Signals {
    fn register() -> io::Result<Self> {
        let ctrl_c = tokio::signal::windows::ctrl_c()?;
        Ok(Self { ctrl_c })
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<()>> {
        match self.ctrl_c.poll_recv(cx) {
            Poll::Ready(Some(())) => Poll::Ready(Some(())),
            _ => Poll::Pending,
        }
    }
}
