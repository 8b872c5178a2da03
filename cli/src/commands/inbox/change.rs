use std::path::Path;
use std::time::Duration;

use botisimo_webhooks::{EventFilter, EventLog, Replay, SqliteFile};
use serde_json::json;

use super::failure;
use super::filter::{FilterArgs, State, age};
use super::list::{read, records_table};
use crate::failure::{Failure, Success};
use crate::output::Output;

/// The number of events that a dry run lists.
const MAX_LISTED: usize = 20;

/// The events to change.
#[derive(clap::Args)]
struct SelectionArgs {
    /// Ids of events
    #[arg(value_name = "ID", conflicts_with_all = ["all", "state", "FilterArgs"])]
    ids: Vec<u64>,
    /// Select all dead letters, or all events in the states of --state
    #[arg(long)]
    all: bool,
    /// State of the events. Several are possible [default: dead]
    #[arg(long, value_name = "STATE", value_parser = ended_state)]
    state: Vec<State>,
    /// List the events, and change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    filter: FilterArgs,
}

fn ended_state(text: &str) -> Result<State, String> {
    match text {
        "dead" => Ok(State::Dead),
        "handled" => Ok(State::Handled),
        "unhandled" => Ok(State::Unhandled),
        _ => {
            Err("only events that have ended can be changed: dead, handled or unhandled".to_owned())
        }
    }
}

/// Replays events that have ended: the next start runs them
///
/// A replay runs the routes that haven't handled the event. Stop the service first. While the service runs, use its inspector.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  botisimo inbox inbox.db replay 42 43
  botisimo inbox inbox.db replay --all --dry-run
  botisimo inbox inbox.db replay --type 'connection.*' --reason 'connection refused' --since 1d
  botisimo inbox inbox.db replay --state handled --only-route announce --since 2h")]
pub(crate) struct ReplayArgs {
    #[command(flatten)]
    selection: SelectionArgs,
    /// Run all matching routes again, including routes that handled the event
    #[arg(long, conflicts_with = "only_route")]
    all_routes: bool,
    /// Run only this route
    #[arg(long, value_name = "NAME")]
    only_route: Option<String>,
}

/// Deletes events that have ended
///
/// The inbox still remembers the message ids. Stop the service first. While the service runs, use its inspector.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  botisimo inbox inbox.db delete 42
  botisimo inbox inbox.db delete --all --until 30d --dry-run")]
pub(crate) struct DeleteArgs {
    #[command(flatten)]
    selection: SelectionArgs,
}

/// Deletes dead letters, handled and unhandled events that ended long ago
///
/// Stop the service first. While the service runs, it prunes automatically: see `keep_dead_letters_for` and `keep_handled`.
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  botisimo inbox inbox.db prune --older-than 30d")]
pub(crate) struct PruneArgs {
    /// Time since the event ended, by the inbox's clock
    #[arg(long, value_name = "AGE", value_parser = age)]
    older_than: Duration,
}

/// The change that a command makes.
enum Change<'a> {
    Replay(&'a Replay),
    Delete,
}

pub(super) async fn replay(
    path: &Path,
    args: &ReplayArgs,
    output: &Output,
) -> Result<Success, Failure> {
    let routes = match &args.only_route {
        Some(route) => Replay::Only(route.clone()),
        None if args.all_routes => Replay::All,
        None => Replay::Remaining,
    };
    change(path, &args.selection, &Change::Replay(&routes), output).await
}

pub(super) async fn delete(
    path: &Path,
    args: &DeleteArgs,
    output: &Output,
) -> Result<Success, Failure> {
    change(path, &args.selection, &Change::Delete, output).await
}

pub(super) async fn prune(
    path: &Path,
    args: &PruneArgs,
    output: &Output,
) -> Result<Success, Failure> {
    let file = SqliteFile::lock(path)
        .await
        .map_err(|error| failure(&error))?;
    let dead = file
        .events()
        .prune(args.older_than)
        .await
        .map_err(|error| failure(&error))?;
    let handled = file
        .prune_handled(args.older_than)
        .await
        .map_err(|error| failure(&error))?;
    output.line(format_args!(
        "deleted {} and {}",
        counted(dead, "dead letter"),
        counted(handled, "handled event")
    ));
    output.json(&json!({ "dead_letters": dead, "handled": handled }));
    Ok(Success::Good)
}

async fn change(
    path: &Path,
    selection: &SelectionArgs,
    change: &Change<'_>,
    output: &Output,
) -> Result<Success, Failure> {
    if selection.ids.is_empty() && !selection.all && !selection.filter.is_set() {
        return Err(Failure::usage(
            "no event is selected: pass ids, filters, or --all for all dead letters",
        ));
    }
    if selection.dry_run {
        return dry_run(path, selection, output).await;
    }
    let file = SqliteFile::lock(path)
        .await
        .map_err(|error| failure(&error))?;
    let events = file.events();
    if selection.ids.is_empty() {
        let changed = change.matching(&events, &selection.filter()).await?;
        change.report(changed, &[], output);
        return Ok(Success::Good);
    }
    let (mut changed, mut unchanged) = (0, Vec::new());
    for id in &selection.ids {
        match change.one(&events, *id).await? {
            true => changed += 1,
            false => unchanged.push(*id),
        }
    }
    change.report(changed, &unchanged, output);
    Ok(Success::when(unchanged.is_empty()))
}

impl SelectionArgs {
    fn filter(&self) -> EventFilter {
        match &self.state[..] {
            [] => self.filter.filter(&[State::Dead]),
            states => self.filter.filter(states),
        }
    }
}

impl Change<'_> {
    async fn one(&self, events: &EventLog, id: u64) -> Result<bool, Failure> {
        let changed = match self {
            Self::Replay(routes) => events.replay(id, (*routes).clone()).await,
            Self::Delete => events.delete(id).await,
        };
        changed.map_err(|error| failure(&error))
    }

    async fn matching(&self, events: &EventLog, filter: &EventFilter) -> Result<u64, Failure> {
        let changed = match self {
            Self::Replay(routes) => events.replay_matching(filter, (*routes).clone()).await,
            Self::Delete => events.delete_matching(filter).await,
        };
        changed.map_err(|error| failure(&error))
    }

    fn report(&self, changed: u64, unchanged: &[u64], output: &Output) {
        let events = counted(changed, "event");
        let (done, json) = match self {
            Self::Replay(_) if changed == 0 => ("replayed 0 events".to_owned(), "replayed"),
            Self::Replay(_) => (
                format!("{events} will run after the next start"),
                "replayed",
            ),
            Self::Delete => (format!("deleted {events}"), "deleted"),
        };
        output.line(done);
        for id in unchanged {
            output.warning(format_args!(
                "event {id} stays as it is: it is in flight, or the inbox has no such event"
            ));
        }
        output.json(&json!({ json: changed, "unchanged": unchanged }));
    }
}

async fn dry_run(
    path: &Path,
    selection: &SelectionArgs,
    output: &Output,
) -> Result<Success, Failure> {
    let file = SqliteFile::open_read_only(path)
        .await
        .map_err(|error| failure(&error))?;
    let mut records = Vec::new();
    let mut count = 0;
    if selection.ids.is_empty() {
        let mut filter = selection.filter();
        loop {
            let page = read(&file, &filter, 256).await?;
            let Some(last) = page.last() else { break };
            filter = filter.before(last.id());
            count += page.len() as u64;
            let space = MAX_LISTED.saturating_sub(records.len());
            records.extend(page.into_iter().take(space));
        }
    }
    for id in &selection.ids {
        let record = file
            .events()
            .get(*id)
            .await
            .map_err(|error| failure(&error))?;
        records.extend(record.filter(|record| !record.state().is_in_flight()));
        count = records.len() as u64;
    }
    if !records.is_empty() {
        output.line(records_table(&records));
    }
    output.line(format_args!("{} would change", counted(count, "event")));
    output.json(&json!({ "would_change": count }));
    Ok(Success::Good)
}

fn counted(count: u64, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}
