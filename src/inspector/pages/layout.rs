use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::Context;

const STYLE: &str = include_str!("../assets/inspector.css");
const SCRIPT: &str = include_str!("../assets/inspector.js");

/// The time between two loads of a page without JavaScript, in seconds.
const REFRESH: &str = "10";

/// The pages in the navigation, each with its name in the URL.
const PAGES: [(&str, &str); 4] = [
    ("overview", "Overview"),
    ("events", "Events"),
    ("dead-letters", "Dead letters"),
    ("routes", "Routes"),
];

/// Puts the content of a page between the navigation and the footer. `is_live` pages load again.
pub(super) fn layout(
    context: &Context<'_>,
    page: &str,
    title: &str,
    is_live: bool,
    content: &Markup,
) -> Markup {
    let info = &context.source.info;
    let health = context.source.health();
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="robots" content="noindex";
                title { (title) " · Botisimo webhooks" }
                @if is_live {
                    noscript { meta http-equiv="refresh" content=(REFRESH); }
                }
                link rel="icon" href="data:,";
                style nonce=(context.nonce) { (PreEscaped(STYLE)) }
            }
            body {
                a.skip href="#main" { "Skip to the content" }
                header {
                    div {
                        strong { "Botisimo webhooks" }
                        nav aria-label="Pages" {
                            @for (name, text) in PAGES {
                                a href={ "?page=" (name) } aria-current=[(name == page).then_some("page")] { (text) }
                            }
                        }
                        @if health.is_ok() {
                            span.badge.good { "Healthy" }
                        } @else {
                            a.badge.bad href="?page=overview" {
                                (health.problems().len()) @if health.problems().len() == 1 { " problem" } @else { " problems" }
                            }
                        }
                    }
                }
                main #main {
                    @if let Some(notice) = &context.notice {
                        p.notice.good role="status" { (notice) }
                    }
                    (content)
                }
                footer {
                    "Inbox: " (info.kind)
                    @if let Some(location) = &info.location { ", " (super::super::text::Untrusted(location)) }
                    ". You are " (super::super::text::Untrusted(context.viewer.name()))
                    @if context.viewer.can_operate() { "." } @else { " and can only read." }
                }
                script nonce=(context.nonce) { (PreEscaped(SCRIPT)) }
            }
        }
    }
}

/// The state of the live updates, and the button that pauses them. Only the script shows them.
pub(super) fn live() -> Markup {
    html! {
        span {
            span.quiet #live role="status" {}
            " "
            button #pause type="button" hidden aria-pressed="false" { "Pause" }
        }
    }
}
