use std::time::{Duration, SystemTime};

use maud::{Markup, html};

use super::Context;
use super::events::{outcome, replay_routes, state};
use super::layout::{layout, live};
use crate::delivery::{AttemptRecord, EventRecord, RouteResult};
use crate::inspector::query::{Conditions, link};
use crate::inspector::text::{Preformatted, Untrusted};
use crate::inspector::{moment, payload};

/// The page with one event.
pub(in crate::inspector) fn event(context: &Context<'_>, record: &EventRecord) -> Markup {
    let title = match record.event() {
        Ok(event) => event.event_type().as_str(),
        Err(_) => "Undecodable event",
    };
    let page = if record.state() == crate::delivery::EventState::Dead {
        "dead-letters"
    } else {
        "events"
    };
    let content = html! {
        div.split { h1 { (Untrusted(title)) } (live()) }
        div #event data-live {
            (facts(context, record))
            (routes(record))
            (attempts(context, record))
        }
        @if context.viewer.can_operate() { (actions(context, record)) }
        @if context.viewer.sees_payloads() {
            (body(record))
        } @else {
            h2 { "Payload" }
            p.quiet { "Payloads are hidden from readers." }
        }
    };
    layout(
        context,
        page,
        "Event",
        record.state().is_in_flight(),
        &content,
    )
}

fn facts(context: &Context<'_>, record: &EventRecord) -> Markup {
    let event = record.event();
    let same_id = Conditions {
        message_id: record.message_id().to_owned(),
        ..Conditions::default()
    };
    html! {
        dl.cards {
            div { dt { "State" } dd { (state(record.state())) } }
            div { dt { "Attempts" } dd { (record.attempts()) } }
            div { dt { "Received" } dd { small { (moment::ago(record.received_at(), context.now)) } } }
            @if let Some(ended) = record.ended_at() {
                div { dt { "Ended" } dd { small { (moment::ago(ended, context.now)) } } }
            }
            @if let Ok(event) = &event {
                div {
                    dt { "Sent" }
                    dd { small { @match event.timestamp() {
                        Some(sent) => (moment::ago(sent, context.now)),
                        None => { "at " (event.timestamp_millis()) " ms" },
                    } } }
                }
            }
            div { dt { "Number in the inbox" } dd { small { (record.id()) } } }
            div { dt { "Message id" } dd.mono { small { a href=(link("events", &same_id.encode())) { (Untrusted(record.message_id())) } } } }
            @if let Some(traceparent) = event.ok().and_then(|event| event.traceparent()) {
                div { dt { "Trace" } dd.mono { small { (Untrusted(traceparent)) } } }
            }
        }
        @if let Some(cause) = record.cause() {
            p.notice.bad { (Untrusted(cause)) }
        }
        @if let Err(error) = record.event() {
            p.notice.bad { "This version can't decode the event: " (Untrusted(&error.to_string())) }
        }
    }
}

fn routes(record: &EventRecord) -> Markup {
    html! {
        h2 { "Routes" }
        @if record.routes().is_empty() {
            p.quiet { @if record.state().is_in_flight() { "No route has ended yet." } @else { "No route ran." } }
        } @else {
            (list(record.routes()))
        }
    }
}

fn list(results: &[RouteResult]) -> Markup {
    html! {
        ul.routes {
            @for result in results {
                li {
                    strong { (Untrusted(result.route())) } " "
                    @match result.reason() {
                        None => (outcome(result)),
                        Some(reason) if result.is_failure() => span.bad { (Untrusted(reason)) },
                        Some(reason) => span.quiet { (Untrusted(reason)) },
                    }
                }
            }
        }
    }
}

fn attempts(context: &Context<'_>, record: &EventRecord) -> Markup {
    let history = record.history();
    html! {
        h2 { "Attempts" }
        @if history.is_empty() {
            p.quiet { "The inbox has no record of a finished attempt." }
        }
        @let span = Span::of(history);
        ol.timeline {
            @for attempt in history {
                @let has_failed = attempt.routes().iter().any(RouteResult::is_failure);
                @let (start, width) = span.place(attempt);
                li {
                    "Attempt " (attempt.number()) ", " (moment::ago(attempt.started_at(), context.now)) ", ran "
                    (moment::exact(attempt.duration()))
                    svg viewBox="0 0 1000 10" preserveAspectRatio="none" aria-hidden="true" {
                        rect.track width="1000" height="10" {}
                        rect class=(if has_failed { "run bad" } else { "run" }) x=(start) width=(width) height="10" {}
                    }
                    (list(attempt.routes()))
                }
            }
        }
    }
}

/// The time from the start of the first attempt to the end of the last attempt.
struct Span {
    start: SystemTime,
    length: Duration,
}

impl Span {
    fn of(history: &[AttemptRecord]) -> Self {
        let starts = history.iter().map(AttemptRecord::started_at);
        let start = starts.min().unwrap_or(SystemTime::UNIX_EPOCH);
        let ends = history
            .iter()
            .filter_map(|attempt| attempt.started_at().checked_add(attempt.duration()));
        let end = ends.max().unwrap_or(start);
        Self {
            start,
            length: end.duration_since(start).unwrap_or_default(),
        }
    }

    /// Returns the start and the width of an attempt's bar, in thousandths. Even a short attempt is visible.
    fn place(&self, attempt: &AttemptRecord) -> (u32, u32) {
        let share = |part: Duration| match self.length.is_zero() {
            true => 0.0,
            false => (part.as_secs_f64() / self.length.as_secs_f64()).clamp(0.0, 1.0),
        };
        let offset = attempt
            .started_at()
            .duration_since(self.start)
            .unwrap_or_default();
        let start = (share(offset) * 1000.0) as u32;
        let width = (share(attempt.duration()) * 1000.0) as u32;
        let width = width.max(6);
        (start.min(1000 - 6), width)
    }
}

fn actions(context: &Context<'_>, record: &EventRecord) -> Markup {
    html! {
        h2 { "Actions" }
        @if record.state().is_in_flight() {
            p.quiet { "The event is in flight. It can be replayed or deleted once it has ended." }
        } @else {
            div.actions {
                form method="post" action="?" {
                    (hidden(context, record))
                    (replay_routes(context))
                    button.primary type="submit" name="do" value="replay-event" { "Replay" }
                }
                form method="post" action="?" {
                    (hidden(context, record))
                    button.danger type="submit" name="do" value="delete-event" { "Delete…" }
                }
            }
        }
    }
}

fn hidden(context: &Context<'_>, record: &EventRecord) -> Markup {
    html! {
        input type="hidden" name="token" value=(context.token);
        input type="hidden" name="back" value="event";
        input type="hidden" name="event" value=(record.id());
    }
}

/// Beyond this length in bytes, the page doesn't repeat the body as a command and as a test.
const MAX_REPEATED: usize = 64 << 10;

fn body(record: &EventRecord) -> Markup {
    let body = record.body();
    let is_repeated = body.len() <= MAX_REPEATED;
    html! {
        details open {
            summary { h2 { "Payload" } }
            (copyable("payload", &payload::pretty(body)))
        }
        @if is_repeated {
            details {
            summary { h2 { "As a curl command" } }
            p.quiet { "Set " code { "URL" } " to the receiver's URL, with its secret. The inbox treats a copy as a duplicate: change the "
                code { "messageId" } " to send a new event." }
            (copyable("curl", &payload::curl(body)))
            }
        }
        @if let (true, Ok(event)) = (is_repeated, record.event()) {
            details {
                summary { h2 { "As a test" } }
                (copyable("mock", &payload::mock_request(event.event_type().as_str(), body)))
            }
        }
    }
}

fn copyable(id: &str, text: &str) -> Markup {
    html! {
        button type="button" data-copy=(id) { "Copy" }
        pre id=(id) tabindex="0" { (Preformatted(text)) }
    }
}
