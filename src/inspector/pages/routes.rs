use maud::{Markup, html};

use super::Context;
use super::layout::{layout, live};
use crate::inbox::HealthProblemKind;
use crate::inspector::moment;
use crate::inspector::query::{Conditions, link};
use crate::inspector::text::{Untrusted, visible};

/// The page with the routes, their runs and their problems. `event_type` is the type in the field that finds routes.
pub(in crate::inspector) fn routes(context: &Context<'_>, event_type: &str) -> Markup {
    let content = html! {
        div.split { h1 { "Routes" } (live()) }
        @if context.source.runs_routes() {
            div.scroll #routes data-live { (table(context)) }
        } @else {
            p.notice { "This process runs no routes. Its events run in workers." }
        }
        (find(context, event_type))
    };
    layout(context, "routes", "Routes", true, &content)
}

fn table(context: &Context<'_>) -> Markup {
    let health = context.source.health();
    html! {
        table {
            caption { "Runs since the inspector was created" }
            thead {
                tr {
                    th { "Route" } th { "Matches" }
                    th.number { "Handled" } th.number { "Failed" } th.number { "Skipped" } th.number { "Failure rate" }
                    th.number { "p50" } th.number { "p95" } th { "State" }
                }
            }
            tbody {
                @for name in context.source.route_names() {
                    @let runs = context.source.routes.get(&name);
                    @let events = Conditions { route: name.to_string(), ..Conditions::default() };
                    tr {
                        td { a href=(link("events", &events.encode())) { (Untrusted(&name)) } }
                        td { (matcher(context, &name)) }
                        td.number { (runs.handled) }
                        td.number { (runs.failed) }
                        td.number { (runs.skipped) }
                        td.number { @if runs.total() > 0 { (format!("{:.1} %", runs.failed as f64 / runs.total() as f64 * 100.0)) } }
                        td.number { @if let Some(p50) = runs.quantile(0.5) { (moment::exact(p50)) } }
                        td.number { @if let Some(p95) = runs.quantile(0.95) { (moment::exact(p95)) } }
                        td {
                            @let problems = health.problems().iter().filter(|problem| problem.route() == Some(&*name));
                            @for problem in problems {
                                span.badge.bad title=(visible(&problem.to_string())) {
                                    @match problem.kind() {
                                        HealthProblemKind::RouteStalled => "stalled",
                                        HealthProblemKind::RouteFailing => "failing",
                                        _ => "problem",
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The pattern of a route.
fn matcher(context: &Context<'_>, name: &str) -> Markup {
    let router = context.source.router.as_ref();
    let route = router.and_then(|router| router.routes().find(|route| route.name() == name));
    html! {
        @if let Some(route) = route {
            @match route.pattern() {
                Some(pattern) => code { (Untrusted(&pattern.to_string())) },
                None if route.is_fallback() => "events that no pattern matches",
                None => "every event",
            }
        }
    }
}

/// The form that shows which routes an event type reaches.
fn find(context: &Context<'_>, event_type: &str) -> Markup {
    let router = context.source.router.as_ref();
    html! {
        @if let Some(router) = router {
            h2 { "Which routes does an event type reach?" }
            form.filter method="get" action="?" {
                input type="hidden" name="page" value="routes";
                label { "Event type" input name="type" value=(visible(event_type)) placeholder="connection.stream.started.twitch"; }
                div { button type="submit" { "Find" } }
            }
            @if !event_type.is_empty() {
                @let found = router.matching_routes(event_type);
                @if found.is_empty() {
                    p.notice { "No route matches " code { (Untrusted(event_type)) } "." }
                } @else {
                    p { code { (Untrusted(event_type)) } " reaches:" }
                    ul { @for route in found { li { (Untrusted(route.name())) } } }
                }
            }
        }
    }
}
