//! `botisimo inbox`, with the file of the real example `durable` while it runs and after it was killed.
#![cfg(feature = "sqlite")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use regex::Regex;
use serde_json::Value;
use support::{Example, Ran, botisimo, command, transcript, until};
use tempfile::TempDir;

/// An inbox file, and the example that owns it.
struct Service {
    folder: TempDir,
    example: Example,
}

impl Service {
    fn start() -> Self {
        Self::start_in(tempfile::tempdir().expect("a folder"))
    }

    fn start_in(folder: TempDir) -> Self {
        let path = folder.path().join("inbox.db");
        let path = path.to_str().expect("UTF-8");
        let example = Example::start("durable", &[("INBOX", path)]);
        Self { folder, example }
    }

    fn path(&self) -> PathBuf {
        path_in(&self.folder)
    }

    #[track_caller]
    fn send(&self, args: &[&str]) {
        let url = self.example.url();
        let sent = botisimo(&[&["send", "--to", &url], args].concat());
        assert_eq!(sent.code(), 0, "{sent:?}");
    }

    /// Sends an event that becomes a dead letter at once.
    #[track_caller]
    fn send_dead(&self, args: &[&str]) {
        let dead = ["account.updated", "--set", "data.name=\"\""];
        self.send(&[&dead, args].concat());
    }

    /// Kills the service, as a crash would, and returns the folder.
    fn kill(mut self) -> TempDir {
        self.example.kill();
        self.folder
    }

    /// Kills the service, and lets a command close the file.
    fn kill_and_close(self) -> TempDir {
        let path = self.path();
        let folder = self.kill();
        json(&path, &["prune", "--older-than", "100years"]);
        folder
    }
}

fn path_in(folder: &TempDir) -> PathBuf {
    folder.path().join("inbox.db")
}

#[track_caller]
fn inbox(path: &Path, args: &[&str]) -> Ran {
    let path = path.to_str().expect("UTF-8");
    botisimo(&[&["inbox", path], args].concat())
}

/// Runs a command that succeeds, and returns its only line of JSON.
#[track_caller]
fn json(path: &Path, args: &[&str]) -> Value {
    let ran = inbox(path, &[args, &["--json"]].concat());
    assert_eq!(ran.code(), 0, "{ran:?}");
    let mut lines = ran.json();
    assert_eq!(lines.len(), 1, "{ran:?}");
    lines.remove(0)
}

/// Waits until the inbox has this number of events in a state.
#[track_caller]
fn until_count(path: &Path, count: &str, expected: u64) {
    until(count, || json(path, &["stats"])[count] == expected);
}

/// Replaces what differs from run to run: the path, times, message ids, sizes and process ids.
fn shown(text: &str, folder: &TempDir) -> String {
    let folder = folder.path().canonicalize().expect("the folder exists");
    let folder = folder.to_str().expect("UTF-8");
    let mut text = text.replace(folder, "/var/lib/app");
    for (pattern, stand_in) in [
        (
            "[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z",
            "2026-11-27T20:15:00Z",
        ),
        (
            "[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}",
            "20612112-0305-46a9-a67a-e3ffc5bb7a18",
        ),
        (r"\b[0-9.]+ (B|KiB|MiB)\b", "4.00 KiB"),
        ("process [0-9]+", "process 4242"),
        (r"\b[0-9.]+ (µs|ms|s)\b", "1.23 ms"),
    ] {
        let pattern = Regex::new(pattern).expect("valid");
        text = pattern.replace_all(&text, stand_in).into_owned();
    }
    text
}

/// The names and the contents of all files in a folder.
fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).expect("the folder is readable");
    let files = entries
        .map(|entry| entry.expect("the entry is readable"))
        .filter(|entry| entry.path().is_file());
    let file = |entry: fs::DirEntry| {
        let name = entry.file_name().into_string().expect("UTF-8");
        (name, fs::read(entry.path()).expect("the file is readable"))
    };
    files.map(file).collect()
}

#[test]
fn the_file_of_a_running_service_is_readable_and_stays_unchanged() {
    let service = Service::start();
    let path = service.path();
    service.send_dead(&[]);
    service.send_dead(&["--id", "m-\u{1b}[31m\u{202e}"]);
    service.send(&["poll.created", "--set", "data.seconds=600"]);
    until_count(&path, "dead_letters", 2);
    let stats = inbox(&path, &["stats"]);
    let shown_stats = shown(&stats.stdout, &service.folder);
    // The size of the log depends on the moment.
    let shown_stats = shown_stats.replace(", write-ahead log 4.00 KiB", "");
    transcript(
        "inbox.md",
        "stats",
        &format!("$ botisimo inbox inbox.db stats\n{shown_stats}"),
    );
    let stats = json(&path, &["stats"]);
    assert_eq!(stats["in_flight"], 1);
    if cfg!(target_os = "linux") {
        assert_eq!(stats["owner"], service.example.pid());
    }
    let dead = inbox(&path, &["dead", "--message-id", "m-\u{1b}[31m\u{202e}"]);
    assert!(
        dead.stdout.contains("an account without a name"),
        "{dead:?}"
    );
    let show = inbox(&path, &["show", "2"]);
    assert!(show.stdout.contains("\"name\": \"\""), "{show:?}");
    for ran in [&dead, &show] {
        assert!(!ran.stdout.contains(['\u{1b}', '\u{202e}']), "{ran:?}");
        assert_eq!(ran.code(), 0);
    }
    // The service continues.
    let check = json(&path, &["check"]);
    assert_eq!(check["intact"], true);
    service.send(&["account.updated"]);
    until_count(&path, "message_ids", 4);

    let refused = "is owned by process";
    for change in [
        &["replay", "--all"][..],
        &["replay", "1"],
        &["delete", "1"],
        &["prune", "--older-than", "0s"],
    ] {
        let ran = inbox(&path, change);
        assert_eq!(ran.code(), 3, "{ran:?}");
        let advice = "use its inspector, or stop the process first";
        assert!(ran.stderr.contains(advice), "{ran:?}");
        if cfg!(target_os = "linux") {
            let owner = format!("{refused} {}", service.example.pid());
            assert!(ran.stderr.contains(&owner), "{ran:?}");
        }
    }
    assert_eq!(json(&path, &["stats"])["dead_letters"], 2);
}

#[test]
fn events_are_selected_by_their_filters() {
    let service = Service::start();
    let path = service.path();
    for _ in 0..3 {
        service.send_dead(&[]);
    }
    service.send_dead(&["--id", "m-4"]);
    until_count(&path, "dead_letters", 4);
    service.send(&["poll.created", "--set", "data.seconds=600"]);
    let ids = |args: &[&str]| -> Vec<u64> {
        let ran = inbox(&path, &[args, &["--json"]].concat());
        assert_eq!(ran.code(), 0, "{ran:?}");
        let ids = ran.json().into_iter();
        ids.map(|record| record["id"].as_u64().expect("a number"))
            .collect()
    };
    assert_eq!(ids(&["list"]), [5, 4, 3, 2, 1]);
    assert_eq!(ids(&["list", "--limit", "2"]), [5, 4]);
    assert_eq!(ids(&["list", "--limit", "2", "--before", "4"]), [3, 2]);
    assert_eq!(ids(&["list", "--state", "waiting"]), [5]);
    assert_eq!(
        ids(&["list", "--state", "waiting", "--state", "dead"]),
        [5, 4, 3, 2, 1]
    );
    assert_eq!(ids(&["dead"]), [4, 3, 2, 1]);
    assert_eq!(ids(&["dead", "--type", "poll.*"]), [0; 0]);
    assert_eq!(ids(&["list", "--type", "poll.*"]), [5]);
    assert_eq!(ids(&["list", "--message-id", "m-4"]), [4]);
    assert_eq!(ids(&["list", "--reason", "without a name"]).len(), 4);
    assert_eq!(ids(&["list", "--route", "account.updated"]).len(), 4);
    assert_eq!(ids(&["list", "--outcome", "timed out"]), [0; 0]);
    assert_eq!(ids(&["list", "--since", "1h"]).len(), 5);
    assert_eq!(ids(&["list", "--until", "1h"]), [0; 0]);
    assert_eq!(ids(&["list", "--since", "2100-01-01T00:00:00Z"]), [0; 0]);
    let table = inbox(&path, &["dead", "--limit", "2"]);
    assert!(table.stderr.contains("--before 3"), "{table:?}");
    let listed = inbox(&path, &["dead", "--message-id", "m-4"]);
    transcript(
        "inbox.md",
        "dead",
        &format!(
            "$ botisimo inbox inbox.db dead --message-id m-4\n{}",
            shown(&listed.stdout, &service.folder)
        ),
    );
    let show = json(&path, &["show", "4"]);
    assert_eq!(show["message_id"], "m-4");
    assert!(show["body"].as_str().expect("a string").contains("m-4"));
    for wrong in [
        &["list", "--state", "gone"][..],
        &["list", "--since", "yesterday"],
        &["list", "--type", "a.*.b"],
        &["list", "--limit", "0"],
        &["prune"],
        &["replay"],
        &["replay", "1", "--all"],
        &["replay", "1", "--route", "a"],
        &["replay", "--all", "--state", "waiting"],
        &["delete"],
        &["show"],
    ] {
        let ran = inbox(&path, wrong);
        assert_eq!(ran.code(), 2, "{wrong:?} {ran:?}");
        assert!(!ran.stderr.is_empty());
    }
    let missing = inbox(&path, &["show", "99"]);
    assert_eq!(missing.code(), 1);
    assert!(missing.stderr.contains("no event 99"), "{missing:?}");
}

#[test]
fn dead_letters_that_were_replayed_after_a_kill_run_after_the_next_start() {
    let service = Service::start();
    let path = service.path();
    for _ in 0..3 {
        service.send_dead(&[]);
    }
    until_count(&path, "dead_letters", 3);
    let folder = service.kill();
    let dry = json(&path, &["replay", "--all", "--dry-run"]);
    assert_eq!(dry["would_change"], 3);
    assert_eq!(json(&path, &["stats"])["dead_letters"], 3);
    let replayed = json(&path, &["replay", "1"]);
    assert_eq!(replayed["replayed"], 1);
    let twice = inbox(&path, &["replay", "1", "2"]);
    assert_eq!(twice.code(), 1, "{twice:?}");
    assert!(twice.stderr.contains("event 1 stays as it is"), "{twice:?}");
    assert!(
        twice
            .stdout
            .contains("1 event will run after the next start"),
        "{twice:?}"
    );
    let check = inbox(&path, &["check"]);
    assert_eq!(check.code(), 0, "{check:?}");
    assert!(check.stdout.contains("recovers 2 in flight"), "{check:?}");
    let deleted = json(&path, &["delete", "--reason", "without a name"]);
    assert_eq!(deleted["deleted"], 1);

    let service = Service::start_in(folder);
    let lines = service.example.lines();
    let recovered = lines
        .iter()
        .any(|line| line.starts_with("2 events recovered"));
    assert!(recovered, "{lines:?}");
    // Both fail again.
    until_count(&path, "dead_letters", 2);
    let folder = service.kill();
    let pruned = json(&path, &["prune", "--older-than", "1h"]);
    assert_eq!(
        (&pruned["dead_letters"], &pruned["handled"]),
        (&0.into(), &0.into())
    );
    until("all dead letters are pruned", || {
        json(&path, &["prune", "--older-than", "0s"]);
        json(&path, &["stats"])["dead_letters"] == 0
    });
    drop(folder);
}

#[test]
fn a_file_that_isnt_an_inbox_stays_unchanged() {
    // A database of another program differs in its application id, at byte 68.
    let other = Service::start().kill_and_close();
    let mut foreign = fs::read(path_in(&other)).expect("the file is readable");
    foreign[68..72].copy_from_slice(b"othr");
    let cases: [(&str, Option<&[u8]>); 5] = [
        ("missing", None),
        ("empty", Some(b"")),
        ("text", Some(b"some text, and no database")),
        ("foreign", Some(&foreign)),
        ("folder", None),
    ];
    for (name, bytes) in cases {
        let folder = tempfile::tempdir().expect("a folder");
        let path = path_in(&folder);
        if let Some(bytes) = bytes {
            fs::write(&path, bytes).expect("the file can be written");
        }
        if name == "folder" {
            fs::create_dir(&path).expect("the folder can be created");
        }
        let before = contents(folder.path());
        let copy = folder.path().join("copy.db");
        for args in [
            &["stats"][..],
            &["list"],
            &["dead"],
            &["show", "1"],
            &["check"],
            &["backup", copy.to_str().expect("UTF-8")],
            &["replay", "1"],
            &["replay", "--all", "--dry-run"],
            &["delete", "--all"],
            &["prune", "--older-than", "1s"],
        ] {
            let ran = inbox(&path, args);
            assert_eq!(ran.code(), 3, "{name} {args:?} {ran:?}");
            assert!(ran.stderr.contains("inbox.db"), "{ran:?}");
            assert!(before == contents(folder.path()), "{name} {args:?}");
        }
    }
}

/// Each step is a transaction, so an interruption leaves every event in one place.
/// Kills `botisimo inbox` after some milliseconds, and asserts that the file is intact. Returns whether the command succeeded, and
/// the check of the file.
fn killed(path: &Path, args: &[&str], millis: u64) -> (bool, Value) {
    let file = path.to_str().expect("UTF-8");
    let mut child = command(&[&["inbox", file], args].concat())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    // The moment of the kill is arbitrary on purpose.
    std::thread::sleep(std::time::Duration::from_millis(millis));
    let _ = child.kill();
    let status = child.wait().expect("it ends");
    let check = json(path, &["check"]);
    assert_eq!(check["intact"], true, "{check}");
    assert_eq!(check["counts_match"], true, "{check}");
    (status.success(), check)
}

#[test]
fn a_replay_or_prune_that_is_killed_loses_nothing() {
    const EVENTS: u64 = 1500;
    let service = Service::start();
    let path = service.path();
    let times = EVENTS.to_string();
    service.send_dead(&["--times", &times, "--concurrency", "64"]);
    until_count(&path, "dead_letters", EVENTS);
    let folder = service.kill();
    let (mut replayed, mut interrupted) = (0, 0);
    for delay in 0..40_u64 {
        let (is_complete, check) = killed(&path, &["replay", "--all"], delay * 3);
        interrupted += u64::from(!is_complete);
        let count = |name: &str| check[name].as_u64().expect("a number");
        assert_eq!(count("in_flight") + count("dead_letters"), EVENTS);
        assert!(count("in_flight") >= replayed);
        replayed = count("in_flight");
    }
    assert!(interrupted > 0);
    json(&path, &["replay", "--all"]);
    assert_eq!(json(&path, &["stats"])["in_flight"], EVENTS);

    let service = Service::start_in(folder);
    until_count(&path, "dead_letters", EVENTS);
    let folder = service.kill();
    let mut left = EVENTS;
    for delay in 0..20_u64 {
        let (_, check) = killed(&path, &["prune", "--older-than", "0s"], delay * 3);
        let dead = check["dead_letters"].as_u64().expect("a number");
        assert!(dead <= left);
        left = dead;
    }
    drop(folder);
}

#[test]
fn a_backup_under_load_is_complete_and_opens() {
    let service = Service::start();
    let path = service.path();
    let url = service.example.url();
    let mut load = command(&[
        "send",
        "account.updated",
        "--to",
        &url,
        "--times",
        "5000",
        "--concurrency",
        "32",
    ]);
    let mut load = load
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    let copies = tempfile::tempdir().expect("a folder");
    let mut last = 0;
    for number in 0..5 {
        let copy = copies.path().join(format!("{number}.db"));
        let before = json(&path, &["stats"])["message_ids"].as_u64();
        let made = json(&path, &["backup", copy.to_str().expect("UTF-8")]);
        assert!(made["bytes"].as_u64() > Some(0));
        let check = json(&copy, &["check"]);
        assert_eq!(check["intact"], true, "{check}");
        assert_eq!(check["counts_match"], true, "{check}");
        assert!(check["message_ids"].as_u64() >= before, "{check}");
        last = check["message_ids"].as_u64().expect("a number");
    }
    load.wait().expect("it ends");
    let copy = copies.path().join("4.db");
    let again = inbox(&path, &["backup", copy.to_str().expect("UTF-8")]);
    assert_eq!(again.code(), 3);
    assert!(again.stderr.contains("the file exists"), "{again:?}");
    drop(service);
    // A service opens the copy and accepts events.
    let copy = copy.to_str().expect("UTF-8");
    let restored = Example::start("durable", &[("INBOX", copy)]);
    let sent = botisimo(&["send", "account.updated", "--to", &restored.url()]);
    assert_eq!(sent.code(), 0, "{sent:?}");
    until_count(copy.as_ref(), "message_ids", last + 1);
}

#[test]
fn a_damaged_file_is_reported() {
    let service = Service::start();
    let path = service.path();
    service.send_dead(&["--times", "300", "--concurrency", "32"]);
    until_count(&path, "dead_letters", 300);
    let folder = service.kill_and_close();
    let mut bytes = fs::read(&path).expect("the file is readable");
    let start = bytes.len() / 2 / 4096 * 4096;
    bytes[start..start + 8192].fill(0xff);
    fs::write(&path, bytes).expect("the file can be written");
    let check = inbox(&path, &["check"]);
    assert_eq!(check.code(), 1, "{check:?}");
    assert!(
        check.stdout.contains("the database is damaged"),
        "{check:?}"
    );
    let check = inbox(&path, &["check", "--json"]);
    assert_eq!(check.json()[0]["intact"], false);
    drop(folder);
}
