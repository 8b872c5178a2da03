//! A server that is shut down by a signal drains before it closes, loses no event, and always ends.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::process::own_binary;
use crate::support::server::{BOUND, Client, Server, ServerFolder, body, until};

/// A limit that a test doesn't reach.
const LONG: Duration = Duration::from_secs(3600);
/// A limit that a test reaches.
const SHORT: Duration = Duration::from_millis(300);

/// Starts a server that shuts down on a signal, with these limits for its drain and its close.
fn start(place: &ServerFolder, drain: Duration, close: Duration) -> Server {
    let mut command = Command::new(own_binary());
    command
        .env("SERVER_DRAIN", drain.as_millis().to_string())
        .env("SERVER_CLOSE", close.as_millis().to_string());
    place.start_by(command).listening()
}

fn send(server: &Server, signal: Signal) {
    let pid = i32::try_from(server.pid()).unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

/// Asserts that the process ends without an error.
#[track_caller]
fn ends(mut server: Server) {
    let status = server.wait();
    assert!(status.success(), "{status}");
}

/// Opens a connection, sends a text, and waits for the head of an answer if there is one.
fn connect(server: &Server, text: &str, answered: bool) -> TcpStream {
    let mut stream = TcpStream::connect(server.addr).unwrap();
    stream.set_read_timeout(Some(BOUND)).unwrap();
    stream.write_all(text.as_bytes()).unwrap();
    let mut head = Vec::new();
    while answered && !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    stream
}

/// Posts an event whose handler runs until `/release`, waits until the handler runs, and returns the connection.
fn post_held(server: &Server) -> Client {
    let mut client = server.client();
    assert_eq!(client.post(&body("1", r#"{"held": true}"#)).unwrap(), 200);
    // A drain of this inbox starts no waiting events.
    until("the handler runs", || server.stats().of("running") == 1);
    client
}

fn get(path: &str, header: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: x\r\n{header}\r\n")
}

#[test]
fn an_event_posted_during_the_drain_gets_503_and_its_retry_after_the_restart_is_handled() {
    for signal in [Signal::TERM, Signal::INT] {
        let place = ServerFolder::new();
        let server = start(&place, LONG, LONG);
        let mut client = post_held(&server);
        send(&server, signal);
        place.until_logged("draining in_flight=1");
        // The port is open to old and new connections, and other requests get their answers.
        assert_eq!(client.post(&body("2", "{}")).unwrap(), 503);
        assert_eq!(server.client().post(&body("2", "{}")).unwrap(), 503);
        assert_eq!(server.stats().in_flight(), 1);

        server.get("/release");
        ends(server);
        place.until_logged("all events have ended");
        let server = start(&place, LONG, LONG);
        assert_eq!(server.client().post(&body("2", "{}")).unwrap(), 200);
        server.wait_idle();
        let done: Vec<_> = place.journal().into_iter().map(|line| line.id).collect();
        assert_eq!(done, ["1", "2"]);
        send(&server, signal);
        ends(server);
    }
}

#[test]
fn a_handler_that_runs_beyond_the_limit_is_left_for_the_next_process() {
    let place = ServerFolder::new();
    let server = start(&place, SHORT, LONG);
    post_held(&server);
    send(&server, Signal::TERM);
    ends(server);
    place.until_logged("remaining=1");
    assert!(place.journal().is_empty());

    let server = start(&place, LONG, LONG);
    server.get("/release");
    assert_eq!(server.wait_idle().of("recovered"), 1);
    assert_eq!(place.journal().len(), 1);
}

#[test]
fn a_second_signal_ends_the_drain_at_once() {
    for second in [Signal::TERM, Signal::INT] {
        let place = ServerFolder::new();
        let server = start(&place, LONG, LONG);
        post_held(&server);
        send(&server, Signal::TERM);
        place.until_logged("draining in_flight=1");
        send(&server, second);
        ends(server);
        place.until_logged("a second signal");
        place.until_logged("remaining=1");
        assert_eq!(place.pending(), ["1"]);
    }
}

#[test]
fn a_second_signal_ends_a_server_that_waits_for_a_client() {
    let place = ServerFolder::new();
    let server = start(&place, LONG, LONG);
    let _stalled = connect(&server, &get("/stream", ""), true);
    send(&server, Signal::TERM);
    // The server closes its port, and still waits for the client.
    until("the port closes", || {
        TcpStream::connect(server.addr).is_err()
    });
    send(&server, Signal::TERM);
    ends(server);
}

#[test]
fn idle_and_upgraded_connections_do_not_delay_the_end() {
    let place = ServerFolder::new();
    let server = start(&place, LONG, LONG);
    let _idle = connect(&server, &get("/stats", ""), true);
    let _silent = connect(&server, "", false);
    let _upgraded = connect(
        &server,
        &get("/upgrade", "connection: upgrade\r\nupgrade: echo\r\n"),
        true,
    );
    send(&server, Signal::TERM);
    ends(server);
    place.until_logged("all events have ended");
    assert!(!place.log().contains("hasn't closed in time"));
}

#[test]
fn a_client_that_stalls_or_holds_a_stream_open_cannot_keep_the_process() {
    let webhook = "POST /webhooks/botisimo HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{";
    let head = "GET /stats HTTP/1.1\r\nho";
    let stream = get("/stream", "");
    let (place, limit) = (ServerFolder::new(), Duration::from_secs(1));
    let server = start(&place, LONG, limit);
    let _stalled = [
        connect(&server, head, false),
        connect(&server, webhook, false),
        connect(&server, &stream, true),
    ];
    send(&server, Signal::TERM);
    ends(server);
    place.until_logged("hasn't closed in time");
}

#[test]
fn a_signal_under_load_loses_no_event_that_was_answered_200() {
    let place = ServerFolder::new();
    let server = start(&place, LONG, LONG);
    let _stalled = connect(&server, "GET /stats HTTP/1.1\r\n", false);
    let accepted = thread::scope(|scope| {
        let senders: Vec<_> = (0..8)
            .map(|sender| {
                let mut client = server.client();
                scope.spawn(move || {
                    let (mut accepted, mut number) = (Vec::new(), 0);
                    loop {
                        number += 1;
                        let id = format!("{sender}-{number}");
                        match client.post(&body(&id, r#"{"takes": 5}"#)) {
                            Ok(200) => accepted.push(id),
                            Ok(503) => {}
                            Ok(other) => panic!("answered {other}"),
                            Err(_) => return accepted,
                        }
                    }
                })
            })
            .collect();
        until("the load", || server.stats().of("handled") > 200);
        send(&server, Signal::TERM);
        let accepted = senders
            .into_iter()
            .flat_map(|sender| sender.join().unwrap());
        accepted.collect::<HashSet<_>>()
    });
    drop(_stalled);
    ends(server);
    let server = start(&place, LONG, LONG);
    server.wait_idle();
    let ran: HashSet<_> = place.journal().into_iter().map(|line| line.id).collect();
    assert!(accepted.len() > 200);
    assert_eq!(accepted.difference(&ran).next(), None);
}
