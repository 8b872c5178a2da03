//! What the examples share: three handlers, the settings, the signal to stop, and the drain.
#![allow(dead_code)] // quickstart has no logs in its table, and closes in its own way

use std::error::Error;
use std::time::Duration;
use std::{env, io};

use axum::Router;
use botisimo_webhooks::{Event, Handle, HandlerError, HandlerResult};
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::signal;
use tokio::sync::oneshot;

/// How long a server may take to close: a client that stops in the middle of a request would hold
/// it up for ever.
pub(crate) const CLOSE_WITHIN: Duration = Duration::from_secs(4);

/// What a handler needs of a stream; serde ignores all other members.
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
    /// The specification publishes no schema of `data`: ask for little, and have a default for it.
    #[serde(default)]
    seconds: u64,
}

/// Takes the data decoded, and can't fail.
pub(crate) async fn went_live(event: Event<Stream>) {
    let title = &event.data().title;
    println!("{} {} {title}", event.event_type(), event.id());
}

/// Takes the data as it came, and fails: by `?` to be tried again, or for good.
pub(crate) async fn refresh(event: Event) -> HandlerResult {
    let account: Account = event.decode()?;
    if account.name.is_empty() {
        return Err(HandlerError::permanent("an account without a name"));
    }
    println!("{} {} {}", event.event_type(), event.id(), account.name);
    Ok(())
}

/// Takes its time: the sender had its 200 before this began.
pub(crate) async fn poll(event: Event<Poll>) {
    let poll = event.data();
    tokio::time::sleep(Duration::from_secs(poll.seconds)).await;
    println!("{} {} {}", event.event_type(), event.id(), poll.question);
}

/// Shows what the crate logs, apart from what the handlers print.
pub(crate) fn log_to_stderr() {
    let logs = tracing_subscriber::fmt().with_writer(io::stderr);
    logs.with_ansi(false).init();
}

/// Listens on `ADDR`, and says where.
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
    // Not `env::var`: a secret that isn't UTF-8 would count as none, and let everyone in.
    let secret = env::var_os("BOTISIMO_SECRET")?.into_encoded_bytes();
    (!secret.is_empty()).then_some(secret)
}

/// Returns a future that is ready on Ctrl-C or SIGTERM, whichever comes first from now on.
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

/// Returns a future that is ready on Ctrl-C.
#[cfg(windows)]
pub(crate) fn stop_signal() -> io::Result<impl Future<Output = ()> + Send> {
    let mut interrupt = signal::windows::ctrl_c()?;
    Ok(async move {
        interrupt.recv().await;
    })
}

/// Returns the future that tells a server to close, on Ctrl-C or SIGTERM and after the drain, and
/// one that is ready when the server has had time enough to do so.
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

/// Refuses new events and waits for those that were accepted, up to 20 s.
pub(crate) async fn drain(handle: &Handle) {
    let drained = handle.drain(Duration::from_secs(20));
    // The drain begins with its first poll, so it comes before the line that says so.
    let (drained, ()) = tokio::join!(drained, async {
        let running = handle.stats().in_flight();
        println!("draining: {running} in flight, new webhooks are answered 503");
    });
    println!("drained: {} left", drained.remaining);
}
