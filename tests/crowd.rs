//! Ten thousand connections at once, as far as the system allows, against a process of its own: memory stays
//! bounded, each that asked for something gets its answer, and a good event gets its 200 all the while.
#![cfg(all(target_os = "linux", feature = "sqlite", feature = "tokio"))]
#![allow(clippy::unwrap_used)]

mod server;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use server::{BOUND, Place, Server, body};

const CONNECTIONS: u64 = 10_000;

/// Raises how many files this process and those that it starts may open, and returns how many connections that makes.
fn allowed() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, raised).unwrap();
    // Both ends need some files for themselves.
    let most = limit.maximum.unwrap_or(CONNECTIONS + 200);
    usize::try_from(CONNECTIONS.min(most - 200)).unwrap()
}

/// The kilobytes that a server holds in memory.
fn resident(server: &Server) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.unwrap().trim().split(' ').next();
    number.unwrap().parse().unwrap()
}

fn connect(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(server.addr).unwrap();
    stream.set_read_timeout(Some(BOUND)).unwrap();
    stream
}

#[track_caller]
fn takes(server: &Server, id: &str) {
    assert_eq!(server.client().post(&body(id, "{}")).unwrap(), 200, "{id}");
}

/// The process that the others start.
#[test]
#[ignore = "the process that the others start"]
fn server() {
    server::serve();
}

#[test]
fn idle_connections_cost_a_few_kilobytes_each_and_nobody_an_answer() {
    let (place, count) = (Place::new(), allowed());
    let server = place.serving();
    takes(&server, "before");
    let before = resident(&server);
    let idle: Vec<_> = (0..count).map(|_| connect(&server)).collect();
    takes(&server, "meanwhile");
    let each = (resident(&server) - before) / count;
    println!("{count} connections, {each} kilobytes each");
    assert!(each < 32, "{each}");
    drop(idle);
    takes(&server, "after");
    assert_eq!(server.settled().of("handled"), 3);
}

#[test]
fn unfinished_bodies_are_answered_at_the_deadline_and_cost_no_more_than_what_came() {
    let (place, count) = (Place::new(), allowed());
    let server = place.serving();
    takes(&server, "before");
    let before = resident(&server);
    let head = "POST /webhooks/botisimo HTTP/1.1\r\nhost: x\r\ncontent-length: 2048\r\n\r\n";
    let part = head.to_owned() + &" ".repeat(1024);
    let mut slow: Vec<_> = (0..count)
        .map(|_| {
            let mut stream = connect(&server);
            stream.write_all(part.as_bytes()).unwrap();
            stream
        })
        .collect();
    takes(&server, "meanwhile");
    let each = resident(&server).saturating_sub(before) / count;
    println!("{count} unfinished bodies, {each} kilobytes each");
    assert!(each < 64, "{each}");
    for stream in &mut slow {
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"HTTP/1.1 408");
    }
    takes(&server, "after");
    assert_eq!(server.settled().of("handled"), 3);
}
