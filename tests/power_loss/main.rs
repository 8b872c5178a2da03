//! Laws 1 and 10 of ARCHITECTURE.md, during a power failure: the inbox syncs an event before the receiver writes
//! its 200.
//!
//! strace records the system calls of a server under load. Other tests open the file as it would be on a disk
//! that keeps only synced data.
//!
//! The tests need strace, so a plain `cargo test` leaves them out. Run `cargo test --test power_loss`.
#![cfg(all(target_os = "linux", feature = "signal", feature = "sqlite"))]
#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::process::Command;
use std::sync::Mutex;
use std::thread;

use rusqlite::Connection;

use support::process::own_binary;
use support::server::{Server, ServerFolder, Starting, body, texts, until};

#[test]
#[ignore = "other tests run this test in a child process"]
fn server() {
    support::server::serve();
}

/// Starts a server under strace. strace writes the calls on files and sockets to `trace`.
fn traced(place: &ServerFolder, arguments: &[&str]) -> Starting {
    let found = Command::new("strace").arg("-V").output();
    assert!(
        found.is_ok_and(|found| found.status.success()),
        "this test needs strace: `apt-get install strace`, or the package of your system"
    );
    let mut strace = Command::new("strace");
    // strace prints the paths of file descriptors, and whole pages of the database.
    strace.args(["-f", "-y", "-s", "5000", "-o"]);
    strace.arg(place.folder().join("trace"));
    strace.args(["-e", "trace=read,recvfrom,write,writev,sendto,sendmsg,pwrite64,pwritev,ftruncate,fsync,fdatasync"]);
    strace.args(arguments).arg(own_binary());
    place.start_by(strace)
}

/// Sends events over several concurrent connections, and returns the ids of the events that were answered with
/// 200.
fn load(server: &Server, name: &str, each: usize) -> HashSet<String> {
    let taken = Mutex::new(HashSet::new());
    thread::scope(|scope| {
        for client in 0..8 {
            let taken = &taken;
            scope.spawn(move || {
                let mut connection = server.client();
                for number in 0..each {
                    let id = format!("event-{name}-{client}-{number}-end");
                    // The inbox may refuse the event, and a refused event isn't lost.
                    if connection.post(&body(&id, "{}")).unwrap() == 200 {
                        taken.lock().unwrap().insert(id);
                    }
                }
            });
        }
    });
    taken.into_inner().unwrap()
}

#[test]
fn the_sync_of_a_batch_ends_before_any_of_its_200s_is_written() {
    let place = ServerFolder::new();
    let server = traced(&place, &[]).listening();
    let taken = load(&server, "a", 60);
    server.wait_idle();
    server.end();
    assert_eq!(taken.len(), 8 * 60);

    let calls = calls(&fs::read_to_string(place.folder().join("trace")).unwrap());
    let batches = check_order(&place, &calls, &taken);
    let largest = batches.values().max().unwrap();
    println!(
        "{} events in {} batches of up to {largest}: each synced before its 200",
        taken.len(),
        batches.len()
    );
    assert!(*largest > 1, "no sync covered several events");
}

/// Checks for each event that the inbox wrote the event's page, then synced the page, and that the receiver
/// wrote the 200 afterwards. Returns the number of events per sync.
#[track_caller]
fn check_order(
    place: &ServerFolder,
    calls: &[Call],
    taken: &HashSet<String>,
) -> BTreeMap<usize, usize> {
    let on_log = |call: &&Call| call.file.ends_with("inbox.db-wal");
    let mut written = HashMap::new();
    for write in calls
        .iter()
        .filter(|call| call.name == "pwrite64")
        .filter(on_log)
    {
        for id in ids(&write.data) {
            written.entry(id).or_insert(write);
        }
    }
    let synced = calls.iter().filter(|call| call.is_sync());
    let synced: Vec<_> = synced.filter(on_log).collect();
    let answered = answers(calls);
    let mut batches: BTreeMap<usize, usize> = BTreeMap::new();
    for id in taken {
        let (write, answer) = (written[id], answered[id]);
        let sync = synced.iter().find(|sync| sync.begun > write.ended);
        assert!(
            sync.is_some_and(|sync| sync.ended < answer),
            "the 200 of {id} is call {answer}; its page was written by call {}, and synced by {sync:?}",
            write.begun
        );
        *batches.entry(sync.unwrap().begun).or_default() += 1;
    }
    // If the folder isn't synced, the log itself may be lost.
    let folder = place.folder().to_str().unwrap();
    let first = answered.values().min().unwrap();
    let entered = calls.iter().any(|call| {
        call.is_sync() && call.file == folder && synced[0].begun < call.begun && call.ended < *first
    });
    assert!(entered, "the folder wasn't synced before the first 200");
    batches
}

/// Sends each event until the inbox accepts it, and returns the ids.
fn load_until_taken(server: &Server) -> HashSet<String> {
    let ids = thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|client| {
                scope.spawn(move || {
                    let ids = (0..25).map(|number| format!("event-{client}-{number}-end"));
                    let mut connection = server.client();
                    let send = |id: &String| connection.post_until_taken(&body(id, "{}"));
                    ids.inspect(send).collect::<Vec<_>>()
                })
            })
            .collect();
        let ids = clients
            .into_iter()
            .flat_map(|client| client.join().unwrap());
        ids.collect()
    });
    server.wait_idle();
    ids
}

/// Checks that each of these events has run once and won't run again.
fn check_ran(place: &ServerFolder, server: Server, ids: &HashSet<String>) {
    server.end();
    let ran: Vec<_> = place.journal().into_iter().map(|line| line.id).collect();
    assert_eq!(ran.len(), ids.len());
    assert_eq!(ids, &ran.into_iter().collect());
    assert_eq!(place.pending(), Vec::<String>::new());
}

#[test]
fn an_event_whose_sync_fails_is_answered_503_and_accepted_when_sent_again() {
    let place = ServerFolder::new();
    let fault = "inject=fsync,fdatasync:error=EIO:when=20..40";
    let server = traced(&place, &["-e", fault]).listening();
    let ids = load_until_taken(&server);
    check_ran(&place, server, &ids);
    let trace = fs::read_to_string(place.folder().join("trace")).unwrap();
    assert!(trace.contains("(INJECTED)"));
    check_order(&place, &calls(&trace), &ids);
    let log = place.log();
    assert!(log.contains("the disk fails: /"), "{log}");
    assert!(log.contains("the inbox has recovered"), "{log}");
}

#[test]
fn an_event_whose_sync_takes_too_long_is_answered_503_and_is_a_duplicate_when_sent_again() {
    let place = ServerFolder::new();
    // The call takes longer than the receiver's timeout of 3 s.
    let fault = "inject=fsync,fdatasync:delay_enter=5000000:when=20";
    let server = traced(&place, &["-e", fault]).listening();
    let ids = load_until_taken(&server);
    let stats = server.stats();
    assert_eq!(
        (stats.of("accepted"), stats.of("duplicates") > 0),
        (100, true)
    );
    check_ran(&place, server, &ids);
}

#[test]
fn a_disk_that_keeps_only_synced_data_has_every_event_answered_200() {
    let place = ServerFolder::new();
    let server = traced(&place, &[]).listening();
    let mut taken = load(&server, "a", 75);
    let trace = place.folder().join("trace");
    until("a pause brings a checkpoint", || {
        let trace = fs::read_to_string(&trace).unwrap();
        // The last line may be incomplete.
        let whole = trace.rfind('\n').map_or(0, |end| end + 1);
        checkpoints(&calls(&trace[..whole])) > 0
    });
    taken.extend(load(&server, "b", 75));
    server.wait_idle();
    server.end();
    assert_eq!(taken.len(), 8 * 150);

    let mut calls = calls(&fs::read_to_string(&trace).unwrap());
    let answered = answers(&calls);
    let mut answered: Vec<_> = taken.iter().map(|id| (answered[id], id)).collect();
    answered.sort_unstable();
    let mut answered = answered.into_iter().peekable();
    let (mut disk, mut owed, mut states) = (Disk::default(), Vec::new(), 0);
    // The file changes and the answers, by line of the trace.
    calls.sort_by_key(|call| call.ended);
    for call in &calls {
        while let Some((_, id)) = answered.next_if(|(begun, _)| *begun < call.ended) {
            owed.push(id);
        }
        if call.is_sync() && !owed.is_empty() {
            disk.check(&owed);
            states += 1;
            owed.clear();
        }
        disk.apply(call);
    }
    owed.extend(answered.map(|(_, id)| id));
    disk.check(&owed);
    println!(
        "{} events, searched in {states} states of the disk with {} checkpoints",
        taken.len(),
        checkpoints(&calls)
    );
}

/// Returns the number of syncs of the database after the first write to the log.
fn checkpoints(calls: &[Call]) -> usize {
    let synced = calls.iter().filter(|call| call.is_sync());
    let later = synced.skip_while(|call| !call.file.ends_with("inbox.db-wal"));
    later.filter(|call| call.file.ends_with("inbox.db")).count()
}

/// The files of an inbox: the state that the process sees, and the synced state.
#[derive(Default)]
struct Disk {
    seen: HashMap<String, Vec<u8>>,
    synced: HashMap<String, Vec<u8>>,
}

impl Disk {
    fn apply(&mut self, call: &Call) {
        let name = call.file.rsplit('/').next().unwrap();
        if !["inbox.db", "inbox.db-wal"].contains(&name) {
            return;
        }
        let file = self.seen.entry(name.to_owned()).or_default();
        match &*call.name {
            "pwrite64" => {
                let (from, to) = (call.number, call.number + call.data.len());
                file.resize(file.len().max(to), 0);
                file[from..to].copy_from_slice(&call.data);
            }
            "ftruncate" => file.resize(call.number, 0),
            // A single thread writes, so no write has happened since the sync began.
            "fsync" | "fdatasync" => {
                self.synced.insert(name.to_owned(), file.clone());
            }
            other => panic!("this test doesn't know the call {other}"),
        }
    }

    /// Opens the synced files, and searches them for events.
    fn check(&self, ids: &[&String]) {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in &self.synced {
            fs::write(folder.path().join(name), bytes).unwrap();
        }
        let inbox = Connection::open(folder.path().join("inbox.db")).unwrap();
        let remembered = texts(&inbox, "SELECT message_id FROM message_ids");
        let remembered: HashSet<_> = remembered.into_iter().collect();
        for id in ids {
            assert!(
                remembered.contains(*id),
                "{id} was answered 200 and isn't on disk"
            );
        }
        // The event may have ended by then, but no state contains an event without its id.
        let check = texts(&inbox, "PRAGMA quick_check");
        assert_eq!(check, ["ok"]);
    }
}

/// A system call on a file or a socket. `begun` and `ended` are line numbers of the trace. strace prints the
/// calls in an order in which they may have happened.
#[derive(Debug)]
struct Call {
    name: String,
    /// The path of the descriptor's file.
    file: String,
    begun: usize,
    ended: usize,
    /// The bytes that were read or written.
    data: Vec<u8>,
    /// The offset of a `pwrite64`, or the length of an `ftruncate`.
    number: usize,
}

impl Call {
    fn is_sync(&self) -> bool {
        matches!(&*self.name, "fsync" | "fdatasync")
    }
}

/// Returns for each event the line where the server began to write the event's 200: the next 200 on the
/// connection that carried the event.
fn answers(calls: &[Call]) -> HashMap<String, usize> {
    let (mut asked, mut answered) = (HashMap::new(), HashMap::new());
    for call in calls.iter().filter(|call| call.file.starts_with("socket:")) {
        if matches!(&*call.name, "read" | "recvfrom") {
            ids(&call.data).for_each(|id| drop(asked.insert(&call.file, id)));
        } else if String::from_utf8_lossy(&call.data).starts_with("HTTP/1.1 200")
            && let Some(id) = asked.remove(&call.file)
        {
            answered.insert(id, call.begun);
        }
    }
    answered
}

/// Returns the ids of the events in these bytes.
fn ids(data: &[u8]) -> impl Iterator<Item = String> {
    let text = String::from_utf8_lossy(data);
    let rests = text.split("event-").skip(1);
    let ids = rests.filter_map(|rest| Some(format!("event-{}-end", rest.split_once("-end")?.0)));
    ids.collect::<Vec<_>>().into_iter()
}

/// Parses the output of strace: `12 pwrite64(9</tmp/inbox.db-wal>, "…", 4096, 32) = 4096`. If a second call
/// starts before the first call ends, strace splits the first call into two lines. Leaves out failed calls.
fn calls(trace: &str) -> Vec<Call> {
    let (mut calls, mut unfinished) = (Vec::new(), HashMap::new());
    for (at, line) in trace.lines().enumerate() {
        let (process, rest) = line.split_once(' ').unwrap();
        let rest = rest.trim_start();
        let (begun, text) = if let Some(begin) = rest.strip_suffix(" <unfinished ...>") {
            unfinished.insert(process, (at, begin));
            continue;
        } else if let Some(resumed) = rest.strip_prefix("<... ") {
            let (begun, begin) = unfinished.remove(process).unwrap();
            let (_, end) = resumed.split_once(" resumed>").unwrap();
            (begun, format!("{begin}{end}"))
        } else {
            (at, rest.to_owned())
        };
        calls.extend(call(&text, begun, at));
    }
    calls.sort_by_key(|call| call.begun);
    calls
}

fn call(text: &str, begun: usize, ended: usize) -> Option<Call> {
    let (name, rest) = text.split_once('(')?;
    let (_, rest) = rest.split_once('<')?;
    let (file, rest) = rest.split_once('>')?;
    let (arguments, result) = rest.rsplit_once(" = ")?;
    if result.starts_with(['-', '?']) {
        return None;
    }
    let data = arguments.split_once('"').map(|(_, data)| unescaped(data));
    let last = arguments.trim_end().strip_suffix(')')?;
    let last = last.rsplit_once(", ").map(|(_, last)| last.parse());
    Some(Call {
        name: name.to_owned(),
        file: file.to_owned(),
        begun,
        ended,
        data: data.unwrap_or_default(),
        number: last.and_then(Result::ok).unwrap_or(0),
    })
}

/// Parses a C string up to its closing quote.
fn unescaped(text: &str) -> Vec<u8> {
    let (mut bytes, mut rest) = (Vec::new(), text.bytes().peekable());
    while let Some(byte) = rest.next() {
        match byte {
            b'"' => break,
            b'\\' => bytes.push(match rest.next().unwrap() {
                b'n' => b'\n',
                b't' => b'\t',
                b'r' => b'\r',
                b'v' => 11,
                b'f' => 12,
                first @ b'0'..=b'7' => {
                    let mut value = u32::from(first - b'0');
                    for _ in 0..2 {
                        if let Some(digit) = rest.next_if(|digit| (b'0'..=b'7').contains(digit)) {
                            value = value * 8 + u32::from(digit - b'0');
                        }
                    }
                    u8::try_from(value).unwrap()
                }
                other => other,
            }),
            byte => bytes.push(byte),
        }
    }
    bytes
}
