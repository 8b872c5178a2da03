//! The headers of events and dead letters.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_nats::HeaderMap;
use async_nats::header::NATS_MESSAGE_ID;
use async_nats::jetstream::message::StreamMessage;
use serde_json::{Value, json};

use super::subjects::{decoded, encoded};
use crate::delivery::{DeadLetter, EventState, RouteResult, StoredRecord};
use crate::event::{Event, Traceparent};
use crate::runtime::to_millis;

/// When the event was received, in milliseconds since the Unix epoch.
const RECEIVED: &str = "Botisimo-Received";
/// The trace context of the event's request, as in the W3C Trace Context.
const TRACEPARENT: &str = "Botisimo-Traceparent";
/// The consumer of a dead letter's route.
const CONSUMER: &str = "Botisimo-Consumer";
/// A dead letter without its body, as JSON. All members are in one header: if the client gets a message by its sequence, it reads
/// only one of several headers with the same name.
const DEAD_LETTER: &str = "Botisimo-Dead-Letter";
/// The sequence of the event that a message replays.
const REPLAY_OF: &str = "Botisimo-Replay-Of";
/// In the record of a replay: the sequence of the replay, and the identity of its stream.
const REPLAY: &str = "Botisimo-Replay";
const STREAM: &str = "Botisimo-Stream";
/// The encoded name of the only route that a replay runs.
const TARGET_ROUTE: &str = "Botisimo-Target-Route";
/// The consumers that a replay is meant for, separated by commas.
const TARGET_CONSUMER: &str = "Botisimo-Target-Consumer";
/// The encoded names of the routes that a replay doesn't run, separated by commas.
const FINISHED_ROUTES: &str = "Botisimo-Finished-Routes";

/// The maximum size of a letter's headers without the name of the consumer and the JSON, in bytes.
const FIXED: usize = 236;

/// The maximum length of each text of a letter, in characters. If the letter has too little space, the next length applies.
const MAX_TEXT: [usize; 4] = [1024, 256, 64, 0];

/// Returns the headers of an event.
pub(super) fn of_event(event: &Event) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(RECEIVED, to_millis(event.received_at()).to_string());
    if let Some(traceparent) = event.traceparent() {
        headers.insert(TRACEPARENT, traceparent);
    }
    headers
}

/// Returns the headers of a letter. Shortens the texts, and leaves out the routes if necessary, so that the headers fit into `room`
/// bytes. 512 bytes are always enough.
pub(super) fn of_letter(
    letter: &DeadLetter,
    consumer: &str,
    replay_of: Option<u64>,
    room: usize,
) -> HeaderMap {
    let mut headers = letter.event().map(of_event).unwrap_or_default();
    if let Some(event) = replay_of {
        headers.insert(REPLAY_OF, event.to_string());
    }
    headers.insert(CONSUMER, consumer);
    let room = room.saturating_sub(FIXED + consumer.len());
    let texts = MAX_TEXT.map(|max| to_json(letter, letter.routes(), max));
    let fitting = texts.into_iter().find(|text| text.len() <= room);
    let text = fitting.unwrap_or_else(|| to_json(letter, &[], 0));
    headers.insert(DEAD_LETTER, text);
    headers
}

/// Returns a letter without its body as JSON. JSON contains no line breaks, so a header can contain it.
fn to_json(letter: &DeadLetter, routes: &[RouteResult], max_text: usize) -> String {
    let cut = |text: &str| text.chars().take(max_text).collect::<String>();
    let route = |result: &RouteResult| json!([result.route(), result.reason().map(cut)]);
    let value = json!({
        // If the body can be decoded, it contains the id.
        "message_id": letter.event().err().map(|_| cut(letter.message_id())),
        "received_at": to_millis(letter.received_at()),
        "dead_lettered_at": to_millis(letter.dead_lettered_at()),
        "attempts": letter.attempts(),
        "cause": letter.cause().map(cut),
        "routes": routes.iter().map(route).collect::<Value>(),
    });
    value.to_string()
}

/// Returns a stored letter.
pub(super) fn letter(message: &StreamMessage) -> DeadLetter {
    let stored_at = SystemTime::from(message.time);
    let json: Value =
        serde_json::from_str(value(&message.headers, DEAD_LETTER)).unwrap_or_default();
    let time = |name: &str| {
        json[name]
            .as_u64()
            .and_then(from_millis)
            .unwrap_or(stored_at)
    };
    let attempts = json["attempts"].as_u64().unwrap_or_default();
    let routes = json["routes"].as_array().into_iter().flatten();
    let routes = routes.filter_map(|result| {
        Some(RouteResult {
            route: result[0].as_str()?.into(),
            reason: result[1].as_str().map(Arc::from),
        })
    });
    DeadLetter::stored(StoredRecord {
        id: message.sequence,
        message_id: json["message_id"].as_str().unwrap_or_default(),
        body: &String::from_utf8_lossy(&message.payload),
        traceparent: traceparent(&message.headers),
        state: EventState::Dead,
        received_at: time("received_at"),
        ended_at: Some(time("dead_lettered_at")),
        attempts: u32::try_from(attempts).unwrap_or(u32::MAX),
        routes: routes.collect(),
        history: Vec::new(),
        cause: json["cause"].as_str().map(Arc::from),
    })
}

/// Returns the consumer of a stored letter's route.
pub(super) fn consumer(headers: &HeaderMap) -> &str {
    value(headers, CONSUMER)
}

/// Returns the headers of a letter's replay.
pub(super) fn of_replay(
    letter: &DeadLetter,
    event: &Event,
    consumer: &str,
    sequence: Option<u64>,
) -> HeaderMap {
    let mut headers = of_event(event);
    if let Some(sequence) = sequence {
        headers.insert(REPLAY_OF, sequence.to_string());
    }
    headers.insert(TARGET_CONSUMER, consumer);
    let finished = letter.routes().iter().filter(|end| !end.is_failure());
    let finished: Vec<_> = finished.map(|end| encoded(end.route())).collect();
    headers.insert(FINISHED_ROUTES, finished.join(","));
    headers
}

/// Returns the headers of a replay of an event for some consumers. The `finished` routes don't run. If `only` is present, only this
/// route runs.
pub(super) fn of_event_replay(
    event: &Event,
    sequence: u64,
    consumers: &[String],
    finished: &[Arc<str>],
    only: Option<&str>,
) -> HeaderMap {
    let mut headers = of_event(event);
    headers.insert(REPLAY_OF, sequence.to_string());
    // No consumer is named `=`.
    let targets = match consumers {
        [] => "=".to_owned(),
        _ => consumers.join(","),
    };
    headers.insert(TARGET_CONSUMER, targets);
    if !finished.is_empty() {
        let finished: Vec<_> = finished.iter().map(|route| encoded(route)).collect();
        headers.insert(FINISHED_ROUTES, finished.join(","));
    }
    if let Some(only) = only {
        headers.insert(TARGET_ROUTE, encoded(only));
    }
    headers
}

/// Returns the headers of the record of a replay. `stream` is the identity of the stream of events.
pub(super) fn of_mark(sequence: u64, replay: u64, stream: u64) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(REPLAY_OF, sequence.to_string());
    headers.insert(REPLAY, replay.to_string());
    headers.insert(STREAM, stream.to_string());
    headers
}

/// Returns the sequences of an event and its replay, unless they belong to another stream.
pub(super) fn mark(headers: &HeaderMap, stream: u64) -> Option<(u64, u64)> {
    let number = |name| value(headers, name).parse::<u64>().ok();
    let pair = (number(REPLAY_OF)?, number(REPLAY)?);
    (number(STREAM)? == stream).then_some(pair)
}

/// Returns the sequence of the event that a message replays.
pub(super) fn replay_of(headers: &HeaderMap) -> Option<u64> {
    value(headers, REPLAY_OF).parse().ok()
}

/// Returns the only route that a replay runs.
pub(super) fn only_route(headers: &HeaderMap) -> Option<Arc<str>> {
    let route = headers.get(TARGET_ROUTE)?;
    decoded(route.as_str()).map(Arc::from)
}

/// Returns the sequence of a letter's event. If a replay failed, returns the sequence of the event that was replayed.
pub(super) fn letter_event(headers: &HeaderMap) -> Option<u64> {
    // The letter's id is the consumer, the sequence and the time, separated by dots.
    let id = headers.get(NATS_MESSAGE_ID)?.as_str();
    replay_of(headers).or_else(|| id.rsplit('.').nth(1)?.parse().ok())
}

/// Returns whether an event is meant for a consumer. Only replays are limited to some consumers.
pub(super) fn is_meant_for(headers: &HeaderMap, consumer: &str) -> bool {
    let only = value(headers, TARGET_CONSUMER);
    only.is_empty() || only.split(',').any(|only| only == consumer)
}

/// Returns the routes that a replay doesn't run.
pub(super) fn finished_routes(headers: &HeaderMap) -> Vec<Arc<str>> {
    // An empty name is encoded as `=`.
    let finished = value(headers, FINISHED_ROUTES).split(',');
    let finished = finished.filter(|route| !route.is_empty());
    finished
        .filter_map(|route| decoded(route).map(Arc::from))
        .collect()
}

/// Returns the `messageId` in the header for the stream's duplicate detection.
pub(super) fn message_id(headers: &HeaderMap) -> Option<String> {
    decoded(headers.get(NATS_MESSAGE_ID)?.as_str())
}

pub(super) fn received_at(headers: &HeaderMap) -> Option<SystemTime> {
    from_millis(value(headers, RECEIVED).parse().ok()?)
}

pub(super) fn traceparent(headers: &HeaderMap) -> Option<Traceparent> {
    Traceparent::parse(value(headers, TRACEPARENT))
}

fn from_millis(millis: u64) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis))
}

/// Returns the value of a header, or an empty string if the header is missing.
fn value<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).map_or("", |value| value.as_str())
}
