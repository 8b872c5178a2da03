//! Tests the inbox on disk while the disk fails, while the inbox's file changes, or while another process uses the file.
//!
//! The server answers every event, and loses no event that it answered with 200. The inbox recovers
//! automatically, or the log says why it can't.

use std::collections::{HashMap, HashSet};
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::thread;

use rusqlite::Connection;
use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::support::process::own_binary;
use crate::support::server::{Server, ServerFolder, body, texts, until};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// Starts a server that gets an error instead of a signal if a file is too large.
fn bounded(place: &ServerFolder) -> Server {
    place.start_by(within("")).listening()
}

/// Returns a shell command that sets a limit and then runs this binary.
fn within(limit: &str) -> Command {
    let mut shell = Command::new("sh");
    let script = format!("trap '' XFSZ; {limit}\nexec \"$0\" \"$@\"");
    shell.arg("-c").arg(script).arg(own_binary());
    shell
}

/// Limits the size of a server's files.
fn limit(server: &Server, bytes: Option<u64>) {
    let pid = Pid::from_raw(i32::try_from(server.pid()).unwrap());
    let limit = Rlimit {
        current: bytes,
        maximum: None,
    };
    prlimit(pid, Resource::Fsize, limit).unwrap();
}

/// Returns the peak of a server's memory in KiB.
fn peak(server: &Server) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let number = line.unwrap().split_whitespace().nth(1);
    number.unwrap().parse().unwrap()
}

/// Sends events whose ids start with `name`. Checks that the server answers each with this status, and returns
/// their ids.
#[track_caller]
fn send(server: &Server, name: &str, count: usize, data: &str, status: u16) -> Vec<String> {
    let mut client = server.client();
    let ids = (0..count).map(|number| format!("{name}-{number}"));
    let answered = ids.inspect(|id| {
        let answer = client.post(&body(id, data)).unwrap();
        assert_eq!(answer, status, "{id}");
    });
    answered.collect()
}

/// Checks that each of these events has succeeded once, and that no other event has succeeded.
#[track_caller]
fn ran_once(place: &ServerFolder, ids: &[Vec<String>]) {
    let mut done = HashMap::new();
    let lines = place.journal().into_iter().filter(|line| line.done);
    lines.for_each(|line| *done.entry(line.id).or_insert(0) += 1);
    let ids = ids.iter().flatten();
    let expected: HashMap<_, _> = ids.map(|id| (id.clone(), 1)).collect();
    assert_eq!(done, expected);
}

/// Returns how many times the log contains a string.
fn logged(place: &ServerFolder, text: &str) -> usize {
    place.log().matches(text).count()
}

const FAILING: &str = "the inbox is failing";
const RECOVERED: &str = "the inbox has recovered";

#[test]
fn on_a_full_disk_events_are_answered_503_until_there_is_room() {
    let place = ServerFolder::new();
    let server = bounded(&place);
    let running = send(&server, "running", 4, r#"{"held":true}"#, 200);
    until("they run", || server.stats().of("running") == 4);

    limit(&server, Some(4 * KIB));
    let refused = send(&server, "refused", 20, "{}", 503);
    assert_eq!(server.stats().of("accepted"), 4);
    // The handlers have ended, and the inbox can't write the results.
    server.get("/release");
    until("the handlers have ended", || place.journal().len() == 4);
    send(&server, "later", 20, "{}", 503);
    let stats = server.stats();
    assert_eq!((stats.of("handled"), stats.of("running")), (0, 4));

    limit(&server, None);
    let mut client = server.client();
    for id in &refused {
        client.post_until_taken(&body(id, "{}"));
    }
    let stats = server.wait_idle();
    assert_eq!((stats.of("handled"), stats.of("dead")), (24, 0));
    ran_once(&place, &[running, refused]);
    let log = place.log();
    assert_eq!(logged(&place, FAILING), 1, "{log}");
    assert_eq!(logged(&place, RECOVERED), 1, "{log}");
    assert!(log.contains("the disk fails: /"), "{log}");
    server.end();
    let server = place.serving();
    assert_eq!(server.stats().of("recovered"), 0);
}

/// Fills a real disk. `SMALL_DISK` is a folder on an empty file system of 16 MiB.
#[test]
#[ignore = "this test needs a small file system"]
fn on_a_full_small_disk_events_are_accepted_after_room_is_made() {
    let disk = PathBuf::from(std::env::var_os("SMALL_DISK").expect("SMALL_DISK isn't set"));
    let mut place = ServerFolder::new();
    place.inbox = disk.join("inbox.db");
    let server = place.serving();
    let mut ids = send(&server, "running", 4, r#"{"held":true}"#, 200);
    let filler = disk.join("filler");
    let mut file = fs::File::create(&filler).unwrap();
    let full = io::copy(&mut io::repeat(1), &mut file).unwrap_err();
    assert_eq!(full.kind(), io::ErrorKind::StorageFull);
    drop(file);

    // These events are large, because a small event may still fit into the log.
    let data = format!(r#"{{"padding":"{}"}}"#, "x".repeat(16 << 10));
    let mut client = server.client();
    let mut refused = Vec::new();
    for number in 0..100 {
        let id = format!("event-{number}");
        match client.post(&body(&id, &data)).unwrap() {
            200 => ids.push(id),
            status => {
                assert_eq!(status, 503);
                refused.push(id);
            }
        }
    }
    assert!(refused.len() > 50, "the disk was never full");
    server.get("/release");
    until("the handlers have ended", || {
        place.journal().len() == ids.len()
    });

    fs::remove_file(&filler).unwrap();
    for id in &refused {
        client.post_until_taken(&body(id, &data));
    }
    server.wait_idle();
    ran_once(&place, &[ids, refused]);
    let log = place.log();
    assert!(log.contains("the disk is full: /"), "{log}");
    assert!(log.contains(RECOVERED), "{log}");
    server.end();
    for suffix in ["", "-wal", "-shm", "-lock"] {
        let _ = fs::remove_file(place.beside(suffix));
    }
}

#[test]
fn a_refused_event_takes_no_memory() {
    let place = ServerFolder::new();
    let server = bounded(&place);
    let data = format!(r#"{{"padding":"{}"}}"#, "x".repeat(64 << 10));
    // The first request takes memory for a connection and for a large body.
    send(&server, "first", 20, &data, 200);
    limit(&server, Some(4 * KIB));
    send(&server, "refused", 20, &data, 503);
    let before = peak(&server);
    send(&server, "more", 2000, &data, 503);
    // The kernel reads the peak from counters that lag, so the peak may seem to fall.
    let grown = peak(&server).saturating_sub(before) * KIB;
    assert!(grown < 16 * MIB, "125 MiB of events took {grown} bytes");
}

/// The bug: if the log couldn't grow, SQLite restarted it only during a pause.
#[test]
fn a_full_wal_restarts_under_load() {
    let place = ServerFolder::new();
    let server = bounded(&place);
    limit(&server, Some(MIB));
    let taken = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for client in 0..4 {
            let (server, taken) = (&server, &taken);
            scope.spawn(move || {
                let mut connection = server.client();
                for number in 0..100 {
                    let id = format!("event-{client}-{number}");
                    connection.post_until_taken(&body(&id, "{}"));
                    taken.lock().unwrap().push(id);
                }
            });
        }
    });
    server.wait_idle();
    ran_once(&place, &[taken.into_inner().unwrap()]);
    assert!(logged(&place, FAILING) > 0, "the file had enough room");
}

#[test]
fn on_a_full_disk_open_fails_with_the_cause() {
    let place = ServerFolder::new();
    let error = place.start_by(within("ulimit -f 0")).failing();
    let path = place.inbox.to_str().unwrap();
    assert!(error.contains("can't be opened"), "{error}");
    assert!(error.contains(path), "{error}");
    // The failed open leaves no files behind.
    let server = place.serving();
    let ids = send(&server, "event", 3, "{}", 200);
    server.wait_idle();
    ran_once(&place, &[ids]);
}

#[test]
fn events_are_answered_503_while_another_process_writes_to_the_file() {
    let place = ServerFolder::new();
    let server = place.serving();
    let running = send(&server, "running", 4, r#"{"held":true}"#, 200);
    until("they run", || server.stats().of("running") == 4);
    let other = Connection::open(&place.inbox).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    // The test sends several events at once, and some of them arrive while the writer is waiting.
    let ids = thread::scope(|scope| {
        let senders: Vec<_> = (0..4)
            .map(|name| {
                let (server, name) = (&server, format!("refused-{name}"));
                scope.spawn(move || send(server, &name, 2, "{}", 503))
            })
            .collect();
        server.get("/release");
        let ids = senders.into_iter().map(|sender| sender.join().unwrap());
        ids.flatten().collect::<Vec<_>>()
    });
    until("the handlers have ended", || place.journal().len() == 4);
    assert_eq!(server.stats().of("handled"), 0);
    other.execute_batch("ROLLBACK").unwrap();

    // The inbox may have accepted an event although the receiver answered 503 at the deadline. If so, the event
    // that is sent here is a copy.
    let mut client = server.client();
    for id in &ids {
        client.post_until_taken(&body(id, "{}"));
    }
    server.wait_idle();
    ran_once(&place, &[running, ids]);
    assert_eq!(logged(&place, FAILING), 1, "{}", place.log());
    assert!(place.log().contains("another process is writing"));
    assert_eq!(logged(&place, RECOVERED), 1, "{}", place.log());
}

/// Returns the command that runs a copy of this binary as a user without the rights of root. Makes the folder
/// accessible to that user.
fn as_nobody(place: &ServerFolder) -> Command {
    let folder = place.folder();
    let copy = folder.join("server");
    if !copy.exists() {
        fs::copy(own_binary(), &copy).unwrap();
    }
    allow(folder, 0o777);
    let mut command = Command::new(copy);
    if rustix::process::getuid().is_root() {
        command.uid(65534).gid(65534);
    }
    command
}

fn allow(path: &std::path::Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_folder_that_cant_be_written_is_named_in_the_error() {
    let mut place = ServerFolder::new();
    let folder = place.folder().join("closed");
    fs::create_dir(&folder).unwrap();
    place.inbox = folder.join("inbox.db");
    allow(&folder, 0o555);
    let error = place.start_by(as_nobody(&place)).failing();
    assert!(error.contains(folder.to_str().unwrap()), "{error}");
    assert!(error.contains("ermission denied"), "{error}");
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);

    allow(&folder, 0o777);
    let server = place.start_by(as_nobody(&place)).listening();
    send(&server, "event", 1, "{}", 200);
}

#[test]
fn an_inbox_whose_file_cant_be_written_is_left_unchanged() {
    let place = ServerFolder::new();
    let mut server = place.start_by(as_nobody(&place)).listening();
    let ids = send(&server, "event", 5, r#"{"held":true}"#, 200);
    server.kill();
    let (file, log) = (&place.inbox, place.beside("-wal"));
    let before = (fs::read(file).unwrap(), fs::read(&log).unwrap());
    for (closed, why) in [(file, "no permission to write"), (&log, "can't be written")] {
        allow(closed, 0o444);
        let error = place.start_by(as_nobody(&place)).failing();
        assert!(error.contains(why), "{error}");
        assert!(error.contains(file.to_str().unwrap()), "{error}");
        assert!(before == (fs::read(file).unwrap(), fs::read(&log).unwrap()));
        allow(closed, 0o644);
    }
    let server = place.start_by(as_nobody(&place)).listening();
    assert_eq!(server.stats().of("recovered"), 5);
    server.get("/release");
    server.wait_idle();
    ran_once(&place, &[ids]);
}

/// The bug: one unreadable page prevented all events from running, even the events before it.
#[test]
fn events_run_on_both_sides_of_a_corrupt_page_and_none_is_lost() {
    let place = ServerFolder::new();
    let mut server = place.serving();
    let held = send(&server, "held", 8, r#"{"held":true}"#, 200);
    // SQLite doesn't check the whole of a large file on open.
    let large = format!(r#"{{"padding":"{}"}}"#, "x".repeat(256 << 10));
    let large = send(&server, "large", 68, &large, 200);
    let small = send(&server, "small", 200, "{}", 200);
    server.kill();
    // Checkpoints the log, so the file contains all pages.
    drop(
        Connection::open(&place.inbox)
            .and_then(|inbox| inbox.query_row("SELECT count(*) FROM events", [], |_| Ok(()))),
    );
    let whole = fs::read(&place.inbox).unwrap();
    let (at, page) = leaf_with(&whole, "small-100");
    let file = fs::OpenOptions::new().write(true).open(&place.inbox);
    let file = file.unwrap();
    file.write_all_at(&[0x55; 4096], at).unwrap();

    let mut server = place.serving();
    server.get("/release");
    let on_page = |id: &String| page.contains(&format!("\"messageId\":\"{id}\""));
    let hurt = small.iter().filter(|id| on_page(id)).count() as u64;
    assert!((1..100).contains(&hurt));
    // New events also run.
    let mut client = server.client();
    let new: Vec<_> = (0..5).map(|number| format!("new-{number}")).collect();
    for id in &new {
        client.post_until_taken(&body(id, "{}"));
    }
    let all = || [&held, &large, &small, &new].into_iter().flatten();
    until("all other events run", || {
        let ran: HashSet<_> = place.journal().into_iter().map(|line| line.id).collect();
        all().all(|id| ran.contains(id) || on_page(id))
    });
    until("the events are counted", || {
        server.stats().in_flight() == hurt
    });
    let log = place.log();
    assert_eq!(logged(&place, "the inbox is damaged"), 1, "{log}");
    assert!(log.contains("the inbox is corrupt: /"), "{log}");
    let health = server.get("/health");
    assert!(health.contains("the inbox's data is damaged"), "{health}");
    server.kill();

    // The test's copy of the page still contains all events.
    let page = &whole[usize::try_from(at).unwrap()..][..4096];
    file.write_all_at(page, at).unwrap();
    let server = place.serving();
    server.get("/release");
    server.wait_idle();
    let ran: HashSet<_> = place.journal().into_iter().map(|line| line.id).collect();
    assert!(all().all(|id| ran.contains(id)));
}

/// Finds the page of the table of events that contains the event with this id. Returns the offset and the text
/// of the page.
fn leaf_with(file: &[u8], id: &str) -> (u64, String) {
    const LEAF: u8 = 0x0D;
    let wanted = format!("\"messageId\":\"{id}\"");
    let mut pages = file.chunks(4096).enumerate();
    let found = pages.find_map(|(number, page)| {
        let text = String::from_utf8_lossy(page);
        let here = page[0] == LEAF && text.contains(&wanted);
        here.then(|| (number as u64 * 4096, text.into_owned()))
    });
    found.unwrap()
}

#[test]
fn an_inbox_whose_file_is_deleted_runs_its_events_and_refuses_new_ones() {
    let place = ServerFolder::new();
    let mut server = place.serving();
    let ids = send(&server, "event", 12, r#"{"held":true}"#, 200);
    fs::remove_file(&place.inbox).unwrap();
    send(&server, "refused", 5, "{}", 503);
    server.get("/release");
    let stats = server.wait_idle();
    assert_eq!(stats.of("handled"), 12);
    ran_once(&place, std::slice::from_ref(&ids));
    let log = place.log();
    assert_eq!(logged(&place, FAILING), 1, "{log}");
    assert!(log.contains("inbox.db was deleted"), "{log}");
    let health = server.get("/health");
    assert!(health.contains("inbox.db was deleted"), "{health}");
    server.kill();

    let server = place.serving();
    assert_eq!(server.stats().of("recovered"), 0);
    let new = send(&server, "new", 5, "{}", 200);
    server.wait_idle();
    ran_once(&place, &[ids, new]);
}

/// The bug: the log of the old file remained, and the next start applied it to the new file.
#[test]
fn an_inbox_whose_file_is_replaced_leaves_the_new_file_intact() {
    let place = ServerFolder::new();
    let server = place.serving();
    let restored = send(&server, "restored", 3, r#"{"held":true}"#, 200);
    let backup = place.folder().join("backup.db");
    let saved = Connection::open(&place.inbox).unwrap();
    saved
        .execute("VACUUM INTO ?1", [backup.to_str().unwrap()])
        .unwrap();
    drop(saved);
    let mut server = server;
    let ids = send(&server, "event", 12, r#"{"held":true}"#, 200);
    fs::rename(&backup, &place.inbox).unwrap();
    send(&server, "refused", 5, "{}", 503);
    server.get("/release");
    assert_eq!(server.wait_idle().of("handled"), 15);
    assert!(place.log().contains("moved or replaced"));
    server.kill();

    place.look(|inbox| {
        let check = texts(inbox, "PRAGMA integrity_check");
        assert_eq!(check, ["ok"]);
    });
    assert_eq!(place.pending(), restored);
    let server = place.serving();
    server.get("/release");
    let new = send(&server, "new", 5, "{}", 200);
    server.wait_idle();
    let ran = place.journal();
    for id in restored.iter().chain(&ids).chain(&new) {
        let times = ran.iter().filter(|line| line.id == *id).count();
        let expected = if restored.contains(id) { 2 } else { 1 };
        assert_eq!(times, expected, "{id}");
    }
}

/// The bug: if a process was killed before a pause, the inbox lost the events that only the log contained.
#[test]
fn events_of_a_deleted_wal_are_on_disk_when_new_events_are_refused() {
    let place = ServerFolder::new();
    let mut server = place.serving();
    let ids = send(&server, "event", 50, r#"{"held":true}"#, 200);
    fs::remove_file(place.beside("-wal")).unwrap();
    send(&server, "refused", 1, "{}", 503);
    server.kill();
    place.until_logged("inbox.db-wal was deleted");

    assert_eq!(place.pending(), ids);
    let server = place.serving();
    server.get("/release");
    let new = send(&server, "new", 5, "{}", 200);
    server.wait_idle();
    ran_once(&place, &[ids, new]);
}
