mod check;
mod completions;
#[cfg(feature = "sqlite")]
mod inbox;
mod man;
mod record;
mod rehearse;
mod replay;
mod send;
mod types;
mod watch;

use std::future::Future;

use clap::Subcommand;

use crate::failure::{Failure, Success};
use crate::output::Output;

#[derive(Subcommand)]
pub(crate) enum Command {
    Send(Box<send::Args>),
    Types(types::Args),
    Check(Box<check::Args>),
    Rehearse(Box<rehearse::Args>),
    Record(Box<record::Args>),
    Replay(Box<replay::Args>),
    #[cfg(feature = "sqlite")]
    Inbox(Box<inbox::Args>),
    Watch(Box<watch::Args>),
    Completions(completions::Args),
    Man(man::Args),
}

/// Runs a command. `definition` describes all commands.
pub(crate) fn run(
    command: Command,
    output: &Output,
    definition: clap::Command,
) -> Result<Success, Failure> {
    match command {
        Command::Send(args) => on_runtime(send::run(&args, output)),
        Command::Types(args) => types::run(&args, output),
        Command::Check(args) => on_runtime(check::run(&args, output)),
        Command::Rehearse(args) => on_runtime(rehearse::run(&args, output)),
        Command::Record(args) => on_runtime(record::run(&args, output)),
        Command::Replay(args) => on_runtime(replay::run(&args, output)),
        #[cfg(feature = "sqlite")]
        Command::Inbox(args) => on_runtime(inbox::run(&args, output)),
        Command::Watch(args) => on_runtime(watch::run(&args, output)),
        Command::Completions(args) => completions::run(&args, definition),
        Command::Man(args) => man::run(args, definition),
    }
}

fn on_runtime(command: impl Future<Output = Result<Success, Failure>>) -> Result<Success, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let runtime = runtime
        .map_err(|error| Failure::unavailable(format_args!("can't start the runtime: {error}")))?;
    runtime.block_on(command)
}
