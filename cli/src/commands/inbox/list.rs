use std::time::SystemTime;

use botisimo_webhooks::{EventFilter, EventRecord, EventState, SqliteFile};

use super::failure;
use super::filter::{FilterArgs, State};
use crate::failure::{Failure, Success};
use crate::output::{BAD, FAINT, GOOD, Output, WARNING, styled, table};
use crate::text::visible;

/// The longest reason in a table, in characters.
const MAX_REASON: usize = 60;

/// Lists events, newest first
#[derive(clap::Args)]
pub(crate) struct Args {
    /// State of the events. Several are possible
    #[arg(long, value_name = "STATE")]
    state: Vec<State>,
    #[command(flatten)]
    page: PageArgs,
}

/// Lists dead letters, newest first
#[derive(clap::Args)]
pub(crate) struct DeadArgs {
    #[command(flatten)]
    page: PageArgs,
}

#[derive(clap::Args)]
struct PageArgs {
    /// Maximum number of events
    #[arg(long, value_name = "N", default_value = "20", value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// Id below which the list begins, for the next page
    #[arg(long, value_name = "ID")]
    before: Option<u64>,
    #[command(flatten)]
    filter: FilterArgs,
}

pub(super) async fn run(
    file: &SqliteFile,
    args: &Args,
    output: &Output,
) -> Result<Success, Failure> {
    page(file, &args.page, &args.state, output).await
}

pub(super) async fn dead(
    file: &SqliteFile,
    args: &DeadArgs,
    output: &Output,
) -> Result<Success, Failure> {
    page(file, &args.page, &[State::Dead], output).await
}

async fn page(
    file: &SqliteFile,
    args: &PageArgs,
    states: &[State],
    output: &Output,
) -> Result<Success, Failure> {
    let mut filter = args.filter.filter(states);
    if let Some(id) = args.before {
        filter = filter.before(id);
    }
    let limit = args.limit as usize;
    // One more event shows whether there is another page.
    let mut records = read(file, &filter, limit + 1).await?;
    let has_more = records.len() > limit;
    records.truncate(limit);
    if records.is_empty() {
        output.note("no event matches");
    } else {
        output.line(records_table(&records));
    }
    records.iter().for_each(|record| output.json(record));
    if let Some(last) = records.last().filter(|_| has_more) {
        output.note(format_args!("there are more: --before {}", last.id()));
    }
    Ok(Success::Good)
}

pub(super) async fn read(
    file: &SqliteFile,
    filter: &EventFilter,
    limit: usize,
) -> Result<Vec<EventRecord>, Failure> {
    file.events()
        .list(filter, limit)
        .await
        .map_err(|error| failure(&error))
}

/// Returns a table with one row per event.
pub(super) fn records_table(records: &[EventRecord]) -> String {
    let rows = records.iter().map(|record| {
        let cells = [
            record.id().to_string(),
            time(record.received_at()),
            state(record.state()),
            record.attempts().to_string(),
            event_type(record),
            visible(record.message_id()).into_owned(),
        ];
        let mut row: Vec<_> = cells.into_iter().collect();
        row.push(styled(FAINT, shortened(&visible(&reason(record)))));
        row
    });
    let header = [
        "id",
        "received",
        "state",
        "attempts",
        "event type",
        "message id",
        "why",
    ];
    table(&header, &rows.collect::<Vec<_>>())
}

/// Returns the state in its color.
pub(super) fn state(state: EventState) -> String {
    match state {
        EventState::Dead => styled(BAD, state),
        EventState::Retrying => styled(WARNING, state),
        EventState::Handled => styled(GOOD, state),
        _ => state.to_string(),
    }
}

pub(super) fn event_type(record: &EventRecord) -> String {
    match record.event() {
        Ok(event) => visible(event.event_type().as_str()).into_owned(),
        Err(_) => "(not an event)".to_owned(),
    }
}

pub(super) fn time(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

/// Returns why the event isn't handled: the first failure of a route, or the cause of the dead letter.
fn reason(record: &EventRecord) -> String {
    let mut failures = record
        .routes()
        .iter()
        .filter_map(|result| Some(format!("{} {}", result.route(), result.reason()?)));
    let first = failures.next();
    first
        .or_else(|| record.cause().map(str::to_owned))
        .unwrap_or_default()
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(MAX_REASON) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
