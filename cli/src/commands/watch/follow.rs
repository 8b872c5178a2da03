//! Follows the feed: loads the list, reads the feed, and connects again after an error.

use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::{mpsc, watch};

use super::event::Text;
use super::filter::Filter;
use super::inspector::{Inspector, RequestError};
use super::sse::Parser;

/// The inspector lists at most this number of events.
const PAGE: usize = 50;

/// The feed sends a comment every 15 s.
const SILENCE: Duration = Duration::from_secs(45);

const MAX_DELAY: Duration = Duration::from_secs(10);

/// A connection that ends after this time has worked, so the next attempt is at once.
const WORKED: Duration = Duration::from_secs(5);

/// The events that changed.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Changes {
    /// The lowest id that the message covers.
    pub(super) from: u64,
    /// All covered ids that match.
    pub(super) ids: Vec<u64>,
    /// The matching events that changed.
    pub(super) events: Vec<Value>,
}

impl Changes {
    /// Returns the changes to a whole list.
    pub(super) fn of_list(events: Vec<Value>) -> Self {
        let id = |event: &Value| event.get("id").and_then(Value::as_u64);
        let oldest = events.last().filter(|_| events.len() >= PAGE);
        Self {
            from: oldest.and_then(id).unwrap_or_default(),
            ids: events.iter().filter_map(id).collect(),
            events,
        }
    }
}

#[derive(Debug)]
pub(super) enum Update {
    /// The whole list of the events that match this filter, after a connection.
    Listed(Filter, Changes),
    Changed(Changes),
    /// The server can't read its inbox, or can again if there is no text.
    Trouble(Option<Text>),
    Disconnected {
        reason: String,
        retry_at: Instant,
    },
    /// The server refuses the filter.
    BadFilter(String),
    /// The command can't continue.
    Failed(RequestError),
}

/// Sends updates until the receiver is dropped, or until an update [`Failed`](Update::Failed). A changed filter starts again.
pub(super) async fn follow(
    inspector: Inspector,
    mut filter: watch::Receiver<Filter>,
    updates: mpsc::Sender<Update>,
) {
    let mut state = Follower {
        inspector,
        updates,
        has_connected: false,
        failures: 0,
    };
    loop {
        let current = filter.borrow_and_update().clone();
        let restarted = tokio::select! {
            ended = state.run(&current) => ended.is_ok(),
            changed = filter.changed() => changed.is_ok(),
        };
        if !restarted {
            return;
        }
    }
}

struct Follower {
    inspector: Inspector,
    updates: mpsc::Sender<Update>,
    has_connected: bool,
    /// The number of failures since the last connection that worked.
    failures: u32,
}

/// The receiver is gone, or the command can't continue.
struct Ended;

impl Follower {
    /// Follows the events that match, until the connection ends, and waits before the next attempt.
    async fn run(&mut self, filter: &Filter) -> Result<(), Ended> {
        let start = Instant::now();
        let error = match self.connection(filter).await {
            Ok(()) => return Err(Ended),
            Err(error) => error,
        };
        let reason = match error {
            RequestError::Invalid(text) => {
                self.send(Update::BadFilter(text)).await?;
                return std::future::pending().await;
            }
            error @ RequestError::Denied(_) => return self.fail(error).await,
            RequestError::Unavailable(text) | RequestError::Foreign(text) if self.has_connected => {
                text
            }
            error @ (RequestError::Unavailable(_) | RequestError::Foreign(_)) => {
                return self.fail(error).await;
            }
        };
        if start.elapsed() >= WORKED {
            self.failures = 0;
        }
        let delay = delay(self.failures);
        self.failures += 1;
        let retry_at = Instant::now() + delay;
        if !delay.is_zero() {
            self.send(Update::Disconnected { reason, retry_at }).await?;
        }
        tokio::time::sleep(delay).await;
        Ok(())
    }

    /// Returns why the connection ended, or `Ok` if the receiver is gone.
    async fn connection(&mut self, filter: &Filter) -> Result<(), RequestError> {
        let unavailable = |text: &str| RequestError::Unavailable(text.to_owned());
        // The first message of the feed isn't older than its connection, so no change after the list is lost.
        let listed = self.inspector.list(filter).await?;
        let mut feed = self.inspector.feed(filter).await?;
        self.has_connected = true;
        let listed = Update::Listed(filter.clone(), Changes::of_list(listed));
        if self.updates.send(listed).await.is_err() {
            return Ok(());
        }
        let mut parser = Parser::default();
        loop {
            let frame = tokio::select! {
                frame = tokio::time::timeout(SILENCE, feed.frame()) => frame,
                () = self.updates.closed() => return Ok(()),
            };
            let frame = frame.map_err(|_| unavailable("the server sends nothing"))?;
            let frame = frame.ok_or_else(|| unavailable("the server ended the feed"))?;
            let frame = frame.map_err(|_| unavailable("the server closed the connection"))?;
            let Ok(chunk) = frame.into_data() else {
                continue;
            };
            for message in parser.read(&chunk).map_err(unavailable)? {
                let Some(update) = update(&message.name, &message.data) else {
                    continue;
                };
                if self.updates.send(update).await.is_err() {
                    return Ok(());
                }
            }
        }
    }

    async fn fail(&self, error: RequestError) -> Result<(), Ended> {
        self.send(Update::Failed(error)).await?;
        Err(Ended)
    }

    async fn send(&self, update: Update) -> Result<(), Ended> {
        self.updates.send(update).await.map_err(|_| Ended)
    }
}

fn update(name: &str, data: &str) -> Option<Update> {
    match name {
        "events" => serde_json::from_str(data).ok().map(Update::Changed),
        "trouble" => {
            let text: Text = serde_json::from_str(data).ok()?;
            Some(Update::Trouble(Some(text).filter(|text| !text.is_empty())))
        }
        _ => None,
    }
}

/// Returns the delay after this number of failures: none at first, then 0.5 s, doubled up to 10 s, with jitter.
fn delay(failures: u32) -> Duration {
    match failures {
        0 => Duration::ZERO,
        failures => {
            let doubled = Duration::from_millis(500 << (failures - 1).min(8));
            doubled.min(MAX_DELAY).mul_f64(0.75 + fastrand::f64() / 4.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_grows_to_ten_seconds() {
        assert_eq!(delay(0), Duration::ZERO);
        assert!(delay(1) <= Duration::from_millis(500));
        for failures in [6, 60, u32::MAX] {
            let delay = delay(failures);
            assert!(delay > Duration::from_secs(7) && delay <= MAX_DELAY);
        }
    }

    #[test]
    fn a_short_list_covers_all_ids() {
        let event = |id: u64| serde_json::json!({ "id": id });
        let short = Changes::of_list(vec![event(9), event(7)]);
        assert_eq!((short.from, short.ids), (0, vec![9, 7]));
        let long = Changes::of_list((11..61).rev().map(event).collect());
        assert_eq!(long.from, 11);
    }
}
