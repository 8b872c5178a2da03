//! The file of an inbox on disk, and routers that log their runs.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use botisimo_webhooks::{
    DeliverySettings, Event, EventRouter, HandlerError, RetryPolicy, SqliteInbox,
    SqliteInboxBuilder,
};
use rusqlite::{Connection, OpenFlags};
use tokio::sync::Semaphore;

use super::until;

/// A limit that no test reaches.
pub(crate) const LONG: Duration = Duration::from_secs(600);

/// Returns settings that retry without delay, in at most 5 attempts.
pub(crate) fn delivery() -> DeliverySettings {
    DeliverySettings::new().retry(at_once(5))
}

/// The file of an inbox, in its own folder.
pub(crate) struct InboxFile {
    folder: tempfile::TempDir,
}

impl InboxFile {
    pub(crate) fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder().join("inbox.db")
    }

    /// Returns a builder whose inbox waits until the previous inbox is closed, and retries without delay.
    pub(crate) fn inbox(&self) -> SqliteInboxBuilder {
        SqliteInbox::builder(self.path())
            .lock_timeout(LONG)
            .delivery(delivery())
    }

    /// Returns a connection that reads while an inbox has the file open.
    pub(crate) fn look(&self) -> Connection {
        Connection::open_with_flags(self.path(), OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap()
    }

    /// Returns the number that a query returns.
    pub(crate) fn count(&self, sql: &str) -> i64 {
        self.look().query_row(sql, [], |row| row.get(0)).unwrap()
    }

    /// Waits until no inbox has the file open.
    pub(crate) async fn free(&self) {
        let lock = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(self.folder().join("inbox.db-lock"))
            .unwrap();
        until(|| lock.try_lock().is_ok()).await;
    }

    /// Waits until no inbox has the file open, and returns a connection to change the file.
    pub(crate) async fn closed(&self) -> Connection {
        self.free().await;
        Connection::open(self.path()).unwrap()
    }

    /// Returns a connection to a copy of the file, as it would be if the process crashed now. The handlers at
    /// the gate end, and their results don't reach this copy.
    pub(crate) async fn closed_by(&self, gate: &Semaphore) -> Connection {
        let copy = self.folder().join("copy.db");
        self.look()
            .execute("VACUUM INTO ?1", [copy.to_str()])
            .unwrap();
        gate.add_permits(Semaphore::MAX_PERMITS / 2);
        drop(self.closed().await);
        // A log that belongs to the replaced file would corrupt the copy.
        for suffix in ["-wal", "-shm"] {
            let mut file = self.path().as_os_str().to_owned();
            file.push(suffix);
            let _ = std::fs::remove_file(file);
        }
        std::fs::rename(copy, self.path()).unwrap();
        Connection::open(self.path()).unwrap()
    }

    /// Changes the file while no inbox has it open.
    pub(crate) async fn edit(&self, sql: &str) -> usize {
        self.closed().await.execute(sql, []).unwrap()
    }
}

/// Returns a policy with this number of attempts and no delays.
pub(crate) fn at_once(attempts: u32) -> RetryPolicy {
    RetryPolicy::new()
        .max_attempts(attempts)
        .initial_delay(Duration::ZERO)
        .max_delay(Duration::ZERO)
}

/// The runs of events in order, as `id#attempt`.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    pub(crate) fn write(&self, line: impl Into<String>) {
        self.0.lock().unwrap().push(line.into());
    }

    pub(crate) fn run(&self, event: &Event) {
        self.write(format!("{}#{}", event.id(), event.attempt()));
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    /// Returns how many times each line appears in the log.
    pub(crate) fn counts(&self) -> HashMap<String, usize> {
        let mut counts = HashMap::new();
        for line in self.lines() {
            *counts.entry(line).or_default() += 1;
        }
        counts
    }
}

/// Returns a router that logs its runs.
pub(crate) fn logging(log: &Log) -> EventRouter {
    let log = log.clone();
    EventRouter::new().on("a", move |event: Event| async move { log.run(&event) })
}

/// Returns a router that logs its runs. Each run ends when it gets a permit from the gate.
pub(crate) fn gated(log: &Log, gate: &Arc<Semaphore>) -> EventRouter {
    let (log, gate) = (log.clone(), Arc::clone(gate));
    EventRouter::new().on("a", move |event: Event| async move {
        log.run(&event);
        gate.acquire().await.unwrap().forget();
    })
}

/// Returns a router that logs its runs. Each run fails permanently.
pub(crate) fn failing(log: &Log) -> EventRouter {
    let log = log.clone();
    EventRouter::new().on("a", move |event: Event| async move {
        log.run(&event);
        Err::<(), _>(HandlerError::permanent("no"))
    })
}
