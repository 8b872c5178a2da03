use botisimo_webhooks::{EventRecord, RouteResult, SqliteFile};
use serde_json::Value;

use super::failure;
use super::list::{event_type, state, time};
use crate::failure::{Failure, Success};
use crate::output::{FAINT, Output, STRONG, duration, styled, table};
use crate::text::visible;

/// Shows one event with its attempts and its body
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Id of the event, which `list` shows
    id: u64,
}

pub(super) async fn run(
    file: &SqliteFile,
    args: &Args,
    output: &Output,
) -> Result<Success, Failure> {
    let found = file
        .events()
        .get(args.id)
        .await
        .map_err(|error| failure(&error))?;
    let Some(record) = found else {
        output.warning(format_args!("the inbox has no event {}", args.id));
        return Ok(Success::Bad);
    };
    output.line(text(&record));
    let mut json = serde_json::to_value(&record).unwrap_or_default();
    json["body"] = Value::from(record.body());
    output.json(&json);
    Ok(Success::Good)
}

fn text(record: &EventRecord) -> String {
    let mut lines = vec![format!(
        "{} {}",
        styled(STRONG, event_type(record)),
        styled(FAINT, visible(record.message_id()))
    )];
    let attempts = match record.attempts() {
        1 => "1 attempt".to_owned(),
        attempts => format!("{attempts} attempts"),
    };
    let mut facts = vec![
        vec!["id".to_owned(), record.id().to_string()],
        vec![
            "state".to_owned(),
            format!("{}, {attempts}", state(record.state())),
        ],
        vec!["received".to_owned(), time(record.received_at())],
    ];
    if let Some(ended_at) = record.ended_at() {
        facts.push(vec!["ended".to_owned(), time(ended_at)]);
    }
    if let Some(cause) = record.cause() {
        facts.push(vec!["cause".to_owned(), visible(cause).into_owned()]);
    }
    if let Err(error) = record.event() {
        facts.push(vec![
            "not an event".to_owned(),
            visible(&error.to_string()).into_owned(),
        ]);
    }
    lines.push(table(&[], &facts));
    if !record.routes().is_empty() {
        lines.push(styled(STRONG, "\nroutes"));
        lines.push(results(record.routes()));
    }
    if !record.history().is_empty() {
        lines.push(styled(STRONG, "\nattempts"));
    }
    for attempt in record.history() {
        let (started, took) = (time(attempt.started_at()), duration(attempt.duration()));
        lines.push(format!("{}  {started}  {took}", attempt.number()));
        lines.push(results(attempt.routes()));
    }
    lines.push(styled(STRONG, "\nbody"));
    lines.push(body(record.body()));
    lines.join("\n")
}

fn results(results: &[RouteResult]) -> String {
    let row = |result: &RouteResult| {
        let outcome = result.reason().unwrap_or_else(|| result.outcome());
        vec![
            format!("   {}", visible(result.route())),
            visible(outcome).into_owned(),
        ]
    };
    table(&[], &results.iter().map(row).collect::<Vec<_>>())
}

/// Returns the body, indented over several lines if the body is JSON.
fn body(body: &str) -> String {
    let json: Option<Value> = serde_json::from_str(body).ok();
    let pretty = json.and_then(|json| serde_json::to_string_pretty(&json).ok());
    let text = pretty.unwrap_or_else(|| body.to_owned());
    let lines: Vec<_> = text.lines().map(visible).collect();
    lines.join("\n")
}
