use std::borrow::Cow;

use maud::{Markup, html};

use super::Context;
use super::layout::{layout, live};
use crate::delivery::{EventRecord, EventState, RouteResult};
use crate::inspector::moment;
use crate::inspector::query::{Conditions, STATES, link};
use crate::inspector::text::{Untrusted, visible};

/// A page of a list of events.
pub(in crate::inspector) struct Listed {
    pub(in crate::inspector) conditions: Conditions,
    /// The page starts below this id.
    pub(in crate::inspector) before: Option<u64>,
    /// The events, or why they couldn't be listed.
    pub(in crate::inspector) records: Result<Vec<EventRecord>, String>,
    /// The maximum number of events.
    pub(in crate::inspector) limit: usize,
    /// Whether the page lists dead letters.
    pub(in crate::inspector) is_dead: bool,
}

/// The names of outcomes in the filter.
const OUTCOMES: [&str; 7] = [
    "handled",
    "failed",
    "panicked",
    "mismatched",
    "timed out",
    "dropped",
    "skipped",
];

/// The page with a list of events.
pub(in crate::inspector) fn events(context: &Context<'_>, listed: &Listed) -> Markup {
    let (page, title) = if listed.is_dead {
        ("dead-letters", "Dead letters")
    } else {
        ("events", "Events")
    };
    // The script updates the first page. A page of dead letters stays as it is, because its rows can be selected.
    let is_live = listed.before.is_none() && !listed.is_dead && listed.records.is_ok();
    let content = html! {
        div.split { h1 { (title) } @if is_live { (live()) } }
        (filter(context, listed, page))
        @match &listed.records {
            Err(error) => p.notice.bad role="alert" { (Untrusted(error)) },
            Ok(records) => {
                @if listed.is_dead && context.viewer.can_operate() {
                    form method="post" action="?" {
                        (table(context, listed, records, is_live))
                        (bulk(context, listed, page, !records.is_empty()))
                    }
                } @else {
                    (table(context, listed, records, is_live))
                    @if context.viewer.can_operate() && !records.is_empty() {
                        details {
                            summary { "Replay or delete all events that match" }
                            form method="post" action="?" { (bulk(context, listed, page, false)) }
                        }
                    }
                }
                (pages(listed, records, page))
            }
        }
    };
    layout(context, page, title, is_live, &content)
}

fn filter(context: &Context<'_>, listed: &Listed, page: &str) -> Markup {
    let conditions = &listed.conditions;
    html! {
        form.filter method="get" action="?" role="search" aria-label="Filter" {
            input type="hidden" name="page" value=(page);
            @if !listed.is_dead {
                label { "State"
                    select name="state" {
                        @for (name, text) in STATES {
                            option value=(name) selected[name == conditions.state] { (text) }
                        }
                    }
                }
            }
            label { "Event type"
                input name="type" value=(visible(&conditions.event_type)) placeholder="account.*";
            }
            label { "Route" (select("route", &conditions.route, context.source.route_names().iter().map(|name| &**name))) }
            @if !listed.is_dead {
                label { "Outcome" (select("outcome", &conditions.outcome, OUTCOMES.into_iter())) }
            }
            label { "Reason contains" input name="reason" value=(visible(&conditions.reason)); }
            label { "Message id" input name="id" value=(visible(&conditions.message_id)); }
            label { "Since (UTC)" input name="since" value=(visible(&conditions.since)) placeholder="1h or 2026-11-27T12:00"; }
            label { "Until (UTC)" input name="until" value=(visible(&conditions.until)) placeholder="15m"; }
            div {
                button.primary type="submit" { "Filter" }
                @if !conditions.is_empty() { " " a href={ "?page=" (page) } { "Clear" } }
            }
        }
    }
}

/// A field with the names, and the current value even if it isn't one of the names.
fn select<'a>(field: &str, value: &str, names: impl Iterator<Item = &'a str>) -> Markup {
    let mut names: Vec<_> = names.collect();
    if !value.is_empty() && !names.contains(&value) {
        names.push(value);
    }
    html! {
        select name=(field) {
            option value="" { "any" }
            @for name in names {
                option value=(visible(name)) selected[name == value] { (visible(name)) }
            }
        }
    }
}

fn table(context: &Context<'_>, listed: &Listed, records: &[EventRecord], is_live: bool) -> Markup {
    let selects = listed.is_dead && context.viewer.can_operate();
    html! {
        table.events {
            thead {
                tr {
                    @if selects { th { input type="checkbox" data-all aria-label="Select all on this page"; } }
                    th { "Received" } th { "Type" } th { "Message id" } th { "State" } th { "Routes" }
                    th.number { "Attempts" }
                }
            }
            tbody data-feed=[is_live.then(|| link("feed", &listed.conditions.encode()))] data-limit=(listed.limit) {
                @for record in records { (any_row(record, selects)) }
            }
        }
        p #empty.quiet hidden[!records.is_empty()] {
            @if listed.is_dead { "No dead letter matches." }
            @else { "No event matches. The inbox keeps ended events within its limits." }
        }
    }
}

/// The row of an event in a live list.
pub(in crate::inspector) fn row(record: &EventRecord) -> Markup {
    any_row(record, false)
}

fn any_row(record: &EventRecord, selects: bool) -> Markup {
    let id = record.id();
    let event_type = record.event().map(|event| event.event_type().as_str());
    html! {
        tr id={ "event-" (id) } data-id=(id) {
            @if selects {
                td { input type="checkbox" name="event" value=(id) aria-label={ "Select event " (id) }; }
            }
            td.time data-label="Received" { (moment::absolute(record.received_at())) }
            td data-label="Type" {
                @match event_type {
                    Ok(event_type) => (Untrusted(event_type)),
                    Err(_) => span.bad { "can't be decoded" },
                }
            }
            td.mono { a href=(link("event", &format!("event={id}"))) { (Untrusted(shown_id(record.message_id()))) } }
            td data-label="State" { (state(record.state())) }
            td data-label="Routes" { (results(record)) }
            td.number data-label="Attempts" { (record.attempts()) }
        }
    }
}

/// An empty id would leave a link without text.
fn shown_id(id: &str) -> &str {
    if id.is_empty() { "(empty)" } else { id }
}

pub(super) fn state(state: EventState) -> Markup {
    let class = match state {
        EventState::Handled => "badge good",
        EventState::Dead => "badge bad",
        EventState::Retrying => "badge warn",
        _ => "badge quiet",
    };
    html! { span class=(class) { (state) } }
}

/// The longest part of a reason in a list, in characters.
const MAX_REASON: usize = 160;

/// The result of each route, with the beginning of its reason.
fn results(record: &EventRecord) -> Markup {
    html! {
        ul.routes {
            @for result in record.routes() {
                li {
                    (Untrusted(result.route())) " " (outcome(result))
                    @if let Some((_, detail)) = result.reason().and_then(|reason| reason.split_once(": ")) {
                        " " small.quiet { (Untrusted(&shortened(detail))) }
                    }
                }
            }
        }
        @if record.routes().is_empty() && record.cause().is_some() { span.bad { "no route ran" } }
    }
}

fn shortened(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(MAX_REASON) {
        None => Cow::Borrowed(text),
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
    }
}

pub(super) fn outcome(result: &RouteResult) -> Markup {
    let class = match result.outcome() {
        _ if result.is_failure() => "bad",
        _ if result.is_skipped() => "quiet",
        _ => "good",
    };
    html! { span class=(class) { (Untrusted(result.outcome())) } }
}

/// The buttons that replay or delete several events.
fn bulk(context: &Context<'_>, listed: &Listed, page: &str, selects: bool) -> Markup {
    let conditions = listed.conditions.at(context.now).encode();
    html! {
        div.actions {
            input type="hidden" name="token" value=(context.token);
            input type="hidden" name="back" value=(page);
            input type="hidden" name="q" value=(conditions);
            (replay_routes(context))
            @if selects {
                button type="submit" name="do" value="replay-selected" { "Replay selected" }
                button.danger type="submit" name="do" value="delete-selected" { "Delete selected…" }
            }
            button type="submit" name="do" value="replay-matching" { "Replay all that match…" }
            button.danger type="submit" name="do" value="delete-matching" { "Delete all that match…" }
        }
    }
}

/// The field that selects the routes of a replay.
pub(super) fn replay_routes(context: &Context<'_>) -> Markup {
    html! {
        label { "Replay to"
            select name="routes" {
                option value="remaining" { "routes that haven't handled the event" }
                option value="all" { "all routes" }
                @for name in context.source.route_names() {
                    option value={ "only:" (visible(&name)) } { "only " (visible(&name)) }
                }
            }
        }
    }
}

fn pages(listed: &Listed, records: &[EventRecord], page: &str) -> Markup {
    let query = listed.conditions.encode();
    let older = records.last().filter(|_| records.len() >= listed.limit);
    html! {
        nav.actions aria-label="Older and newer events" {
            @if listed.before.is_some() { a href=(link(page, &query)) { "Newest" } }
            @if let Some(last) = older {
                @let before = format!("before={}", last.id());
                @let query = if query.is_empty() { before } else { format!("{query}&{before}") };
                a href=(link(page, &query)) rel="next" { "Older" }
            }
        }
    }
}
