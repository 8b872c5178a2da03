//! Code that the examples share: handlers, settings, the stop signal and the drain.
#![allow(dead_code)] // each example uses only some items

use std::error::Error;
use std::time::Duration;
use std::{env, io};

use axum::Router;
use botisimo_webhooks::{Event, Handle, HandlerError, HandlerResult};
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::signal;
use tokio::sync::oneshot;

/// The maximum time that a server may take to close. Without this limit, a client that stalls during
/// a request would keep the server open.
pub(crate) const CLOSE_WITHIN: Duration = Duration::from_secs(4);

/// The members that the handler needs. serde ignores all other members.
#[derive(Deserialize)]
pub(crate) struct Stream {
    title: String,
}

#[derive(Deserialize)]
struct Account {
    name: String,
}

#[derive(Deserialize)]
pub(crate) struct Poll {
    question: String,
    /// The sender publishes no schema for `data`, so optional members need a default.
    #[serde(default)]
    seconds: u64,
}

/// Prints the title of a stream. The argument's type decodes the data.
pub(crate) async fn went_live(event: Event<Stream>) {
    let title = &event.data().title;
    println!("{} {} {title}", event.event_type(), event.id());
}

/// Prints the name of an account. The inbox retries errors from `?`, but not permanent errors.
pub(crate) async fn refresh(event: Event) -> HandlerResult {
    let account: Account = event.decode()?;
    if account.name.is_empty() {
        return Err(HandlerError::permanent("an account without a name"));
    }
    println!("{} {} {}", event.event_type(), event.id(), account.name);
    Ok(())
}

/// Runs until the poll has ended. The receiver answers 200 before this handler starts.
pub(crate) async fn poll(event: Event<Poll>) {
    let poll = event.data();
    tokio::time::sleep(Duration::from_secs(poll.seconds)).await;
    println!("{} {} {}", event.event_type(), event.id(), poll.question);
}

/// Writes the crate's logs to stderr, so stdout contains only the output of the example.
pub(crate) fn log_to_stderr() {
    let logs = tracing_subscriber::fmt().with_writer(io::stderr);
    logs.with_ansi(false).init();
}

/// Listens on `ADDR`, and prints the address.
pub(crate) async fn listen() -> Result<TcpListener, Box<dyn Error + Send + Sync>> {
    let addr = env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:3000".to_owned());
    let listener = TcpListener::bind(&addr).await;
    let listener = listener
        .map_err(|error| format!("can't listen on {addr}: {error}; set ADDR to another address"))?;
    println!("listening on http://{}", listener.local_addr()?);
    Ok(listener)
}

/// Returns `BOTISIMO_SECRET`, unless it is empty.
pub(crate) fn secret() -> Option<Vec<u8>> {
    // If the secret isn't UTF-8, `env::var` fails, and the example would accept every request.
    let secret = env::var_os("BOTISIMO_SECRET")?.into_encoded_bytes();
    (!secret.is_empty()).then_some(secret)
}

/// Returns a future that completes on Ctrl-C or SIGTERM.
#[cfg(unix)]
pub(crate) fn stop_signal() -> io::Result<impl Future<Output = ()> + Send> {
    use signal::unix::SignalKind;

    let mut interrupt = signal::unix::signal(SignalKind::interrupt())?;
    let mut terminate = signal::unix::signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// Returns a future that completes on Ctrl-C.
#[cfg(windows)]
pub(crate) fn stop_signal() -> io::Result<impl Future<Output = ()> + Send> {
    let mut interrupt = signal::windows::ctrl_c()?;
    Ok(async move {
        interrupt.recv().await;
    })
}

/// Returns two futures. The first future drains the inbox on Ctrl-C or SIGTERM and then completes,
/// so that the server closes. The second future completes [`CLOSE_WITHIN`] later.
pub(crate) fn shutdown(
    handle: &Handle,
) -> io::Result<(
    impl Future<Output = ()> + Send + use<>,
    impl Future<Output = ()> + Send + use<>,
)> {
    let (stop, handle) = (stop_signal()?, handle.clone());
    let (closing, closed) = oneshot::channel::<()>();
    let stopped = async move {
        stop.await;
        drain(&handle).await;
        drop(closing);
    };
    let overdue = async {
        drop(closed.await);
        tokio::time::sleep(CLOSE_WITHIN).await;
    };
    Ok((stopped, overdue))
}

/// Serves an app until Ctrl-C or SIGTERM, and drains before it closes the port.
pub(crate) async fn serve(
    app: Router,
    handle: &Handle,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let (stopped, overdue) = shutdown(handle)?;
    let server = axum::serve(listen().await?, app).with_graceful_shutdown(stopped);
    tokio::select! {
        served = server.into_future() => served?,
        () = overdue => {}
    }
    println!("{}", handle.stats());
    Ok(())
}

/// Refuses new events, and waits up to 20 s for accepted events.
pub(crate) async fn drain(handle: &Handle) {
    let drained = handle.drain(Duration::from_secs(20));
    // `join!` polls the drain first, so the drain has started before the line is printed.
    let (drained, ()) = tokio::join!(drained, async {
        let running = handle.stats().in_flight();
        println!("draining: {running} in flight, new events get a 503");
    });
    println!("drained: {} remain", drained.remaining);
}
