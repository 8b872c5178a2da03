//! `botisimo inbox`: reads the SQLite file of an inbox, also while a process owns it, and changes a file that no process owns.

mod backup;
mod change;
mod filter;
mod list;
mod report;
mod show;

use std::error::Error as _;
use std::path::PathBuf;

use botisimo_webhooks::{Error, SqliteFile};
use clap::Subcommand;

use crate::failure::{Failure, Success};
use crate::output::Output;

/// Looks into the SQLite file of an inbox, and operates it.
///
/// `stats`, `list`, `dead`, `show`, `check` and `backup` only read the file, so the service may run. `replay`, `delete` and `prune`
/// change the file, so no process may own it. A running service has the inspector for these.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  botisimo inbox inbox.db stats
  botisimo inbox inbox.db list --state retrying --since 1h
  botisimo inbox inbox.db dead --reason timeout
  botisimo inbox inbox.db show 42
  botisimo inbox inbox.db replay --route announce --since 2h
  botisimo inbox inbox.db prune --older-than 30d
  botisimo inbox inbox.db backup /backups/inbox.db")]
pub(crate) struct Args {
    /// File of the inbox
    file: PathBuf,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Counts the events by state, and measures the file
    Stats,
    List(Box<list::Args>),
    Dead(Box<list::DeadArgs>),
    Show(show::Args),
    Replay(Box<change::ReplayArgs>),
    Delete(Box<change::DeleteArgs>),
    Prune(change::PruneArgs),
    /// Checks the integrity of the file, and says what the next start does
    Check,
    Backup(backup::Args),
}

pub(super) async fn run(args: &Args, output: &Output) -> Result<Success, Failure> {
    let path = &args.file;
    let read = || async {
        SqliteFile::open_read_only(path)
            .await
            .map_err(|error| failure(&error))
    };
    match &args.action {
        Action::Stats => report::stats(&read().await?, output).await,
        Action::Check => report::check(&read().await?, output).await,
        Action::List(args) => list::run(&read().await?, args, output).await,
        Action::Dead(args) => list::dead(&read().await?, args, output).await,
        Action::Show(args) => show::run(&read().await?, args, output).await,
        Action::Backup(args) => backup::run(&read().await?, args, output).await,
        Action::Replay(args) => change::replay(path, args, output).await,
        Action::Delete(args) => change::delete(path, args, output).await,
        Action::Prune(args) => change::prune(path, args, output).await,
    }
}

/// Returns an error of the library with its cause.
fn failure(error: &Error) -> Failure {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    Failure::unavailable(text)
}
