//! The JSON in which the inboxes with an SQL database store routes and attempts.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::delivery::{AttemptRecord, Progress, RouteResult, Waiting};
use crate::runtime::{millis, to_millis};

/// Returns a stored time, or the epoch if the platform can't represent that time.
pub(in crate::inbox) fn time(millis: u64) -> SystemTime {
    let since = Duration::from_millis(millis);
    let time = SystemTime::UNIX_EPOCH.checked_add(since);
    time.unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Writes the finished routes of an event as JSON, if there are any.
pub(in crate::inbox) fn finished_routes(progress: &Progress) -> Option<String> {
    let ends = progress.results();
    (!ends.is_empty()).then(|| routes(ends))
}

/// Writes finished routes as JSON.
pub(in crate::inbox) fn routes(ends: &[RouteResult]) -> String {
    routes_value(ends).to_string()
}

fn routes_value(ends: &[RouteResult]) -> Value {
    let route = |end: &RouteResult| match end.reason() {
        None => json!({ "route": end.route() }),
        Some(reason) if end.is_skipped() => json!({ "route": end.route(), "skipped": reason }),
        Some(reason) => json!({ "route": end.route(), "failed": reason }),
    };
    Value::Array(ends.iter().map(route).collect())
}

/// Writes the waiting routes of an event as JSON, if they have other delays or other attempts than the event.
pub(in crate::inbox) fn waiting_routes(progress: &Progress) -> Option<String> {
    let route = |waiting: &Waiting| {
        // Rounded up, so that no route runs early.
        let ms = millis(waiting.delay.saturating_add(Duration::from_nanos(999_999)));
        json!({ "route": &*waiting.route, "attempts": waiting.attempts, "ms": ms })
    };
    let waiting = progress.uneven()?.iter().map(route);
    Some(Value::Array(waiting.collect()).to_string())
}

/// Reads the waiting routes. If the JSON has an unexpected form, all of the event's routes run in the next attempt.
pub(in crate::inbox) fn waiting(routes: Option<&[u8]>) -> Vec<Waiting> {
    let Some(Ok(Value::Array(routes))) = routes.map(serde_json::from_slice) else {
        return Vec::new();
    };
    let waiting = |route: &Value| {
        let name = Arc::from(route.get("route")?.as_str()?);
        let attempts = u32::try_from(route.get("attempts")?.as_u64()?).ok()?;
        let delay = Duration::from_millis(route.get("ms")?.as_u64()?);
        Some(Waiting::stored(name, attempts, delay))
    };
    routes.iter().filter_map(waiting).collect()
}

/// Writes an attempt as JSON.
pub(in crate::inbox) fn attempt(attempt: &AttemptRecord) -> String {
    let micros = attempt.duration().as_micros() as f64;
    let value = json!({
        "attempt": attempt.number(),
        "started_at": to_millis(attempt.started_at()),
        "ms": micros / 1000.0,
        "routes": routes_value(attempt.routes()),
    });
    value.to_string()
}

/// Reads the finished attempts of an event. Attempts in an unexpected form are left out.
pub(in crate::inbox) fn history(text: &[u8]) -> Vec<AttemptRecord> {
    match serde_json::from_slice(text) {
        Ok(Value::Array(attempts)) => attempts.iter().filter_map(read_attempt).collect(),
        _ => Vec::new(),
    }
}

/// Reads an attempt. Returns `None` if the JSON has an unexpected form.
fn read_attempt(attempt: &Value) -> Option<AttemptRecord> {
    let number = u32::try_from(attempt.get("attempt")?.as_u64()?).ok()?;
    let started_at = time(attempt.get("started_at")?.as_u64()?);
    let ms = attempt.get("ms")?.as_f64()?;
    let duration = Duration::try_from_secs_f64(ms / 1000.0).ok()?;
    let routes = results(attempt.get("routes")?.as_array()?);
    Some(AttemptRecord::stored(number, started_at, duration, routes))
}

/// Reads the finished routes. If the JSON has an unexpected form, no route counts as finished. At worst, a route runs
/// again.
pub(in crate::inbox) fn ends(routes: &[u8]) -> Vec<RouteResult> {
    match serde_json::from_slice(routes) {
        Ok(Value::Array(routes)) => results(&routes),
        _ => Vec::new(),
    }
}

fn results(routes: &[Value]) -> Vec<RouteResult> {
    let end = |route: &Value| {
        Some(RouteResult {
            route: Arc::from(route.get("route")?.as_str()?),
            reason: route
                .get("failed")
                .or_else(|| route.get("skipped"))
                .and_then(Value::as_str)
                .map(Arc::from),
        })
    };
    routes.iter().filter_map(end).collect()
}

/// Returns the results of the finished routes, and the last results of the routes that will be retried.
pub(in crate::inbox) fn with_latest(
    mut finished: Vec<RouteResult>,
    history: &[AttemptRecord],
) -> Vec<RouteResult> {
    for result in AttemptRecord::latest(history) {
        if finished.iter().all(|each| each.route() != result.route()) {
            finished.push(result);
        }
    }
    finished
}
