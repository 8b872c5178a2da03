use std::io::Write;
use std::path::PathBuf;

use crate::failure::{Failure, Success};

/// Prints the manual page, or writes a page for each command.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  botisimo man | man -l -
  botisimo man --to ~/.local/share/man/man1")]
pub(crate) struct Args {
    /// Folder for the pages of all commands
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
}

pub(super) fn run(args: Args, mut definition: clap::Command) -> Result<Success, Failure> {
    let Some(folder) = args.to else {
        definition.build();
        let mut page = Vec::new();
        clap_mangen::Man::new(definition)
            .render(&mut page)
            .map_err(Failure::unavailable)?;
        let _ = std::io::stdout().write_all(&page);
        return Ok(Success::Good);
    };
    std::fs::create_dir_all(&folder)
        .and_then(|()| clap_mangen::generate_to(definition, &folder))
        .map_err(|error| {
            Failure::unavailable(format_args!("can't write to {}: {error}", folder.display()))
        })?;
    Ok(Success::Good)
}
