//! Code that the examples share: handlers, the log and the listener.
#![allow(dead_code)] // each example uses only some items

use std::error::Error;
use std::time::Duration;
use std::{env, io};

use botisimo_webhooks::{Event, HandlerError, HandlerResult};
use serde::Deserialize;
use tokio::net::TcpListener;

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
