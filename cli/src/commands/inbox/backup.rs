use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use botisimo_webhooks::SqliteFile;
use indicatif::BinaryBytes;
use serde_json::json;

use super::failure;
use crate::failure::{Failure, Success};
use crate::output::Output;

/// Copies the inbox to a new file, also while the service runs
///
/// The copy has every event that the inbox had accepted when the backup began. To restore it, stop the service, move the old file with
/// its `-wal` and `-shm` away, and put the copy in its place.
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  botisimo inbox inbox.db backup /backups/inbox-$(date +%F).db")]
pub(crate) struct Args {
    /// New file
    to: PathBuf,
}

pub(super) async fn run(
    file: &SqliteFile,
    args: &Args,
    output: &Output,
) -> Result<Success, Failure> {
    let bar = output.progress(0, "KiB");
    let progress = {
        let bar = bar.clone();
        move |done: u64, all: u64| {
            bar.set_length(all / 1024);
            bar.set_position(done / 1024);
        }
    };
    let copied = tokio::select! {
        copied = file.backup(&args.to, progress) => Some(copied),
        _ = tokio::signal::ctrl_c() => None,
    };
    bar.finish_and_clear();
    let Some(copied) = copied else {
        wait_until_gone(&args.to).await;
        return Err(Failure::unavailable("stopped: no backup was made"));
    };
    copied.map_err(|error| failure(&error))?;
    let bytes = std::fs::metadata(&args.to).map_or(0, |file| file.len());
    let copy = SqliteFile::open_read_only(&args.to)
        .await
        .map_err(|error| failure(&error))?;
    let stats = copy.stats().await.map_err(|error| failure(&error))?;
    output.line(format_args!(
        "{}: {}, {} events in flight, {} dead letters",
        args.to.display(),
        BinaryBytes(bytes),
        stats.in_flight(),
        stats.dead_letters
    ));
    output.json(&json!({
        "file": args.to,
        "bytes": bytes,
        "in_flight": stats.in_flight(),
        "dead_letters": stats.dead_letters,
    }));
    Ok(Success::Good)
}

/// Waits until the stopped backup has deleted its unfinished file.
async fn wait_until_gone(to: &Path) {
    let mut partial = OsString::from(to);
    partial.push("-partial");
    for _ in 0..100 {
        if !Path::new(&partial).exists() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
