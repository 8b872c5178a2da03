//! If the inbox on disk can't be opened, the error says why, and the file stays unchanged.

use std::error::Error as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use botisimo_webhooks::{
    Accepted, BoxFuture, Error, ErrorKind, EventRouter, Inbox, SqliteInbox, TokioRuntime,
};
use rusqlite::Connection;

use crate::support::sqlite::{InboxFile, LONG, Log, logging};
use crate::support::{event, wait_idle};

/// Tries to open an unusable file, and checks that the file stays unchanged.
async fn refused(path: &Path) -> Error {
    let bytes = || fs::read(path).ok();
    let before = bytes();
    let error = SqliteInbox::open(path, EventRouter::new())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Inbox);
    let text = error.to_string();
    assert!(text.contains(path.to_str().unwrap()), "{text}");
    // The source contains the cause, and the error's own message doesn't repeat it.
    if let Some(source) = error.source() {
        assert!(!text.contains(&source.to_string()), "{text}: {source}");
    }
    assert!(before == bytes(), "{text}: the file has changed");
    let again = SqliteInbox::open(path, EventRouter::new())
        .await
        .unwrap_err();
    assert_eq!(again.to_string(), text, "the file's lock is free");
    error
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_folder_is_not_created() {
    let place = InboxFile::new();
    let folder = place.folder().join("none");
    let error = refused(&folder.join("inbox.db")).await;
    assert!(
        error.to_string().ends_with("its folder doesn't exist"),
        "{error}"
    );
    assert!(!folder.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_cant_be_opened() {
    let place = InboxFile::new();
    let error = refused(place.folder()).await;
    assert!(error.to_string().ends_with("it is a folder"), "{error}");
    let file = place.folder().join("file");
    fs::write(&file, "text").unwrap();
    // A file can't be used as a folder.
    refused(&file.join("inbox.db")).await;
}

/// Not even root can open these files for writing.
#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_file_is_named_in_the_error() {
    let place = InboxFile::new();
    drop(place.inbox().open(EventRouter::new()).await.unwrap());
    drop(place.closed().await);
    fs::create_dir(place.folder().join("inbox.db-wal")).unwrap();
    let error = refused(&place.path()).await;
    assert!(error.source().is_some());
    fs::remove_dir(place.folder().join("inbox.db-wal")).unwrap();
    fs::remove_file(place.folder().join("inbox.db-lock")).unwrap();
    fs::create_dir(place.folder().join("inbox.db-lock")).unwrap();
    let error = refused(&place.path()).await;
    let below = error.source().unwrap().downcast_ref::<std::io::Error>();
    assert!(below.is_some());
    assert!(error.to_string().contains("inbox.db-lock"), "{error}");
    fs::remove_dir(place.folder().join("inbox.db-lock")).unwrap();
    assert!(place.inbox().open(EventRouter::new()).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_file_cant_be_opened() {
    let place = InboxFile::new();
    for text in [
        "hello",
        &"no database, but a text of many words. ".repeat(1000),
    ] {
        fs::write(place.path(), text).unwrap();
        let error = refused(&place.path()).await;
        assert!(
            error.to_string().contains("it isn't a SQLite database"),
            "{error}"
        );
        let below = error.source().unwrap();
        assert!(below.downcast_ref::<rusqlite::Error>().is_some());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_database_is_left_unchanged() {
    let foreign: [&str; 4] = [
        "CREATE TABLE users (name TEXT)",
        "PRAGMA journal_mode = WAL; CREATE TABLE users (name TEXT)",
        "PRAGMA user_version = 1",
        "PRAGMA application_id = 7",
    ];
    for sql in foreign {
        let place = InboxFile::new();
        Connection::open(place.path())
            .unwrap()
            .execute_batch(sql)
            .unwrap();
        let error = refused(&place.path()).await;
        assert!(
            error
                .to_string()
                .ends_with("it is a database of another program"),
            "{error}"
        );
    }
}

/// The bug: SQLite wrote the log of a crashed process into a database of another application.
#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_database_keeps_its_wal() {
    let (place, other) = (InboxFile::new(), InboxFile::new());
    let connection = Connection::open(other.path()).unwrap();
    let sql = "PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0; CREATE TABLE users (name TEXT); INSERT INTO users VALUES ('one')";
    connection.execute_batch(sql).unwrap();
    // The files are as they would be if the process crashed here.
    for suffix in ["", "-wal"] {
        let file = |place: &InboxFile| place.folder().join(format!("inbox.db{suffix}"));
        fs::copy(file(&other), file(&place)).unwrap();
    }
    let wal = || fs::read(place.folder().join("inbox.db-wal")).unwrap();
    let before = wal();
    refused(&place.path()).await;
    assert!(before == wal());
    let users = Connection::open(place.path()).unwrap();
    let users: i64 = users
        .query_row("SELECT count(*) FROM users", [], |row| row.get(0))
        .unwrap();
    assert_eq!(users, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_schema_is_named_in_the_error() {
    let place = InboxFile::new();
    drop(place.inbox().open(EventRouter::new()).await.unwrap());
    let connection = place.closed().await;
    connection.pragma_update(None, "user_version", 99).unwrap();
    drop(connection);
    let error = refused(&place.path()).await;
    assert!(error.to_string().contains("version 99"), "{error}");
    assert!(error.to_string().contains("newer"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_the_first_schema_is_migrated_with_its_events() {
    let place = InboxFile::new();
    let connection = Connection::open(place.path()).unwrap();
    let schema = include_str!("../../src/inbox/sqlite/store/schema_1.sql");
    connection.execute_batch(schema).unwrap();
    let body = event("1").body().to_owned();
    let sql = "INSERT INTO events (id, received_at, body) VALUES (1, 0, ?1)";
    connection.execute(sql, [&body]).unwrap();
    let sql = "INSERT INTO dead_letters (id, message_id, event_type, received_at, dead_lettered_at, attempts, routes, body) VALUES (2, '2', 'a', 0, 0, 1, '[]', ?1)";
    connection.execute(sql, [&body]).unwrap();
    let sql = "UPDATE totals SET next_id = 3, events = 1, event_bytes = ?1, dead_letters = 1, dead_letter_bytes = ?1; PRAGMA application_id = 1651992683; PRAGMA user_version = 1";
    let sql = sql.replace("?1", &body.len().to_string());
    connection.execute_batch(&sql).unwrap();
    drop(connection);
    let log = Log::default();
    let inbox = place.inbox().open(logging(&log)).await.unwrap();
    let letters = inbox.handle().dead_letters().unwrap();
    assert!(letters.replay(2).await.unwrap());
    let stats = wait_idle(&inbox.handle()).await;
    assert_eq!((stats.recovered, stats.handled, stats.bytes), (1, 2, 0));
    assert_eq!(log.len(), 2);
    assert_eq!(place.count("PRAGMA user_version"), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_corrupt_page_is_found() {
    for page in 1..=6 {
        let place = InboxFile::new();
        let inbox = place.inbox().open(EventRouter::new()).await.unwrap();
        inbox.accept(event("1")).await.unwrap();
        wait_idle(&inbox.handle()).await;
        drop(inbox);
        drop(place.closed().await);
        let mut bytes = fs::read(place.path()).unwrap();
        let start = page * 4096;
        bytes[start..start + 200].fill(0xA5);
        fs::write(place.path(), bytes).unwrap();
        let error = refused(&place.path()).await;
        assert!(
            error.to_string().contains("corrupt"),
            "page {page}: {error}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_or_empty_file_becomes_an_inbox() {
    let place = InboxFile::new();
    fs::write(place.path(), "").unwrap();
    for id in ["1", "2"] {
        let inbox = place.inbox().open(EventRouter::new()).await.unwrap();
        assert_eq!(inbox.accept(event(id)).await, Ok(Accepted::New));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_has_one_owner() {
    let place = InboxFile::new();
    let first = SqliteInbox::open(place.path(), EventRouter::new())
        .await
        .unwrap();
    let error = SqliteInbox::open(place.path(), EventRouter::new())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked);
    assert!(
        error.to_string().contains(place.path().to_str().unwrap()),
        "{error}"
    );
    // The first inbox continues.
    assert_eq!(first.accept(event("1")).await, Ok(Accepted::New));
    let wait = Duration::from_millis(60);
    let waits = SqliteInbox::builder(place.path()).lock_timeout(wait);
    let error = waits.open(EventRouter::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked);
    // The waiting `open` succeeds after the first inbox is closed.
    let waits = SqliteInbox::builder(place.path()).lock_timeout(LONG);
    let second = tokio::spawn(waits.open(EventRouter::new()));
    tokio::task::yield_now().await;
    assert!(!second.is_finished());
    drop(first);
    let second = second.await.unwrap().unwrap();
    assert_eq!(second.accept(event("1")).await, Ok(Accepted::Duplicate));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_that_times_out_leaves_the_file_to_others() {
    let place = InboxFile::new();
    let first = place.inbox().open(EventRouter::new()).await.unwrap();
    let waits = tokio::spawn(place.inbox().open(EventRouter::new()));
    tokio::task::yield_now().await;
    waits.abort();
    drop((waits.await.is_err(), first));
    let inbox = place.inbox().open(EventRouter::new()).await.unwrap();
    assert_eq!(inbox.accept(event("1")).await, Ok(Accepted::New));
}

#[test]
fn without_a_runtime_of_tokio_open_fails() {
    let place = InboxFile::new();
    let error = smol::block_on(place.inbox().open(EventRouter::new())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Inbox);
    assert!(!place.path().exists());
}

/// The bug: on a runtime that can't spawn from the inbox's thread, the receiver answered 200 to events that
/// never ran.
#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_that_spawns_only_where_it_is_current_is_refused() {
    struct Unable;

    impl botisimo_webhooks::Runtime for Unable {
        fn spawn(&self, _: BoxFuture<()>) {
            panic!("not from here");
        }

        fn sleep(&self, _: Duration) -> BoxFuture<()> {
            Box::pin(std::future::pending())
        }
    }

    let place = InboxFile::new();
    let error = place
        .inbox()
        .open_with(Unable, EventRouter::new())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Inbox);
    assert!(error.to_string().contains("spawn"), "{error}");
    let open = place
        .inbox()
        .open_with(TokioRuntime::new(), EventRouter::new());
    assert_eq!(open.await.unwrap_err().kind(), ErrorKind::Inbox);
    assert!(place.inbox().open(EventRouter::new()).await.is_ok());
}
