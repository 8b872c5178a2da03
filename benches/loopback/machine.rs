//! Describes the machine on which the figures depend.

use std::io::Write;
use std::time::{Duration, Instant};
use std::{fs, thread};

use crate::Fault;
use crate::process::Folder;

pub(crate) fn name() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name"));
    let model = model.map_or("an unknown processor", |model| {
        model.trim_start_matches([' ', '\t', ':'])
    });
    let cores = thread::available_parallelism().map_or(1, usize::from);
    format!("{cores} cores of {model}")
}

/// Returns the median time that the disk takes to write and sync one page.
pub(crate) fn fsync() -> Result<Duration, Fault> {
    let folder = Folder::new("fsync")?;
    let mut file = fs::File::create(format!("{}/file", folder.path()))?;
    let mut times = Vec::new();
    for _ in 0..100 {
        let since = Instant::now();
        file.write_all(&[0; 4096])?;
        file.sync_data()?;
        times.push(since.elapsed());
    }
    times.sort();
    Ok(times[times.len() / 2])
}
