//! The headers of events and dead letters. Each value is encoded, or consists of digits.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_nats::HeaderMap;
use async_nats::header::NATS_MESSAGE_ID;
use async_nats::jetstream::message::StreamMessage;

use super::subjects::{decoded, encoded};
use crate::delivery::{DeadLetter, RouteResult};
use crate::event::{Event, Traceparent};
use crate::runtime::to_millis;

/// When the event was received, in milliseconds since the Unix epoch.
const RECEIVED: &str = "Botisimo-Received";
/// The trace context of the event's request, as in the W3C Trace Context.
const TRACEPARENT: &str = "Botisimo-Traceparent";
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

/// The maximum size of a letter's headers without the texts: the consumer, the id, the cause and the results of the routes.
const FIXED: usize = 256;

/// Returns the headers of an event.
pub(super) fn of_event(event: &Event) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(RECEIVED, to_millis(event.received_at()).to_string());
    if let Some(traceparent) = event.traceparent() {
        headers.insert(TRACEPARENT, traceparent);
    }
    headers
}

/// Returns the headers of a letter. Shortens the id, the cause and the routes' reasons so that the headers fit into `room` bytes.
pub(super) fn of_letter(letter: &DeadLetter, consumer: &str, room: usize) -> HeaderMap {
    let mut headers = letter.event().map(of_event).unwrap_or_default();
    let times = [
        (RECEIVED, letter.received_at()),
        (DEAD_LETTERED, letter.dead_lettered_at()),
    ];
    for (name, time) in times {
        headers.insert(name, to_millis(time).to_string());
    }
    headers.insert(ATTEMPTS, letter.attempts().to_string());
    headers.insert(CONSUMER, consumer);
    let mut room = room.saturating_sub(FIXED + consumer.len());
    let id = letter.event().is_err().then(|| letter.message_id());
    for (name, text) in [(ID, id), (CAUSE, letter.cause())] {
        if let Some(text) = text.filter(|text| !text.is_empty()) {
            room = room.saturating_sub(name.len() + 4);
            let value = fitting(text, room);
            room = room.saturating_sub(value.len());
            headers.insert(name, value);
        }
    }
    headers.insert(ROUTES, routes(letter.routes(), room));
    headers
}

/// Returns the results of the routes in at most `room` bytes.
fn routes(results: &[RouteResult], mut room: usize) -> String {
    let mut routes = Vec::with_capacity(results.len());
    for (left, result) in (1..=results.len()).rev().zip(results) {
        let mut value = encoded(result.route());
        // The remaining routes share the space equally. Each route also needs a comma.
        let part = (room / left).saturating_sub(1);
        if value.len() > part {
            continue;
        }
        if let Some(reason) = result.reason() {
            let reason = fitting(reason, part.saturating_sub(value.len() + 1));
            value.push(' ');
            value.push_str(&reason);
        }
        room = room.saturating_sub(value.len() + 1);
        routes.push(value);
    }
    routes.join(",")
}

/// Returns a stored letter.
pub(super) fn letter(message: &StreamMessage) -> DeadLetter {
    let headers = &message.headers;
    let stored_at = SystemTime::from(message.time);
    let received_at = received_at(headers).unwrap_or(stored_at);
    let results = list(headers, ROUTES).filter_map(|result| {
        let (route, reason) = match result.split_once(' ') {
            Some((route, reason)) => (route, Some(decoded(reason)?)),
            None => (result, None),
        };
        Some(RouteResult {
            route: decoded(route)?.into(),
            reason: reason.map(Arc::from),
        })
    });
    DeadLetter::stored(
        (message.sequence, &text(headers, ID).unwrap_or_default()),
        (
            &String::from_utf8_lossy(&message.payload),
            traceparent(headers),
        ),
        (
            received_at,
            time(headers, DEAD_LETTERED).unwrap_or(stored_at),
        ),
        value(headers, ATTEMPTS).parse().unwrap_or_default(),
        results.collect(),
        text(headers, CAUSE).map(Arc::from),
    )
}

/// Returns the consumer of a stored letter's route.
pub(super) fn consumer(headers: &HeaderMap) -> &str {
    value(headers, CONSUMER)
}

/// Returns the headers of a letter's replay.
pub(super) fn of_replay(letter: &DeadLetter, event: &Event, consumer: &str) -> HeaderMap {
    let mut headers = of_event(event);
    headers.insert(TARGET_CONSUMER, consumer);
    let finished = letter.routes().iter().filter(|end| end.reason().is_none());
    let finished: Vec<_> = finished.map(|end| encoded(end.route())).collect();
    headers.insert(FINISHED_ROUTES, finished.join(","));
    headers
}

/// Returns whether an event is meant for a consumer. Only replays are limited to one consumer.
pub(super) fn is_meant_for(headers: &HeaderMap, consumer: &str) -> bool {
    let only = value(headers, TARGET_CONSUMER);
    only.is_empty() || only == consumer
}

/// Returns the routes that a replay doesn't run.
pub(super) fn finished_routes(headers: &HeaderMap) -> Vec<Arc<str>> {
    let finished = list(headers, FINISHED_ROUTES);
    finished
        .filter_map(|route| decoded(route).map(Arc::from))
        .collect()
}

/// Returns the `messageId` in the header for the stream's duplicate detection.
pub(super) fn message_id(headers: &HeaderMap) -> Option<String> {
    decoded(headers.get(NATS_MESSAGE_ID)?.as_str())
}

pub(super) fn received_at(headers: &HeaderMap) -> Option<SystemTime> {
    time(headers, RECEIVED)
}

pub(super) fn traceparent(headers: &HeaderMap) -> Option<Traceparent> {
    Traceparent::parse(value(headers, TRACEPARENT))
}

fn time(headers: &HeaderMap, name: &str) -> Option<SystemTime> {
    let millis = value(headers, name).parse().ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis))
}

/// Returns an encoded text.
fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    decoded(headers.get(name)?.as_str())
}

/// Returns the parts of a list. An empty part is encoded as `=`.
fn list<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = &'a str> {
    let parts = value(headers, name).split(',');
    parts.filter(|part| !part.is_empty())
}

/// Returns the value of a header, or an empty string if the header is missing.
fn value<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).map_or("", |value| value.as_str())
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
