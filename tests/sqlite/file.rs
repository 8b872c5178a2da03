//! `SqliteFile`: reading a file while an inbox has it open, changing a file that no inbox has open, and backups.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use botisimo_webhooks::{
    Accepted, ErrorKind, EventFilter, EventRouter, EventState, Inbox, Replay, SqliteFile,
    SqliteInbox,
};
use futures_util::future::join_all;
use rusqlite::Connection;
use tokio::sync::Semaphore;

use crate::support::sqlite::{InboxFile, LONG, Log, failing, gated, logging};
use crate::support::{balanced, event, until, wait_idle};

/// The names and the contents of all files in a folder.
type Contents = BTreeMap<String, Vec<u8>>;

fn contents(folder: &Path) -> Contents {
    let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
    let files = entries.filter(|entry| entry.path().is_file());
    let file = |entry: fs::DirEntry| {
        let name = entry.file_name().into_string().unwrap();
        (name, fs::read(entry.path()).unwrap())
    };
    files.map(file).collect()
}

fn names(folder: &Path) -> Vec<String> {
    contents(folder).into_keys().collect()
}

async fn open(path: impl AsRef<Path>) -> SqliteFile {
    SqliteFile::open_read_only(path).await.unwrap()
}

/// Locks the file once the last inbox has closed it.
async fn lock(place: &InboxFile) -> SqliteFile {
    place.free().await;
    SqliteFile::lock(place.path()).await.unwrap()
}

/// Returns the message id and the state of each event, newest first.
async fn states(file: &SqliteFile) -> Vec<(String, EventState)> {
    let listed = file.events().list(&EventFilter::new(), usize::MAX).await;
    let state =
        |record: &botisimo_webhooks::EventRecord| (record.message_id().to_owned(), record.state());
    listed.unwrap().iter().map(state).collect()
}

/// Returns the file of an inbox that has dead-lettered these events.
async fn with_dead_letters(ids: std::ops::Range<u32>) -> InboxFile {
    let place = InboxFile::new();
    let inbox = place.inbox().open(failing(&Log::default())).await.unwrap();
    join_all(ids.map(|id| inbox.accept(event(id.to_string())))).await;
    wait_idle(&inbox.handle()).await;
    drop(inbox);
    place.free().await;
    place
}

/// Returns the files of an inbox as they would be after a crash: two waiting events, one of them only in the log.
async fn crashed(suffixes: &[&str]) -> InboxFile {
    let (place, crashed) = (InboxFile::new(), InboxFile::new());
    let gate = Arc::new(Semaphore::new(0));
    let inbox = place
        .inbox()
        .open(gated(&Log::default(), &gate))
        .await
        .unwrap();
    for id in ["1", "2"] {
        inbox.accept(event(id)).await.unwrap();
    }
    for suffix in suffixes {
        let file = |place: &InboxFile| place.folder().join(format!("inbox.db{suffix}"));
        fs::copy(file(&place), file(&crashed)).unwrap();
    }
    gate.add_permits(2);
    wait_idle(&inbox.handle()).await;
    crashed
}

fn waiting(ids: &[&str]) -> Vec<(String, EventState)> {
    let states = ids.iter().map(|id| ((*id).to_owned(), EventState::Waiting));
    states.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_read_while_an_inbox_has_the_file_open() {
    let (place, gate) = (InboxFile::new(), Arc::new(Semaphore::new(0)));
    let inbox = place
        .inbox()
        .keep_handled(LONG)
        .open(gated(&Log::default(), &gate))
        .await
        .unwrap();
    inbox.accept(event("1")).await.unwrap();
    let file = open(place.path()).await;
    assert_eq!(states(&file).await, waiting(&["1"]));
    inbox.accept(event("2")).await.unwrap();
    assert_eq!(states(&file).await, waiting(&["2", "1"]));
    let record = file.events().get(2).await.unwrap().unwrap();
    assert_eq!(record.message_id(), "2");
    assert!(file.events().get(3).await.unwrap().is_none());
    gate.add_permits(2);
    wait_idle(&inbox.handle()).await;
    let stats = file.stats().await.unwrap();
    assert_eq!((stats.in_flight(), stats.handled), (0, 2));
    assert_eq!(stats.owner, Some(std::process::id()));
    drop(inbox);
    place.free().await;
    // The same file is readable after its owner has closed it, and no file is left behind.
    assert_eq!(file.stats().await.unwrap().handled, 2);
    assert_eq!(names(place.folder()), ["inbox.db", "inbox.db-lock"]);
    assert_eq!(file.stats().await.unwrap().owner, None);
}

/// The bug: closing a descriptor of the file drops all of SQLite's locks of the process.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn reading_the_file_in_its_own_process_keeps_the_locks_of_the_inbox() {
    use std::os::unix::fs::MetadataExt;

    let place = InboxFile::new();
    let inbox = place.inbox().open(EventRouter::new()).await.unwrap();
    inbox.accept(event("1")).await.unwrap();
    wait_idle(&inbox.handle()).await;
    let inode = fs::metadata(place.path()).unwrap().ino();
    let locks = || {
        let locks = fs::read_to_string("/proc/locks").unwrap();
        let ours = locks.lines().filter(|lock| lock.contains("POSIX"));
        let ours = ours.filter(|lock| lock.contains(&format!(":{inode} ")));
        let fields = ours.map(|lock| lock.split_once("POSIX").unwrap().1.to_owned());
        fields.collect::<Vec<_>>()
    };
    let before = locks();
    assert!(!before.is_empty());
    let file = open(place.path()).await;
    states(&file).await;
    file.check().await.unwrap();
    let copy = place.folder().join("copy.db");
    file.backup(&copy, |_, _| ()).await.unwrap();
    assert!(SqliteFile::lock(place.path()).await.is_err());
    assert_eq!(locks(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_isnt_an_inbox_stays_unchanged() {
    let foreign = |sql: &'static str| {
        move |path: &Path| Connection::open(path).unwrap().execute_batch(sql).unwrap()
    };
    type Make = Box<dyn Fn(&Path)>;
    let makes: [(Make, &str); 7] = [
        (Box::new(|_: &Path| ()), "the file doesn't exist"),
        (
            Box::new(|path: &Path| fs::write(path, "").unwrap()),
            "it is empty",
        ),
        (
            Box::new(|path: &Path| fs::write(path, "some text").unwrap()),
            "it isn't a SQLite database",
        ),
        (
            Box::new(|path: &Path| fs::create_dir(path).unwrap()),
            "it is a folder",
        ),
        (
            Box::new(foreign("CREATE TABLE users (name TEXT)")),
            "it is a database of another program",
        ),
        (
            Box::new(foreign(
                "PRAGMA journal_mode = WAL; CREATE TABLE users (name TEXT)",
            )),
            "it is a database of another program",
        ),
        (
            Box::new(foreign("PRAGMA application_id = 7")),
            "it is a database of another program",
        ),
    ];
    for (make, expected) in makes {
        let place = InboxFile::new();
        make(&place.path());
        let before = contents(place.folder());
        for lock in [false, true] {
            let opened = match lock {
                true => SqliteFile::lock(place.path()).await,
                false => SqliteFile::open_read_only(place.path()).await,
            };
            let error = opened.expect_err(expected);
            assert_eq!(error.kind(), ErrorKind::Inbox, "{error}");
            assert!(error.to_string().contains(expected), "{error}");
            assert!(before == contents(place.folder()), "{expected}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_database_that_crashed_stays_unchanged() {
    for suffixes in [&["", "-wal"][..], &["", "-wal", "-shm"]] {
        let (place, other) = (InboxFile::new(), InboxFile::new());
        let connection = Connection::open(other.path()).unwrap();
        let sql = "PRAGMA journal_mode = WAL; CREATE TABLE users (name TEXT); PRAGMA wal_checkpoint; INSERT INTO users VALUES ('one')";
        connection.execute_batch(sql).unwrap();
        for suffix in suffixes {
            let file = |place: &InboxFile| place.folder().join(format!("inbox.db{suffix}"));
            fs::copy(file(&other), file(&place)).unwrap();
        }
        let before = contents(place.folder());
        for opened in [
            SqliteFile::open_read_only(place.path()).await,
            SqliteFile::lock(place.path()).await,
        ] {
            let error = opened.unwrap_err().to_string();
            assert!(
                error.ends_with("it is a database of another program"),
                "{error}"
            );
        }
        assert!(before == contents(place.folder()), "{suffixes:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_without_its_database_stays_unchanged() {
    let place = crashed(&["-wal"]).await;
    for empty in [false, true] {
        if empty {
            fs::write(place.path(), "").unwrap();
        }
        let before = contents(place.folder());
        let error = SqliteFile::open_read_only(place.path()).await.unwrap_err();
        assert!(error.to_string().contains("write-ahead log"), "{error}");
        let error = SqliteFile::lock(place.path()).await.unwrap_err();
        assert!(error.to_string().contains("write-ahead log"), "{error}");
        assert!(before == contents(place.folder()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_after_a_crash_changes_neither_the_database_nor_its_log() {
    // A copy of the files of a running process may lack the shared memory.
    let place = crashed(&["", "-wal"]).await;
    let before = contents(place.folder());
    let file = open(place.path()).await;
    assert_eq!(states(&file).await, waiting(&["2", "1"]));
    let stats = file.stats().await.unwrap();
    assert_eq!((stats.waiting, stats.owner), (2, None));
    assert!(stats.wal_bytes > 0);
    assert!(file.check().await.unwrap().damage.is_empty());
    assert!(before == contents(place.folder()));

    let place = crashed(&["", "-wal", "-shm"]).await;
    let before = contents(place.folder());
    let file = open(place.path()).await;
    assert_eq!(states(&file).await, waiting(&["2", "1"]));
    let mut after = contents(place.folder());
    // SQLite may rebuild this index.
    after.insert("inbox.db-shm".to_owned(), before["inbox.db-shm"].clone());
    assert!(before == after);
    // The next process finds everything.
    let log = Log::default();
    let inbox = place.inbox().open(logging(&log)).await.unwrap();
    assert_eq!(inbox.handle().stats().recovered, 2);
    wait_idle(&inbox.handle()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_file_is_read_without_a_trace() {
    let place = with_dead_letters(0..3).await;
    fs::remove_file(place.folder().join("inbox.db-lock")).unwrap();
    let before = contents(place.folder());
    let file = open(place.path()).await;
    assert_eq!(states(&file).await.len(), 3);
    file.check().await.unwrap();
    file.stats().await.unwrap();
    assert!(before == contents(place.folder()));
    let changes = [
        file.events()
            .replay(1, Replay::Remaining)
            .await
            .map(u64::from),
        file.events()
            .replay_matching(&EventFilter::dead(), Replay::All)
            .await,
        file.events().delete(1).await.map(u64::from),
        file.events().delete_matching(&EventFilter::new()).await,
        file.events().prune(Duration::ZERO).await,
        file.prune_handled(Duration::ZERO).await,
    ];
    for change in changes {
        let error = change.unwrap_err().to_string();
        assert!(error.contains("`SqliteFile::lock`"), "{error}");
    }
    assert!(before == contents(place.folder()));
}

/// Root may create files in such a folder. The comparison shows that reading creates none.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_in_a_read_only_folder_is_readable() {
    for place in [
        with_dead_letters(0..2).await,
        crashed(&["", "-wal"]).await,
        crashed(&["", "-wal", "-shm"]).await,
    ] {
        let set = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        for name in names(place.folder()) {
            set(&place.folder().join(name), 0o400);
        }
        set(place.folder(), 0o500);
        let before = contents(place.folder());
        assert_eq!(states(&open(place.path()).await).await.len(), 2);
        let mut after = contents(place.folder());
        if let Some(index) = before.get("inbox.db-shm") {
            after.insert("inbox.db-shm".to_owned(), index.clone());
        }
        assert!(before == after);
        set(place.folder(), 0o700);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_file_and_an_open_inbox_exclude_each_other() {
    let place = InboxFile::new();
    let inbox = place.inbox().open(EventRouter::new()).await.unwrap();
    let error = SqliteFile::lock(place.path()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked);
    let expected = "is owned by this process: use `Handle::events`";
    assert!(error.to_string().ends_with(expected), "{error}");
    drop(inbox);
    let file = lock(&place).await;
    let error = SqliteInbox::open(place.path(), EventRouter::new())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked);
    let expected = "is opened twice in this process: see `lock_timeout`";
    assert!(error.to_string().ends_with(expected), "{error}");
    drop(file);
    SqliteInbox::open(place.path(), EventRouter::new())
        .await
        .unwrap();
}

/// An earlier version of this crate writes no process id, and the id in the file of a crashed process is out of date.
#[tokio::test(flavor = "multi_thread")]
async fn the_owner_is_named_only_if_it_is_known() {
    let place = InboxFile::new();
    let inbox = place.inbox().open(EventRouter::new()).await.unwrap();
    let file = open(place.path()).await;
    let lock = place.folder().join("inbox.db-lock");
    let written = fs::read_to_string(&lock).unwrap();
    let (process, namespace) = written.trim_end().split_once(' ').unwrap();
    assert_eq!(process, std::process::id().to_string());
    for text in [
        String::new(),
        "text".to_owned(),
        format!("{process} another\n"),
        format!("0 {namespace}\n"),
        format!("{} {namespace}\n", u32::MAX),
        "9".repeat(1 << 20),
    ] {
        fs::write(&lock, &text).unwrap();
        assert_eq!(file.stats().await.unwrap().owner, None, "{text:.20}");
        let error = SqliteFile::lock(place.path()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Locked);
        let expected = "is owned by another process: use its inspector, or stop the process first";
        assert!(error.to_string().ends_with(expected), "{error}");
    }
    drop(inbox);
    place.free().await;
    assert_eq!(fs::read_to_string(&lock).unwrap(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn replayed_dead_letters_run_after_the_next_start() {
    let place = with_dead_letters(0..5).await;
    let file = lock(&place).await;
    let (events, all) = (file.events(), EventFilter::dead().before(4));
    assert!(events.replay(5, Replay::Remaining).await.unwrap());
    assert!(
        !events.replay(5, Replay::Remaining).await.unwrap(),
        "in flight"
    );
    assert!(!events.replay(6, Replay::All).await.unwrap(), "no event");
    assert_eq!(events.replay_matching(&all, Replay::All).await.unwrap(), 3);
    let stats = file.stats().await.unwrap();
    assert_eq!((stats.waiting, stats.dead_letters), (4, 1));
    assert_eq!((stats.retrying, stats.poison_candidates), (0, 0));
    // The event log also keeps the file locked.
    drop(file);
    let error = SqliteInbox::open(place.path(), EventRouter::new())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked);
    drop(events);
    let log = Log::default();
    let inbox = place.inbox().open(logging(&log)).await.unwrap();
    let stats = wait_idle(&inbox.handle()).await;
    balanced(&stats);
    assert_eq!((stats.recovered, stats.handled, stats.dead), (4, 4, 0));
    assert_eq!(stats.dead_letters, 1);
    assert_eq!(stats.bytes, 0);
    let ran = log.counts();
    assert_eq!(ran.len(), 4);
    assert!(ran.keys().all(|run| run.ends_with("#1")), "{ran:?}");
    // The inbox still recognizes the copies.
    for id in 0..5 {
        let copy = inbox.accept(event(id.to_string())).await;
        assert_eq!(copy, Ok(Accepted::Duplicate));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_of_one_route_runs_only_this_route() {
    let (place, log) = (InboxFile::new(), Log::default());
    let router = |log: &Log| {
        let (x, y) = (log.clone(), log.clone());
        EventRouter::new()
            .on("a", move |_: botisimo_webhooks::Event| async move {
                x.write("x");
            })
            .named("x")
            .on("a", move |_: botisimo_webhooks::Event| async move {
                y.write("y");
            })
            .named("y")
    };
    let inbox = place
        .inbox()
        .keep_handled(LONG)
        .open(router(&log))
        .await
        .unwrap();
    inbox.accept(event("1")).await.unwrap();
    wait_idle(&inbox.handle()).await;
    drop(inbox);
    let file = lock(&place).await;
    let only = Replay::Only("y".to_owned());
    assert!(file.events().replay(1, only).await.unwrap());
    drop(file);
    let log = Log::default();
    let inbox = place.inbox().open(router(&log)).await.unwrap();
    wait_idle(&inbox.handle()).await;
    assert_eq!(log.lines(), ["y"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn ended_events_are_deleted_and_pruned() {
    let place = InboxFile::new();
    let inbox = place
        .inbox()
        .keep_handled(LONG)
        .open(EventRouter::new())
        .await
        .unwrap();
    for id in 1..=300 {
        inbox.accept(event(id.to_string())).await.unwrap();
    }
    wait_idle(&inbox.handle()).await;
    drop(inbox);
    let file = lock(&place).await;
    assert_eq!(file.stats().await.unwrap().unhandled, 300);
    assert!(file.events().delete(7).await.unwrap());
    assert!(!file.events().delete(7).await.unwrap());
    let some = EventFilter::new().before(10);
    assert_eq!(file.events().delete_matching(&some).await.unwrap(), 8);
    assert_eq!(
        file.events().prune(Duration::ZERO).await.unwrap(),
        0,
        "no dead letter"
    );
    assert_eq!(file.prune_handled(LONG).await.unwrap(), 0);
    // Times have a resolution of 1 ms, so the newest events may be too new at first.
    let mut pruned = 0;
    while pruned < 291 {
        pruned += file.prune_handled(Duration::ZERO).await.unwrap();
    }
    drop(file);
    for table in ["handled", "events"] {
        assert_eq!(place.count(&format!("SELECT count(*) FROM {table}")), 0);
    }
    assert_eq!(place.count("SELECT handled + handled_bytes FROM totals"), 0);

    let place = with_dead_letters(0..300).await;
    let file = lock(&place).await;
    let mut pruned = 0;
    while pruned < 300 {
        pruned += file.events().prune(Duration::ZERO).await.unwrap();
    }
    assert!(file.check().await.unwrap().counts_match);
    assert_eq!(file.stats().await.unwrap().dead_letters, 0);
}

/// A start counts a crash for each event that was running, and changing the file in between doesn't hide the crash.
#[tokio::test(flavor = "multi_thread")]
async fn changing_a_file_hides_no_crash() {
    let place = crashed(&["", "-wal"]).await;
    place
        .edit("UPDATE events SET running = 1 WHERE id = 1")
        .await;
    let file = lock(&place).await;
    let stats = file.stats().await.unwrap();
    assert_eq!((stats.running, stats.poison_candidates), (1, 1));
    assert_eq!(
        file.events()
            .delete_matching(&EventFilter::new())
            .await
            .unwrap(),
        0
    );
    drop(file);
    assert_eq!(
        place.count("SELECT count(*) FROM events WHERE running = 1"),
        1
    );
    let log = Log::default();
    let inbox = place
        .inbox()
        .max_crashes(1)
        .open(logging(&log))
        .await
        .unwrap();
    wait_idle(&inbox.handle()).await;
    assert_eq!(log.lines(), ["2#1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_schema_is_counted_and_backed_up_but_not_changed() {
    let place = InboxFile::new();
    let connection = Connection::open(place.path()).unwrap();
    let schema = include_str!("../../src/inbox/sqlite/store/schema_1.sql");
    connection.execute_batch(schema).unwrap();
    let sql = format!(
        "PRAGMA application_id = {}; PRAGMA user_version = 1; INSERT INTO events (id, received_at, body) VALUES (1, 5, '{{}}'); UPDATE totals SET next_id = 2, events = 1",
        0x6277_686B
    );
    connection.execute_batch(&sql).unwrap();
    drop(connection);
    let before = contents(place.folder());
    let file = open(place.path()).await;
    let stats = file.stats().await.unwrap();
    assert_eq!((stats.waiting, stats.schema_version), (1, 1));
    assert!(stats.newest_schema_version > 1);
    let check = file.check().await.unwrap();
    assert!(check.damage.is_empty() && check.counts_match);
    let error = file.events().get(1).await.unwrap_err().to_string();
    assert!(error.contains("schema version 1"), "{error}");
    let error = SqliteFile::lock(place.path())
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("start the service"), "{error}");
    assert!(before == contents(place.folder()));
    let copy = place.folder().join("copy.db");
    file.backup(&copy, |_, _| ()).await.unwrap();
    assert_eq!(open(copy).await.stats().await.unwrap().waiting, 1);
    Connection::open(place.path())
        .unwrap()
        .execute_batch("PRAGMA user_version = 99")
        .unwrap();
    let error = SqliteFile::open_read_only(place.path()).await.unwrap_err();
    assert!(error.to_string().contains("newer version"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_and_wrong_counts_are_found() {
    let place = with_dead_letters(0..100).await;
    let check = open(place.path()).await.check().await.unwrap();
    assert!(check.damage.is_empty() && check.counts_match, "{check:?}");
    let (largest, bytes) = &check.table_bytes[0];
    assert!(largest == "dead_letters" && *bytes > 4096, "{check:?}");
    place.edit("UPDATE totals SET dead_letters = 7").await;
    let check = open(place.path()).await.check().await.unwrap();
    assert!(check.damage.is_empty() && !check.counts_match);
    let mut bytes = fs::read(place.path()).unwrap();
    let end = bytes.len() - 4096;
    bytes[end..].fill(0xff);
    fs::write(place.path(), bytes).unwrap();
    let check = open(place.path()).await.check().await.unwrap();
    assert!(!check.damage.is_empty());
}

/// Accepts events until the flag is set, and returns the number of accepted events.
fn load(inbox: &SqliteInbox, stop: &Arc<AtomicBool>) -> tokio::task::JoinHandle<u64> {
    let (inbox, stop) = (inbox.clone(), Arc::clone(stop));
    tokio::spawn(async move {
        let mut accepted = 0;
        while !stop.load(Ordering::Relaxed) {
            let ids = accepted..accepted + 20;
            let all = join_all(ids.map(|id| inbox.accept(event(id.to_string())))).await;
            assert!(all.iter().all(|one| *one == Ok(Accepted::New)));
            accepted += 20;
        }
        accepted
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_under_load_see_whole_transactions_and_lose_nothing() {
    let (place, stop) = (InboxFile::new(), Arc::new(AtomicBool::new(false)));
    let inbox = place.inbox().open(failing(&Log::default())).await.unwrap();
    let loading = load(&inbox, &stop);
    let reads = (0..3).map(|_| async {
        let file = open(place.path()).await;
        let mut last = 0;
        for _ in 0..20 {
            assert!(file.check().await.unwrap().counts_match);
            let listed = file.events().list(&EventFilter::new(), usize::MAX).await;
            let listed = listed.unwrap();
            assert!(listed.is_sorted_by(|one, next| one.id() > next.id()));
            assert!(listed.len() >= last);
            last = listed.len();
        }
    });
    join_all(reads).await;
    stop.store(true, Ordering::Relaxed);
    let accepted = loading.await.unwrap();
    let stats = wait_idle(&inbox.handle()).await;
    balanced(&stats);
    assert_eq!((stats.accepted, stats.dead), (accepted, accepted));
    assert_eq!(
        states(&open(place.path()).await).await.len() as u64,
        accepted
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_under_load_is_complete_and_opens() {
    let (place, stop) = (InboxFile::new(), Arc::new(AtomicBool::new(false)));
    fs::write(place.path(), "").unwrap();
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o600)).unwrap();
    let inbox = place.inbox().open(failing(&Log::default())).await.unwrap();
    let loading = load(&inbox, &stop);
    let copies = InboxFile::new();
    let file = open(place.path()).await;
    let (mut last, mut number) = (0, 0);
    while last < 200 {
        let before = inbox.handle().stats();
        let copy = copies.folder().join(format!("{number}.db"));
        number += 1;
        let (progress, steps) = std::sync::mpsc::channel();
        let step = move |done, all| progress.send((done, all)).unwrap();
        file.backup(&copy, step).await.unwrap();
        let steps: Vec<(u64, u64)> = steps.iter().collect();
        assert!(steps.is_sorted());
        let (done, all) = steps.last().unwrap();
        assert_eq!(done, all);
        let after = inbox.handle().stats();
        let mode = fs::metadata(&copy).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let backup = open(&copy).await;
        let check = backup.check().await.unwrap();
        assert!(check.damage.is_empty() && check.counts_match, "{check:?}");
        let stats = backup.stats().await.unwrap();
        let all = stats.in_flight() + stats.dead_letters;
        assert!(before.accepted <= all && all <= after.accepted + 20);
        last = all;
        let restored = SqliteInbox::open(&copy, failing(&Log::default())).await;
        let restored = restored.unwrap();
        let stats = wait_idle(&restored.handle()).await;
        assert_eq!(stats.dead_letters, all);
    }
    stop.store(true, Ordering::Relaxed);
    loading.await.unwrap();
    let partial = names(copies.folder()).into_iter();
    assert_eq!(partial.filter(|name| name.contains("partial")).count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_replaces_no_file_and_a_canceled_one_leaves_none() {
    let place = with_dead_letters(0..5000).await;
    let file = open(place.path()).await;
    let copy = place.folder().join("copy.db");
    let partial = place.folder().join("copy.db-partial");
    let before = contents(place.folder());
    let (started, is_started) = tokio::sync::oneshot::channel();
    let (resume, may_resume) = std::sync::mpsc::channel::<()>();
    let mut started = Some(started);
    let backup = file.backup(&copy, move |_, _| {
        if let Some(started) = started.take() {
            started.send(()).unwrap();
            may_resume.recv().unwrap();
        }
    });
    let mut backup = Box::pin(backup);
    tokio::select! {
        _ = &mut backup => panic!("the backup doesn't wait"),
        _ = is_started => {}
    }
    assert!(partial.exists());
    let error = file.backup(&copy, |_, _| ()).await.unwrap_err().to_string();
    assert!(error.contains("`-partial` exists"), "{error}");
    drop(backup);
    resume.send(()).unwrap();
    until(|| !partial.exists()).await;
    assert!(before == contents(place.folder()));

    fs::write(&copy, "important").unwrap();
    let before = contents(place.folder());
    let error = file.backup(&copy, |_, _| ()).await.unwrap_err().to_string();
    assert!(error.ends_with("the file exists"), "{error}");
    let missing = place.folder().join("missing/copy.db");
    assert!(file.backup(&missing, |_, _| ()).await.is_err());
    assert!(before == contents(place.folder()));
}

/// A copy of the database file alone may lack events, so the inbox warns of it. A backup has all events.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_an_open_inbox_counts_as_closed() {
    let place = InboxFile::new();
    let inbox = place.inbox().open(EventRouter::new()).await.unwrap();
    inbox.accept(event("1")).await.unwrap();
    wait_idle(&inbox.handle()).await;
    let open_path = "SELECT count(*) FROM totals WHERE open_path IS NOT NULL";
    assert_eq!(place.count(open_path), 1);
    let copies = InboxFile::new();
    let file = open(place.path()).await;
    file.backup(copies.path(), |_, _| ()).await.unwrap();
    assert_eq!(names(copies.folder()), ["inbox.db"]);
    assert_eq!(copies.count(open_path), 0);
}
