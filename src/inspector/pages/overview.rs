use std::time::Duration;

use maud::{Markup, html};

use super::Context;
use super::layout::{layout, live};
use crate::inspector::moment;
use crate::inspector::text::Untrusted;
use crate::runtime::to_millis;

/// The page with the health, the counts and the rate of events.
pub(in crate::inspector) fn overview(context: &Context<'_>) -> Markup {
    let content = html! {
        div.split { h1 { "Overview" } (live()) }
        div #overview data-live {
            (health(context))
            (inbox(context))
            (chart(context))
            (counts(context))
        }
    };
    layout(context, "overview", "Overview", true, &content)
}

fn health(context: &Context<'_>) -> Markup {
    let health = context.source.health();
    html! {
        @if health.is_ok() {
            p.notice.good { "Healthy: the inbox has no problem." }
        }
        @for problem in health.problems() {
            p.notice.bad role="alert" {
                strong { (problem.kind()) } " since " (moment::ago(problem.since(), context.now)) ": "
                (Untrusted(&problem.to_string()))
            }
        }
    }
}

fn inbox(context: &Context<'_>) -> Markup {
    let monitored = context.source.monitored();
    let activity = monitored.activity();
    let stats = activity.stats;
    html! {
        dl.cards {
            div { dt { "Waiting" } dd { (stats.waiting) } }
            div { dt { "Running" } dd { (stats.running) } }
            div { dt { "Retrying" } dd { (stats.retrying) } }
            div { dt { "Dead letters" } dd { a href="?page=dead-letters" { (stats.dead_letters) } } }
            div {
                dt { "Oldest event in flight" }
                dd { @match activity.oldest { Some(age) => (moment::rough(age)), None => "none" } }
            }
            div {
                dt { "Last accepted" }
                dd { @match monitored.monitor().last_accepted() {
                    Some(time) => (moment::ago(time, context.now)),
                    None => "none since the start",
                } }
            }
            @if let Some((events, bytes)) = context.source.info.limits {
                div {
                    dt { "Inbox fill" }
                    dd { (percent(stats.in_flight(), events).max(percent(stats.bytes, bytes))) " %"
                        br; small.quiet { (stats.in_flight()) " of " (events) " events, " (size(stats.bytes)) " of " (size(bytes)) } }
                }
            }
        }
    }
}

fn percent(part: u64, whole: u64) -> u64 {
    part.saturating_mul(100)
        .checked_div(whole)
        .unwrap_or_default()
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1_024 => format!("{bytes} B"),
        1_024..1_048_576 => format!("{} KiB", bytes >> 10),
        1_048_576..1_073_741_824 => format!("{} MiB", bytes >> 20),
        _ => format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30)),
    }
}

/// The accepted events of each minute in the last hour.
fn chart(context: &Context<'_>) -> Markup {
    let counts = context.source.monitored().monitor().events_per_minute();
    let most = counts.iter().copied().max().unwrap_or_default().max(1);
    let total: u64 = counts.iter().sum();
    let bars = counts.iter().enumerate().filter(|(_, count)| **count > 0);
    let start = context
        .now
        .checked_sub(Duration::from_secs(59 * 60))
        .unwrap_or(context.now);
    html! {
        h2 { "Accepted events a minute, last hour" }
        div.card {
            svg.chart viewBox="0 0 600 100" preserveAspectRatio="none" role="img"
                aria-label={ (total) " events in the last hour, at most " (most) " a minute" } data-start=(to_millis(start)) {
                line x1="0" y1="99.5" x2="600" y2="99.5" {}
                @for (minute, count) in bars {
                    @let height = (*count as f64 / most as f64 * 98.0).max(1.0);
                    rect x=(minute * 10 + 1) y=(format!("{:.1}", 99.0 - height)) width="8" height=(format!("{height:.1}")) {
                        title { (count) " events, " (59 - minute) " min ago" }
                    }
                }
            }
            span.quiet { (total) " in the last hour, at most " (if total == 0 { 0 } else { most }) " a minute" }
        }
    }
}

fn counts(context: &Context<'_>) -> Markup {
    html! {
        h2 { "Counts since the process started" }
        dl.cards {
            @for (name, count) in context.source.counts() {
                div { dt { (name.replace('_', " ")) } dd { (count) } }
            }
        }
    }
}
