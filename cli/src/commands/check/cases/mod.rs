//! All cases, in the order in which they run.

mod bodies;
mod events;
mod load;
mod reach;
mod requests;
mod secret;

use super::case::Case;
use super::case::Level::{Must, Should};

macro_rules! cases {
    ($($level:ident $($gate:ident)? $id:literal, $title:literal, $why:literal, $run:path;)*) => {
        &[$(Case {
            id: $id,
            level: $level,
            title: $title,
            why: $why,
            is_gate: cases!(@gate $($gate)?),
            run: |checker| Box::pin($run(checker)),
        }),*]
    };
    (@gate gate) => { true };
    (@gate) => { false };
}

pub(super) static CASES: &[Case] = cases! {
    Must gate "connect", "the server accepts connections, and its certificate is valid",
        "The sender calls a public HTTPS URL. If it can't connect, it drops the event.", reach::connect;
    Should "https", "the URL uses HTTPS",
        "The sender asks for an HTTPS URL. Over http://, others can read the secret and the events.", reach::https;
    Must gate "redirect", "a valid event isn't redirected",
        "The sender doesn't follow redirects: it sends the event again to the same URL, until it disables the endpoint.", reach::redirect;
    Must gate "valid-event", "a valid event gets 2xx",
        "The sender retries any other answer, and disables an endpoint that fails for days.", events::valid;
    Must "quick-answer", "the answer to a valid event is quick",
        "If no 2xx comes quickly, the sender drops the event. It doesn't retry.", events::quick;
    Should "work-after-answer", "the endpoint answers before it handles the event",
        "If the answer waits for the handler, a slow handler loses events.", events::before_work;
    Must "duplicate", "the same event again gets 2xx",
        "If an answer was lost, the sender repeats the event. An error is retried for days.", events::duplicate;
    Must "concurrent-duplicates", "two copies of an event at once get 2xx, or 503 with Retry-After",
        "A retry can overtake the first request.", events::concurrent_duplicates;
    Must "unknown-type", "an event of an unknown type gets 2xx",
        "The sender adds event types. An error is retried for days, and disables the endpoint.", events::unknown_type;
    Must "unknown-member", "an event with a further member gets 2xx",
        "The sender may add members to the envelope.", events::unknown_member;
    Must "empty-data", "an event with empty data gets 2xx",
        "The sender publishes no schema for the data.", events::empty_data;
    Must "unicode", "an event with any Unicode text gets 2xx",
        "Streamers and viewers write titles and names in all scripts.", events::unicode;
    Should "large-event", "an event of 256 KiB gets 2xx",
        "The sender states no maximum size.", events::large;
    Must "content-type-parameter", "the content type application/json; charset=utf-8 gets 2xx",
        "The sender doesn't state its content type, and many clients add the parameter.", events::content_type_parameter;
    Should "no-content-type", "an event without a content type gets 2xx",
        "The sender doesn't state its content type.", events::no_content_type;
    Must "secret", "an event with a wrong secret, or without one, is refused",
        "The sender signs nothing. The secret alone shows that it sent the event.", secret::refused;
    Must "not-json", "a body that isn't JSON gets an answer, but no 5xx",
        "A 5xx is retried, and hides real failures.", bodies::not_json;
    Must "invalid-utf-8", "a body that isn't UTF-8 gets an answer, but no 5xx",
        "A 5xx is retried, and hides real failures.", bodies::invalid_utf8;
    Must "empty-body", "an empty body gets an answer, but no 5xx",
        "Probes and scanners send empty bodies.", bodies::empty;
    Must "not-an-object", "a JSON array gets an answer, but no 5xx",
        "A 5xx is retried, and hides real failures.", bodies::array;
    Must "missing-member", "an envelope without an event type gets an answer, but no 5xx",
        "If the sender changes its envelope, an error that names the member is found soonest.", bodies::missing_member;
    Must "wrong-type", "an envelope whose event type is a number gets an answer, but no 5xx",
        "If the sender changes its envelope, an error that names the member is found soonest.", bodies::wrong_type;
    Must "deep-nesting", "a body of 100,000 brackets gets an answer, but no 5xx",
        "Strangers can reach the URL. A parser that recurses without a limit crashes the process.", bodies::deep;
    Should "rejects-malformed", "a body that isn't an event gets 4xx",
        "If the endpoint answers 2xx, nobody learns that the sender changed its envelope.", bodies::rejected;
    Should "oversize", "a body of 16 MiB is refused with 413, or accepted",
        "Strangers can reach the URL. Without a limit, bodies fill the memory.", bodies::oversize;
    Should "wrong-content-type", "the content type text/plain gets 4xx",
        "Pages of other sites can send text/plain to an internal endpoint.", requests::wrong_content_type;
    Should "method-get", "GET gets 4xx, and best 405 with Allow: POST",
        "A person who opens the URL in a browser must not look like an event.", requests::get;
    Should "method-put", "PUT gets 4xx, and best 405 with Allow: POST",
        "The sender only uses POST.", requests::put;
    Must "chunked-body", "a chunked body gets 2xx",
        "The sender doesn't state whether it sends a length.", requests::chunked;
    Must "slow-body", "a body that takes a second gets 2xx",
        "Networks delay packets.", requests::slow_body;
    Must "expect-continue", "Expect: 100-continue gets 2xx",
        "Some clients send this header with large bodies, and wait for an answer.", requests::expect;
    Should "keep-alive", "a second event on the same connection gets 2xx",
        "If the connection closes without notice, the next event can be lost.", requests::keep_alive;
    Should "http2", "an event over HTTP/2 gets 2xx",
        "The sender's version of HTTP isn't stated. Most clients prefer HTTP/2 if the server offers it.", requests::http2;
    Must "aborted-body", "after a connection closes at half a body, the next event gets 2xx",
        "Networks break connections.", requests::aborted;
    Must "half-body", "a request that stalls at half a body ends, and other events get 2xx meanwhile",
        "Requests that never end use up connections and memory.", requests::half_body;
    Must "load", "under load, each event gets 2xx, or 503 or 429 with Retry-After",
        "The sender retries a 503. If connections are refused, events are lost.", load::load;
    Must "secret-echo", "no answer contains the secret",
        "Answers end up in the logs of others.", secret::echo;
};
