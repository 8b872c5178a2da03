//! The headers of events and dead letters. Each value is encoded, or consists of digits.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_nats::HeaderMap;
use async_nats::header::NATS_MESSAGE_ID;

use super::subjects::{decoded, encoded};
use crate::delivery::RouteResult;
use crate::runtime::to_millis;

/// When the event was received, in milliseconds since the Unix epoch.
const RECEIVED: &str = "Botisimo-Received";
/// When the event was dead-lettered, in milliseconds since the Unix epoch.
const DEAD_LETTERED: &str = "Botisimo-Dead-Lettered";
/// The number of attempts.
const ATTEMPTS: &str = "Botisimo-Attempts";
/// The consumer of a dead letter's route.
const CONSUMER: &str = "Botisimo-Consumer";
/// The only consumer that a replay is meant for.
const TARGET_CONSUMER: &str = "Botisimo-Target-Consumer";
/// The results of the routes, separated by commas: each route's name and, if it failed, a space and the reason. All results are in
/// one header: if the client gets a message by its sequence, it reads only one of several headers with the same name.
const ROUTES: &str = "Botisimo-Routes";
/// The names of the routes that a replay doesn't run, separated by commas.
const FINISHED_ROUTES: &str = "Botisimo-Finished-Routes";
/// Why an event was dead-lettered, if no route caused it.
const CAUSE: &str = "Botisimo-Cause";
/// The `messageId`, if the body doesn't have it.
const ID: &str = "Botisimo-Id";

/// The maximum length of a header's value, in characters before encoding.
const MAX_TEXT: usize = 1024;

/// The headers of a dead letter to store.
pub(super) struct DeadLetterHeaders<'a> {
    pub(super) consumer: &'a str,
    pub(super) message_id: Option<&'a str>,
    pub(super) received_at: SystemTime,
    pub(super) dead_lettered_at: SystemTime,
    pub(super) attempts: u32,
    pub(super) cause: Option<&'a str>,
    pub(super) routes: &'a [RouteResult],
}

/// The headers of a stored dead letter.
pub(super) struct StoredHeaders {
    pub(super) consumer: String,
    pub(super) message_id: Option<String>,
    pub(super) received_at: Option<SystemTime>,
    pub(super) dead_lettered_at: Option<SystemTime>,
    pub(super) attempts: u32,
    pub(super) cause: Option<String>,
    pub(super) routes: Vec<RouteResult>,
}

impl DeadLetterHeaders<'_> {
    /// Returns the headers. Shortens the id, the cause and the routes' reasons so that the headers fit into `room` bytes.
    pub(super) fn write(&self, room: usize) -> HeaderMap {
        let mut headers = HeaderMap::new();
        set_received_at(&mut headers, self.received_at);
        headers.insert(DEAD_LETTERED, to_millis(self.dead_lettered_at).to_string());
        headers.insert(ATTEMPTS, self.attempts.to_string());
        headers.insert(CONSUMER, self.consumer);
        let mut room = room.saturating_sub(width(&headers));
        let texts = [(ID, self.message_id), (CAUSE, self.cause)];
        for (name, text) in texts
            .into_iter()
            .filter_map(|(name, text)| Some((name, text?)))
        {
            let value = fitting(text, room.saturating_sub(name.len() + 4));
            room = room.saturating_sub(name.len() + 4 + value.len());
            headers.insert(name, value);
        }
        let mut room = room.saturating_sub(ROUTES.len() + 4);
        let mut ends = Vec::with_capacity(self.routes.len());
        for (left, end) in (1..=self.routes.len()).rev().zip(self.routes) {
            let mut value = encoded(end.route());
            // The remaining routes share the space equally. Each route also needs a comma.
            let part = (room / left).saturating_sub(1);
            if value.len() > part {
                continue;
            }
            if let Some(reason) = end.reason() {
                let reason = fitting(reason, part.saturating_sub(value.len() + 1));
                value.push(' ');
                value.push_str(&reason);
            }
            room = room.saturating_sub(value.len() + 1);
            ends.push(value);
        }
        headers.insert(ROUTES, ends.join(","));
        headers
    }
}

impl StoredHeaders {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let text = |name| decoded(headers.get(name)?.as_str());
        let value = |name| Some(headers.get(name)?.as_str().to_owned());
        let routes = value(ROUTES).unwrap_or_default();
        let routes = routes.split(',').filter_map(|end| {
            let (route, reason) = match end.split_once(' ') {
                Some((route, reason)) => (route, Some(decoded(reason)?)),
                None => (end, None),
            };
            // An empty name is encoded as `=`.
            let named = !route.is_empty();
            Some(RouteResult {
                route: decoded(route).filter(|_| named)?.into(),
                reason: reason.map(Arc::from),
            })
        });
        Self {
            consumer: value(CONSUMER).unwrap_or_default(),
            message_id: text(ID),
            received_at: received_at(headers),
            dead_lettered_at: time(headers, DEAD_LETTERED),
            attempts: value(ATTEMPTS)
                .and_then(|attempts| attempts.parse().ok())
                .unwrap_or_default(),
            cause: text(CAUSE),
            routes: routes.collect(),
        }
    }
}

/// Returns the headers of a letter's replay.
pub(super) fn replay(letter: &StoredHeaders) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Some(received_at) = letter.received_at {
        set_received_at(&mut headers, received_at);
    }
    headers.insert(TARGET_CONSUMER, letter.consumer.as_str());
    let done = letter.routes.iter().filter(|end| end.reason().is_none());
    let done: Vec<_> = done.map(|end| encoded(end.route())).collect();
    if !done.is_empty() {
        headers.insert(FINISHED_ROUTES, done.join(","));
    }
    headers
}

/// Returns whether an event is meant for a consumer. Only replays are limited to one consumer.
pub(super) fn is_meant_for(headers: &HeaderMap, consumer: &str) -> bool {
    headers
        .get(TARGET_CONSUMER)
        .is_none_or(|only| only.as_str() == consumer)
}

/// Returns the routes that a replay doesn't run.
pub(super) fn finished_routes(headers: &HeaderMap) -> Vec<Arc<str>> {
    let done = headers
        .get(FINISHED_ROUTES)
        .map_or("", |done| done.as_str());
    done.split(',')
        .filter(|route| !route.is_empty())
        .filter_map(|route| decoded(route).map(Arc::from))
        .collect()
}

/// Returns the `messageId` in the header for the stream's duplicate detection.
pub(super) fn message_id(headers: &HeaderMap) -> Option<String> {
    decoded(headers.get(NATS_MESSAGE_ID)?.as_str())
}

pub(super) fn set_received_at(headers: &mut HeaderMap, at: SystemTime) {
    headers.insert(RECEIVED, to_millis(at).to_string());
}

pub(super) fn received_at(headers: &HeaderMap) -> Option<SystemTime> {
    time(headers, RECEIVED)
}

fn time(headers: &HeaderMap, name: &str) -> Option<SystemTime> {
    let millis = headers.get(name)?.as_str().parse().ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis))
}

/// Returns the size of the headers in the protocol, in bytes.
fn width(headers: &HeaderMap) -> usize {
    let lines = headers.iter().flat_map(|(name, values)| {
        let name: &str = name.as_ref();
        values
            .iter()
            .map(move |value| name.len() + value.as_str().len() + 4)
    });
    lines.sum::<usize>() + 16
}

/// Encodes the longest beginning of a string that fits into `bytes` bytes once it is encoded.
fn fitting(text: &str, bytes: usize) -> String {
    let mut fitting = String::new();
    for each in text.chars().take(MAX_TEXT) {
        let next = encoded(each.encode_utf8(&mut [0; 4]));
        if fitting.len() + next.len() > bytes {
            break;
        }
        fitting.push_str(&next);
    }
    if fitting.is_empty() {
        "=".to_owned()
    } else {
        fitting
    }
}
