//! The servers that these tests start.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;

use crate::support::postgres::{
    Fsync, MISSING, PostgresServer, TIMEOUT, database, find_programs, is_alive, shared, state,
    until,
};
use crate::support::process::{Process, own_binary};

#[test]
fn each_database_of_the_shared_server_is_empty_and_dropped_with_its_handle() {
    let (one, other) = (database(), database());
    one.sql("CREATE TABLE a (b int)");
    assert_eq!(other.sql("SELECT to_regclass('a') IS NULL"), "t");
    let name = one.name.clone();
    let exists = || {
        shared().sql(&format!(
            "SELECT count(*) FROM pg_database WHERE datname = '{name}'"
        ))
    };
    assert_eq!(exists(), "1");
    drop(one);
    assert_eq!(exists(), "0");
}

#[test]
fn the_server_does_not_run_as_root() {
    let status = fs::read_to_string(format!("/proc/{}/status", shared().pid())).unwrap();
    let user = status
        .lines()
        .find(|line| line.starts_with("Uid:"))
        .unwrap();
    assert!(!user.split_whitespace().any(|id| id == "0"), "{user}");
}

#[test]
fn a_killed_or_stopped_server_has_its_committed_rows_after_a_restart() {
    let mut server = PostgresServer::start_with(Fsync::On, "");
    let (port, pid) = (server.port(), server.pid());
    server.sql("CREATE TABLE a (b int)");
    for stop in [
        PostgresServer::kill,
        PostgresServer::stop_immediately,
        PostgresServer::stop,
    ] {
        server.sql("INSERT INTO a VALUES (1)");
        stop(&mut server);
        server.restart();
    }
    assert_eq!(server.sql("SELECT count(*) FROM a"), "3");
    assert_eq!(server.port(), port);
    assert_ne!(server.pid(), pid);
}

#[test]
fn a_frozen_server_continues() {
    let server = PostgresServer::start();
    let frozen = server.freeze();
    assert!(frozen.len() > 1, "{frozen:?}");
    assert!(frozen.iter().all(|pid| state(*pid) == Some('T')));
    server.thaw();
    assert_eq!(server.sql("SELECT 1"), "1");
}

#[test]
fn a_promoted_standby_has_every_row_that_the_killed_server_committed() {
    let mut server = PostgresServer::start_with(Fsync::On, "");
    server.sql("CREATE TABLE a (b int)");
    let standby = server.standby();
    server.sql("INSERT INTO a SELECT generate_series(1, 1000)");
    assert_eq!(standby.sql("SELECT pg_is_in_recovery()"), "t");
    server.kill();
    standby.promote();
    standby.sql("INSERT INTO a VALUES (0)");
    assert_eq!(standby.sql("SELECT count(*) FROM a"), "1001");
}

#[test]
fn a_changed_parameter_is_valid_when_the_call_returns() {
    let server = PostgresServer::start();
    server.set("default_transaction_read_only", "on");
    assert_eq!(server.sql("SHOW default_transaction_read_only"), "on");
}

#[test]
fn a_dropped_server_leaves_no_process_and_no_directory() {
    for state in ["running", "frozen", "killed"] {
        let mut server = PostgresServer::start();
        let (pid, directory) = (server.pid(), server.directory().to_owned());
        match state {
            "frozen" => drop(server.freeze()),
            "killed" => server.kill(),
            _ => {}
        }
        drop(server);
        assert!(!is_alive(pid), "{state}");
        assert!(!directory.exists(), "{state}");
    }
}

#[test]
fn a_panic_leaves_no_process_and_no_directory() {
    let mut left = None;
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let server = PostgresServer::start();
        left = Some((server.pid(), server.directory().to_owned()));
        panic!("a test fails");
    }));
    assert!(panicked.is_err());
    let (pid, directory) = left.unwrap();
    assert!(!is_alive(pid));
    assert!(!directory.exists());
}

#[test]
fn a_killed_test_leaves_no_process_and_no_directory() {
    let (tell, told) = mpsc::channel();
    let mut command = Command::new(own_binary());
    command.env(ROLE, "start");
    let mut process = Process::start(command, "server::role", move |line| {
        if let Some(said) = line.strip_prefix("started ") {
            tell.send(said.to_owned()).unwrap();
        }
    });
    let said = told.recv_timeout(TIMEOUT).unwrap();
    let (pid, directory) = said.split_once(' ').unwrap();
    let (pid, directory) = (pid.parse().unwrap(), PathBuf::from(directory));
    assert!(is_alive(pid) && directory.exists());
    process.kill();
    until("the server ends", || !is_alive(pid));
    until("the directory is deleted", || !directory.exists());
}

#[test]
fn a_missing_server_fails_with_installation_instructions() {
    let mut command = Command::new(own_binary());
    command.env(ROLE, "start").env("POSTGRES_BIN", "/nowhere");
    command.args(["--ignored", "--exact", "server::role", "--nocapture"]);
    let output = command.output().unwrap();
    assert!(!output.status.success());
    let printed = String::from_utf8(output.stderr).unwrap();
    assert!(printed.lines().any(|line| line == MISSING), "{printed}");
    assert!(MISSING.contains("`apt-get install postgresql`"));
}

/// The variable that lets [`role`] start a server.
const ROLE: &str = "POSTGRES_SERVER_ROLE";

#[test]
#[ignore = "other tests run this test in a child process"]
fn role() {
    if env::var(ROLE).is_err() {
        return;
    }
    let server = PostgresServer::start();
    println!(
        "\nstarted {} {}",
        server.pid(),
        server.directory().display()
    );
    // The parent kills this process.
    let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
}

#[test]
fn the_programs_are_the_named_ones_or_in_the_path_or_the_newest_of_debian() {
    let folder = tempfile::tempdir().unwrap();
    let programs = |name: &str| {
        let directory = folder.path().join(name);
        fs::create_dir_all(&directory).unwrap();
        for program in ["initdb", "postgres", "psql"] {
            fs::write(directory.join(program), "").unwrap();
        }
        directory
    };
    let (named, in_path) = (programs("named"), programs("path"));
    let debian = folder.path().join("debian");
    let (older, newest) = (programs("debian/9/bin"), programs("debian/15/bin"));
    let none = folder.path().join("none");
    let find = |named: Option<&Path>, path: &Path, debian: &Path| {
        find_programs(named.map(Path::to_owned), OsStr::new(path), debian)
    };
    assert_eq!(find(Some(&named), &in_path, &debian), Some(named.clone()));
    assert_eq!(find(None, &in_path, &debian), Some(in_path.clone()));
    assert_eq!(find(None, &none, &debian), Some(newest.clone()));
    fs::remove_file(newest.join("initdb")).unwrap();
    assert_eq!(find(None, &none, &debian), Some(older));
    assert_eq!(find(None, &none, &none), None);
    assert_eq!(find(Some(&none), &in_path, &debian), None);
}
