//! The names, locks, copies and moves of an inbox's file, and rows that another process wrote.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use botisimo_webhooks::{
    AcceptErrorKind, Accepted, Error, ErrorKind, EventRouter, Inbox, SqliteInbox,
};
use rusqlite::Connection;
use tokio::sync::Semaphore;

use crate::support::sqlite::{InboxFile, Log, delivery, gated, logging};
use crate::support::{balanced, event, keyed, letters, until, wait_idle};

async fn refused(path: impl AsRef<Path>) -> Error {
    let open = SqliteInbox::open(path, EventRouter::new());
    open.await.expect_err("it is open")
}

async fn is_locked(path: impl AsRef<Path>) {
    let error = refused(path.as_ref()).await;
    assert_eq!(error.kind(), ErrorKind::Locked, "{error}");
    assert!(error.to_string().contains("lock_timeout"), "{error}");
}

/// Returns the names of the files in a folder.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let name = |entry: fs::DirEntry| entry.file_name().into_string().unwrap();
    let mut names: Vec<_> = entries.map(|entry| name(entry.unwrap())).collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_has_one_owner_by_whatever_name_it_is_opened() {
    let place = InboxFile::new();
    let (one, other) = (place.folder().join("1.db"), place.folder().join("2.db"));
    for link in [&one, &other] {
        symlink("inbox.db", link).unwrap();
    }
    // This link leads to a file that doesn't exist yet.
    let inbox = SqliteInbox::open(&one, EventRouter::new()).await.unwrap();
    let folder = place.folder().join("folder");
    fs::create_dir(&folder).unwrap();
    let around = folder.join("../inbox.db");
    let far = folder.join("far.db");
    symlink(&other, &far).unwrap();
    let folder_link = place.folder().join("link");
    symlink(place.folder(), &folder_link).unwrap();
    let (hard, far_hard) = (place.folder().join("hard.db"), folder.join("hard.db"));
    for link in [&hard, &far_hard] {
        fs::hard_link(place.path(), link).unwrap();
    }
    let names = [
        &one,
        &other,
        &place.path(),
        &around,
        &far,
        &folder_link.join("inbox.db"),
    ];
    for name in names {
        is_locked(name).await;
    }
    #[cfg(target_os = "linux")]
    for name in [&hard, &far_hard] {
        is_locked(name).await;
    }
    // Deleting the lock file changes nothing.
    fs::remove_file(place.folder().join("inbox.db-lock")).unwrap();
    #[cfg(target_os = "linux")]
    for name in names {
        is_locked(name).await;
    }
    assert_eq!(inbox.accept(event("1")).await, Ok(Accepted::New));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_and_the_lock_lie_beside_the_file_that_a_link_leads_to() {
    let place = InboxFile::new();
    let folder = place.folder().join("folder");
    fs::create_dir(&folder).unwrap();
    let link = folder.join("link.db");
    symlink("../inbox.db", &link).unwrap();
    let inbox = SqliteInbox::open(&link, EventRouter::new()).await.unwrap();
    inbox.accept(event("1")).await.unwrap();
    assert_eq!(names(&folder), ["link.db"]);
    let expected = [
        "folder",
        "inbox.db",
        "inbox.db-lock",
        "inbox.db-shm",
        "inbox.db-wal",
    ];
    assert_eq!(names(place.folder()), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_leads_nowhere_is_named_in_the_error() {
    let place = InboxFile::new();
    symlink("inbox.db", place.path()).unwrap();
    let error = refused(place.path()).await;
    assert!(error.to_string().contains("symbolic link"), "{error}");
    fs::remove_file(place.path()).unwrap();
    symlink("missing/inbox.db", place.path()).unwrap();
    let error = refused(place.path()).await;
    assert!(
        error.to_string().contains("folder doesn't exist"),
        "{error}"
    );
}

/// The process may change its working directory while the inbox is open.
#[tokio::test(flavor = "multi_thread")]
async fn a_relative_path_leads_to_the_same_file_whatever_the_working_directory_becomes() {
    let (place, before) = (InboxFile::new(), std::env::current_dir().unwrap());
    std::env::set_current_dir(place.folder()).unwrap();
    let opening = SqliteInbox::builder("inbox.db").open(EventRouter::new());
    let inbox = opening.await.unwrap();
    std::env::set_current_dir(&before).unwrap();
    for id in ["1", "2"] {
        assert_eq!(inbox.accept(event(id)).await, Ok(Accepted::New));
    }
    is_locked(place.path()).await;
    assert!(!before.join("inbox.db").exists());
}

/// Returns the number of locks that SQLite holds on a file in this process. While other processes change their locks, the kernel's
/// list may lack a lock, so this function reads the list several times.
#[cfg(target_os = "linux")]
fn posix_locks(path: &Path) -> usize {
    use std::os::unix::fs::MetadataExt;

    let inode = format!(":{} ", fs::metadata(path).unwrap().ino());
    let count = || {
        let locks = fs::read_to_string("/proc/locks").unwrap();
        let ours = |line: &&str| line.contains("POSIX") && line.contains(&inode);
        locks.lines().filter(ours).count()
    };
    (0..5).map(|_| count()).max().unwrap_or_default()
}

/// Closing any descriptor of a file drops the locks that SQLite holds on the file in this process.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_open_leaves_the_locks_of_other_inboxes_alone() {
    let place = InboxFile::new();
    let inbox = place.inbox().open(EventRouter::new()).await.unwrap();
    let hard = place.folder().join("hard.db");
    fs::hard_link(place.path(), &hard).unwrap();
    let look = place.look();
    look.query_row("SELECT count(*) FROM events", [], |_| Ok(()))
        .unwrap();
    let before = posix_locks(&place.path());
    assert!(before > 0);
    for name in [place.path(), hard] {
        is_locked(&name).await;
        assert_eq!(posix_locks(&place.path()), before, "{}", name.display());
    }
    // The inbox that owns the file keeps its lock.
    drop(inbox);
    place.free().await;
    assert!(posix_locks(&place.path()) > 0);
    look.query_row("SELECT count(*) FROM events", [], |_| Ok(()))
        .unwrap();
    // A database of another application also keeps its locks.
    let other = place.folder().join("other.db");
    let foreign = Connection::open(&other).unwrap();
    foreign
        .execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE a (b); BEGIN; SELECT * FROM a")
        .unwrap();
    let before = posix_locks(&other);
    assert!(before > 0);
    refused(&other).await;
    assert_eq!(posix_locks(&other), before);
}

/// Copies the files of an inbox as they would be if the process crashed now.
fn copy(place: &InboxFile, suffixes: &[&str]) -> InboxFile {
    let copy = InboxFile::new();
    for suffix in suffixes {
        let name = |place: &InboxFile| PathBuf::from(format!("{}{suffix}", place.path().display()));
        fs::copy(name(place), name(&copy)).unwrap();
    }
    copy
}

/// Opens an inbox, and returns how many events it recovers.
async fn recovered(place: &InboxFile) -> u64 {
    let inbox = place.inbox().open(EventRouter::new()).await.unwrap();
    let recovered = inbox.handle().stats().recovered;
    wait_idle(&inbox.handle()).await;
    recovered
}

/// Returns an open inbox that has three events in its log.
async fn with_three() -> (InboxFile, SqliteInbox) {
    let (place, gate) = (InboxFile::new(), Arc::new(Semaphore::new(0)));
    let router = gated(&Log::default(), &gate);
    let inbox = place.inbox().open(router).await.unwrap();
    for id in ["1", "2", "3"] {
        inbox.accept(event(id)).await.unwrap();
    }
    (place, inbox)
}

/// Stores the path of a file in it, as if an inbox had been opened there, and leaves a log next to the file.
fn store_open_path(crashed: &InboxFile) {
    let edit = Connection::open(crashed.path()).unwrap();
    edit.set_db_config(
        rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE,
        true,
    )
    .unwrap();
    edit.execute(
        "UPDATE totals SET open_path = ?1",
        [crashed.path().to_str()],
    )
    .unwrap();
    edit.query_row("PRAGMA wal_checkpoint", [], |_| Ok(()))
        .unwrap();
    edit.execute("UPDATE totals SET clock_skew = clock_skew + 0", [])
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_moved_without_its_log_is_refused_until_the_log_is_moved_too() {
    let (place, _inbox) = with_three().await;
    let crashed = copy(&place, &["", "-wal"]);
    store_open_path(&crashed);
    let new = crashed.folder().join("new.db");
    fs::rename(crashed.path(), &new).unwrap();
    let error = refused(&new).await;
    assert!(error.to_string().contains("inbox.db-wal"), "{error}");
    assert_eq!(error.kind(), ErrorKind::Inbox);
    fs::rename(
        crashed.folder().join("inbox.db-wal"),
        crashed.folder().join("new.db-wal"),
    )
    .unwrap();
    let inbox = SqliteInbox::open(&new, EventRouter::new()).await.unwrap();
    assert_eq!(inbox.handle().stats().recovered, 3);
}

/// If SQLite creates a database next to a log, it deletes the log.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_whose_database_is_gone_is_kept_until_the_database_is_back() {
    let (place, _inbox) = with_three().await;
    let crashed = copy(&place, &["", "-wal"]);
    let away = crashed.folder().join("away.db");
    fs::rename(crashed.path(), &away).unwrap();
    for _ in 0..2 {
        let error = refused(crashed.path()).await;
        assert!(error.to_string().contains("inbox.db-wal"), "{error}");
    }
    fs::rename(&away, crashed.path()).unwrap();
    assert_eq!(recovered(&crashed).await, 3);
}

/// If a database is opened through a hard link, SQLite names the log after the link.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_name_of_a_file_whose_log_lies_beside_the_first_one_is_refused() {
    let (place, _inbox) = with_three().await;
    let crashed = copy(&place, &["", "-wal"]);
    store_open_path(&crashed);
    let hard = crashed.folder().join("hard.db");
    fs::hard_link(crashed.path(), &hard).unwrap();
    let error = refused(&hard).await;
    assert!(error.to_string().contains("inbox.db-wal"), "{error}");
    assert_eq!(recovered(&crashed).await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_has_all_events_if_sqlite_makes_it_or_if_it_has_all_files() {
    let (place, inbox) = with_three().await;
    // The inbox is open during the backup. `VACUUM INTO` and the `.backup` command of `sqlite3` copy in the
    // same way.
    let vacuumed = InboxFile::new();
    let into = vacuumed.path();
    place
        .look()
        .execute("VACUUM INTO ?1", [into.to_str()])
        .unwrap();
    assert_eq!(recovered(&vacuumed).await, 3);
    // The test copies the database first and its log second, while no process is writing.
    let copied = copy(&place, &["", "-wal"]);
    assert_eq!(recovered(&copied).await, 3);
    // A copy of the database file alone lacks the events of the log, and `open` reports this.
    let alone = copy(&place, &[""]);
    assert_eq!(recovered(&alone).await, 0);
    assert_eq!(inbox.accept(event("4")).await, Ok(Accepted::New));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inbox_that_finds_rows_it_did_not_write_runs_them_and_continues() {
    let (place, log) = (InboxFile::new(), Log::default());
    let inbox = place.inbox().open(logging(&log)).await.unwrap();
    let handle = inbox.handle();
    assert_eq!(inbox.accept(event("1")).await, Ok(Accepted::New));
    wait_idle(&handle).await;
    let other = Connection::open(place.path()).unwrap();
    for (id, name) in [(2, "other-2"), (3, "other-3")] {
        let body = event(name).body().to_owned();
        let sql = "INSERT INTO events (id, received_at, body) VALUES (?1, 0, ?2)";
        other.execute(sql, (id, body)).unwrap();
        let sql = "INSERT INTO message_ids VALUES (?1, 0, ?2)";
        other.execute(sql, (id, name)).unwrap();
    }
    // Another row has the number of the next event. After a 503, the sender sends the event again.
    let mut refused = 0;
    for id in ["5", "6", "7"] {
        while let Err(error) = inbox.accept(event(id)).await {
            assert_eq!(error.kind(), AcceptErrorKind::Unavailable);
            refused += 1;
            assert!(refused < 20, "the inbox never recovers");
        }
    }
    wait_idle(&handle).await;
    let mut ran = log.lines();
    ran.sort();
    assert_eq!(ran, ["1#1", "5#1", "6#1", "7#1", "other-2#1", "other-3#1"]);
    assert_eq!((handle.stats().accepted, handle.stats().recovered), (4, 2));
    balanced(&handle.stats());
    assert!(handle.health().is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn events_deleted_by_hand_take_no_room_and_block_no_key() {
    let (place, log, gate) = (
        InboxFile::new(),
        Log::default(),
        Arc::new(Semaphore::new(0)),
    );
    let builder = place
        .inbox()
        .delivery(delivery().concurrency(1).ordering_key(crate::support::key))
        .max_events(4)
        .max_events_in_memory(1);
    let inbox = builder.open(gated(&log, &gate)).await.unwrap();
    let handle = inbox.handle();
    for (id, key) in [("1", "a"), ("2", "b"), ("3", "b"), ("4", "c")] {
        inbox.accept(keyed(id, key)).await.unwrap();
    }
    until(|| log.len() == 1).await;
    assert!(inbox.accept(event("5")).await.is_err());
    let other = Connection::open(place.path()).unwrap();
    assert_eq!(
        other
            .execute("DELETE FROM events WHERE id IN (2, 4)", [])
            .unwrap(),
        2
    );
    gate.add_permits(9);
    until(|| handle.stats().in_flight() == 0).await;
    assert_eq!(log.lines(), ["1#1", "3#1"]);
    balanced(&handle.stats());
    for id in ["5", "6", "7"] {
        assert_eq!(inbox.accept(event(id)).await, Ok(Accepted::New));
    }
}

/// The bug: an event that another process deleted while the event was in memory counted twice.
#[tokio::test(flavor = "multi_thread")]
async fn events_deleted_by_hand_while_they_run_count_once() {
    let (place, log, gate) = (
        InboxFile::new(),
        Log::default(),
        Arc::new(Semaphore::new(0)),
    );
    let builder = place.inbox().delivery(delivery().concurrency(1));
    let inbox = builder.open(gated(&log, &gate)).await.unwrap();
    let handle = inbox.handle();
    for id in ["1", "2", "3", "4"] {
        inbox.accept(event(id)).await.unwrap();
    }
    until(|| log.len() == 1).await;
    let other = Connection::open(place.path()).unwrap();
    let sql = "DELETE FROM events WHERE id IN (1, 3)";
    assert_eq!(other.execute(sql, []).unwrap(), 2);
    while handle.stats().dead < 2 {
        // Each query lets the inbox look for changes.
        letters(&inbox).list(None, 1).await.unwrap();
        balanced(&handle.stats());
    }
    gate.add_permits(9);
    until(|| handle.stats().in_flight() == 0).await;
    let stats = handle.stats();
    balanced(&stats);
    assert_eq!((stats.handled, stats.dead, stats.bytes), (2, 2, 0));
    assert_eq!(log.len(), 4);
}

/// The dead letter has the number of an event.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_in_the_way_of_a_dead_letter_does_not_stop_the_inbox() {
    let (place, log) = (InboxFile::new(), Log::default());
    let router = crate::support::sqlite::failing(&log);
    let inbox = place.inbox().open(router).await.unwrap();
    let other = Connection::open(place.path()).unwrap();
    let sql = "INSERT INTO dead_letters (id, message_id, event_type, received_at, dead_lettered_at, attempts, routes, body) VALUES (1, 'x', 'a', 0, 0, 1, '[]', '{}')";
    other.execute(sql, []).unwrap();
    while inbox.accept(event("1")).await.is_err() {}
    wait_idle(&inbox.handle()).await;
    assert_eq!(log.len(), 1);
    assert!(
        letters(&inbox)
            .list(None, 9)
            .await
            .unwrap()
            .iter()
            .any(|l| l.message_id() == "1")
    );
    assert!(inbox.handle().health().is_ok());
}

/// Law 11 of ARCHITECTURE.md: the inbox reports a missing file every minute, in its log and in its health.
#[cfg(feature = "tracing")]
#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_file_is_reported_every_minute_and_by_the_health() {
    let (place, runtime) = (InboxFile::new(), logged::Logged::new());
    let inbox = place
        .inbox()
        .open_with(runtime.clone(), EventRouter::new())
        .await
        .unwrap();
    let (handle, reports) = (inbox.handle(), || runtime.count("the inbox is failing"));
    inbox.accept(event("1")).await.unwrap();
    wait_idle(&handle).await;
    assert!(handle.health().is_ok());
    fs::rename(place.path(), place.folder().join("moved.db")).unwrap();
    until(|| !handle.health().is_ok()).await;
    let error = handle.health().to_string();
    assert!(
        error.contains("inbox.db was deleted, moved or replaced"),
        "{error}"
    );
    assert!(inbox.accept(event("2")).await.is_err());
    assert_eq!(inbox.accept(event("1")).await, Ok(Accepted::Duplicate));
    for minutes in 1..4 {
        assert_eq!(reports(), minutes);
        runtime.clock.advance(Duration::from_secs(60));
        until(|| reports() == minutes + 1).await;
    }
    // If the file is put back, the inbox recovers without a restart.
    fs::rename(place.folder().join("moved.db"), place.path()).unwrap();
    until(|| handle.health().is_ok()).await;
    assert_eq!(runtime.count("the inbox has recovered"), 1);
    assert_eq!(inbox.accept(event("2")).await, Ok(Accepted::New));
}

#[cfg(feature = "tracing")]
#[tokio::test(flavor = "multi_thread")]
async fn a_fault_that_passes_is_reported_as_recovered_without_new_events() {
    let (place, runtime) = (InboxFile::new(), logged::Logged::new());
    let inbox = place
        .inbox()
        .open_with(runtime.clone(), EventRouter::new())
        .await
        .unwrap();
    let other = Connection::open(place.path()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert!(inbox.accept(event("1")).await.is_err());
    let handle = inbox.handle();
    until(|| !handle.health().is_ok()).await;
    other.execute_batch("ROLLBACK").unwrap();
    until(|| handle.health().is_ok()).await;
    assert_eq!(runtime.count("the inbox is failing"), 1);
    assert_eq!(runtime.count("the inbox has recovered"), 1);
}

#[cfg(feature = "tracing")]
mod logged {
    use std::cell::RefCell;
    use std::thread;
    use std::time::{Duration, Instant, SystemTime};

    use botisimo_webhooks::{BoxFuture, Runtime};
    use tracing::subscriber::DefaultGuard;

    use crate::support::runtime::ManualClock;
    use crate::support::subscriber::{self, Captured};

    thread_local! {
        static GUARD: RefCell<Option<DefaultGuard>> = const { RefCell::new(None) };
    }

    /// A runtime that captures the log of the inbox's thread. The capture starts when that thread first reads
    /// the time.
    #[derive(Clone)]
    pub(super) struct Logged {
        pub(super) clock: ManualClock,
        log: Captured,
    }

    impl Logged {
        pub(super) fn new() -> Self {
            Self {
                clock: ManualClock::new(),
                log: Captured::default(),
            }
        }

        pub(super) fn count(&self, text: &str) -> usize {
            self.log.text().matches(text).count()
        }
    }

    impl Runtime for Logged {
        fn spawn(&self, task: BoxFuture<()>) {
            self.clock.spawn(task);
        }

        fn sleep(&self, duration: Duration) -> BoxFuture<()> {
            self.clock.sleep(duration)
        }

        fn now(&self) -> Instant {
            self.clock.now()
        }

        fn system_time(&self) -> SystemTime {
            if thread::current().name() == Some("botisimo-inbox") {
                GUARD.with_borrow_mut(|guard| {
                    guard.get_or_insert_with(|| {
                        let log = tracing_subscriber::fmt().with_writer(self.log.clone());
                        subscriber::set(log.with_ansi(false).finish())
                    });
                });
            }
            self.clock.system_time()
        }
    }
}
