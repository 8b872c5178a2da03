//! Laws 1, 5 and 12 of ARCHITECTURE.md, with connections that break at random moments, so that the inbox doesn't get the
//! answers to some commits.
//!
//! `POSTGRES_CUTS=500` cuts more often.

use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use std::{io, thread};

use fastrand::Rng;

use crate::crash::{number, start};
use crate::deployment::{Deployment, Load, Sender, check, check_effects, wait_idle};
use crate::support::postgres::{PostgresServer, until};

/// The two connections of a client: to the proxy, and from the proxy to the server.
type Link = (TcpStream, TcpStream);

/// A proxy in front of a server.
struct Proxy {
    port: u16,
    links: Arc<Mutex<Vec<Link>>>,
}

impl Proxy {
    fn start(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let links = Arc::<Mutex<Vec<Link>>>::default();
        let opened = Arc::clone(&links);
        thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.unwrap();
                let server = TcpStream::connect(("127.0.0.1", server)).unwrap();
                for stream in [&client, &server] {
                    stream.set_nodelay(true).unwrap();
                }
                let copy = |stream: &TcpStream| stream.try_clone().unwrap();
                forward(copy(&client), copy(&server));
                forward(copy(&server), copy(&client));
                opened.lock().unwrap().push((client, server));
            }
        });
        Self { port, links }
    }

    /// Cuts all connections. Statements that have passed the proxy still run. Returns the number of connections.
    fn cut(&self) -> usize {
        let links = std::mem::take(&mut *self.links.lock().unwrap());
        for (client, server) in &links {
            // The connection may have ended.
            let _ = client.shutdown(Shutdown::Both);
            let _ = server.shutdown(Shutdown::Both);
        }
        links.len()
    }
}

fn forward(mut from: TcpStream, mut to: TcpStream) {
    thread::spawn(move || {
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Both);
    });
}

#[test]
fn every_event_answered_200_is_handled_once_although_connections_break() {
    let cuts = number("POSTGRES_CUTS").unwrap_or(40);
    let mut rng = Rng::new();
    let database = PostgresServer::start();
    let proxy = Proxy::start(database.port());
    // No receiver loses its lease, so no handler that succeeded runs again.
    let deployment = Deployment::through(proxy.port, &database, Duration::from_secs(60));
    let servers = start(&deployment, 2);
    let mut senders: Vec<_> = (0..6)
        .map(|name| Sender::new(name, rng.fork(), 5))
        .collect();
    let (load, mut broken) = (Load::default(), 0);
    load.addresses.set(servers.iter().map(|server| server.addr));
    thread::scope(|scope| {
        for sender in &mut senders {
            scope.spawn(|| sender.send(&load, usize::MAX));
        }
        for _ in 0..cuts {
            let enough = load.answers.load(Ordering::Relaxed) + rng.usize(1..100);
            until("enough events are answered", || {
                load.answers.load(Ordering::Relaxed) >= enough
            });
            // The moment of the cut is random, so the thread sleeps without a condition.
            thread::sleep(Duration::from_micros(rng.u64(..5000)));
            broken += proxy.cut();
        }
        load.ends.store(true, Ordering::Relaxed);
    });
    wait_idle(&database);
    let twice = check(&deployment.journal(), &senders);
    check_effects(&database, &senders);
    for server in &servers {
        until("the receiver is idle", || server.stats().in_flight() == 0);
    }
    let answered: usize = senders.iter().map(|sender| sender.taken.len()).sum();
    println!("{broken} broken connections, {answered} events, {twice} handled twice");
    assert_eq!(twice, 0);
    let letters = database.sql("SELECT count(*) FROM botisimo.dead_letters");
    assert_eq!(letters, "0");
}
