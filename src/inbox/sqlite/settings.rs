use std::path::{Path, PathBuf};
use std::time::Duration;

use super::volume::Volume;

/// The settings of the inbox and its file.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    /// `open` makes this path absolute, because the process may change its working directory.
    pub(super) path: PathBuf,
    pub(super) lock_timeout: Duration,
    pub(super) max_wal_bytes: u64,
    /// The limit of all events, in memory and on disk.
    pub(super) max_events: Volume,
    /// The limit of the events in memory.
    pub(super) max_in_memory: Volume,
    pub(super) max_remembered_ids: usize,
    pub(super) duplicate_window: Duration,
    pub(super) max_dead_letters: Volume,
    pub(super) keep_dead_letters: Duration,
    /// How long the inbox keeps handled and unhandled events.
    pub(super) keep_handled: Duration,
    pub(super) max_handled: Volume,
    pub(super) max_crashes: u32,
}

impl Settings {
    pub(super) fn new(path: &Path) -> Self {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        let volume = |events, bytes| Volume { events, bytes };
        Self {
            path: path.to_owned(),
            lock_timeout: Duration::ZERO,
            max_wal_bytes: 64 << 20,
            max_events: volume(1_000_000, 1 << 30),
            max_in_memory: volume(1024, 16 << 20),
            max_remembered_ids: 1_000_000,
            duplicate_window: DAY * 7,
            max_dead_letters: volume(100_000, 256 << 20),
            keep_dead_letters: DAY * 30,
            keep_handled: Duration::ZERO,
            max_handled: volume(100_000, 256 << 20),
            max_crashes: 3,
        }
    }

    /// Returns whether the inbox keeps handled events.
    pub(super) fn keeps_handled(&self) -> bool {
        !self.keep_handled.is_zero()
    }

    /// Returns whether the inbox remembers any message ids.
    pub(super) fn remembers(&self) -> bool {
        self.max_remembered_ids > 0 && !self.duplicate_window.is_zero()
    }
}
