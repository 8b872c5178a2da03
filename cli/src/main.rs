//! The `botisimo` command sends events to a webhook endpoint, as Botisimo would.

mod commands;
mod connection;
mod envelope;
mod failure;
mod http;
mod latency;
mod output;
mod pace;
mod recording;
mod results;
mod samples;
mod text;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use commands::Command;
use output::Output;

const EXIT_CODES: &str = "\
Exit codes:
  0  the command succeeded
  1  the command ran and its result is bad: an answer isn't 2xx, a check failed, or an event was lost
  2  an argument or an input file is wrong
  3  the endpoint or the file can't be reached";

/// Sends, rehearses, checks, records and operates Botisimo webhooks.
#[derive(Parser)]
#[command(name = "botisimo", version, propagate_version = true, after_help = EXIT_CODES)]
struct Cli {
    /// Print JSON, one object per line
    #[arg(long, global = true)]
    json: bool,
    #[command(flatten)]
    color: colorchoice_clap::Color,
    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    cli.color.write_global();
    let output = Output::new(cli.json);
    let result = commands::run(cli.command, &output, Cli::command());
    match result {
        Ok(success) => success.exit_code(),
        Err(failure) => {
            output.failure(&failure);
            failure.exit_code()
        }
    }
}
