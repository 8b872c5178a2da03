use std::io::Write;

use clap_complete::Shell;

use crate::failure::{Failure, Success};

/// Prints a script that completes commands in a shell.
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  botisimo completions bash > ~/.local/share/bash-completion/completions/botisimo")]
pub(crate) struct Args {
    /// Shell that runs the script
    shell: Shell,
}

pub(super) fn run(args: &Args, mut definition: clap::Command) -> Result<Success, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut definition, "botisimo", &mut script);
    let _ = std::io::stdout().write_all(&script);
    Ok(Success::Good)
}
