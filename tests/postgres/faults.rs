//! Faults of the server, and changes by operators while an inbox runs. The receiver answers 503 while the inbox can't
//! store events. The inbox recovers without a restart, and loses no event that it accepted.
//!
//! A table in the guide lists these faults and the tests for them.

use std::collections::HashMap;
use std::env;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use botisimo_webhooks::{
    AcceptErrorKind, Accepted, Event, EventRouter, HealthProblemKind, Inbox, PostgresInbox,
};
use deadpool_postgres::Pool;

use crate::kit::pool;
use crate::support::postgres::{Fsync, PostgresServer, TIMEOUT, until};
use crate::support::{balanced, event};

/// The answer's deadline of a receiver with default settings.
const DEADLINE: Duration = Duration::from_secs(3);

/// Creates a role that may create the inbox's schema, but has no other rights.
fn create_role(server: &PostgresServer) {
    server.sql("CREATE ROLE app LOGIN");
    server.sql("GRANT CREATE ON DATABASE postgres TO app");
}

/// An inbox whose handlers record their events.
struct Open {
    inbox: PostgresInbox,
    runs: Arc<Mutex<Vec<String>>>,
    accepted: Vec<String>,
}

impl Open {
    async fn new(server: &PostgresServer) -> Self {
        create_role(server);
        Self::with(pool(&server.url_of("app", "postgres"), 4)).await
    }

    async fn with(pool: Pool) -> Self {
        Self::with_runs(pool, Arc::default()).await
    }

    /// Opens an inbox that records its events beside the events of another inbox.
    async fn with_runs(pool: Pool, runs: Arc<Mutex<Vec<String>>>) -> Self {
        let noted = Arc::clone(&runs);
        let router = EventRouter::new().on_any(move |event: Event| async move {
            noted.lock().unwrap().push(event.id().to_owned());
        });
        let inbox = PostgresInbox::builder(pool).lease(Duration::from_secs(2));
        Self {
            inbox: inbox.open(router).await.unwrap(),
            runs,
            accepted: Vec::new(),
        }
    }

    /// Returns whether the inbox stores an event within a receiver's deadline.
    async fn stores(&mut self) -> bool {
        let id = format!("event {}", self.accepted.len());
        let answer = tokio::time::timeout(DEADLINE, self.inbox.accept(event(&id))).await;
        match answer {
            Ok(Ok(Accepted::New | Accepted::Duplicate)) => {
                self.accepted.push(id);
                true
            }
            Ok(Err(error)) => {
                assert_eq!(error.kind(), AcceptErrorKind::Unavailable);
                false
            }
            Ok(other) => panic!("answered {other:?}"),
            Err(_) => false,
        }
    }

    async fn until_it_stores(&mut self) {
        let begun = Instant::now();
        while !self.stores().await {
            assert!(
                begun.elapsed() < TIMEOUT,
                "{:?}",
                self.inbox.handle().health()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn until_it_refuses(&mut self) {
        let begun = Instant::now();
        while self.stores().await {
            assert!(begun.elapsed() < TIMEOUT, "the inbox stores events");
        }
    }

    /// Waits until the health has a problem that names this cause.
    fn until_unhealthy(&self, cause: &str) {
        until(cause, || {
            let health = self.inbox.handle().health();
            let mut problems = health.problems().iter();
            problems.any(|problem| {
                problem.kind() == HealthProblemKind::InboxFailing
                    && problem.to_string().contains(cause)
            })
        });
    }

    /// Checks that the inbox has recovered: it stores events, it is healthy, and every accepted event has run.
    async fn recovers(mut self) {
        self.until_it_stores().await;
        until("the inbox is healthy", || {
            self.inbox.handle().health().is_ok()
        });
        let runs = || {
            let mut runs = HashMap::new();
            for id in self.runs.lock().unwrap().iter() {
                *runs.entry(id.clone()).or_insert(0) += 1;
            }
            runs
        };
        until("every accepted event runs", || {
            let runs = runs();
            self.accepted.iter().all(|id| runs.contains_key(id))
        });
        until("the inbox is idle", || {
            self.inbox.handle().stats().in_flight() == 0
        });
        balanced(&self.inbox.handle().stats());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_gone_is_503_until_it_runs_again() {
    let mut server = PostgresServer::start();
    let mut open = Open::new(&server).await;
    for stop in [PostgresServer::stop, PostgresServer::stop_immediately] {
        open.until_it_stores().await;
        stop(&mut server);
        open.until_it_refuses().await;
        open.until_unhealthy("PostgreSQL server");
        server.restart();
    }
    open.recovers().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_loses_no_accepted_event() {
    let mut server = PostgresServer::start_with(Fsync::On, "");
    let mut open = Open::new(&server).await;
    for _ in 0..20 {
        open.until_it_stores().await;
    }
    server.kill();
    open.until_it_refuses().await;
    server.restart();
    open.recovers().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_is_503_until_it_continues() {
    let server = PostgresServer::start();
    let mut open = Open::new(&server).await;
    open.until_it_stores().await;
    server.freeze();
    assert!(!open.stores().await);
    server.thaw();
    open.recovers().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_server_is_503_with_its_cause() {
    let server = PostgresServer::start();
    let mut open = Open::new(&server).await;
    open.until_it_stores().await;
    server.set("default_transaction_read_only", "on");
    open.until_it_refuses().await;
    open.until_unhealthy("read-only");
    server.set("default_transaction_read_only", "off");
    open.recovers().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_free_connections_is_503_with_its_cause() {
    let server = PostgresServer::start_with(
        Fsync::Off,
        "max_connections = 12\nsuperuser_reserved_connections = 3",
    );
    let mut open = Open::new(&server).await;
    open.until_it_stores().await;
    // The other clients of the server keep trying until they have all connections.
    let others = pool(&server.url_of("app", "postgres"), 9);
    let mut held = Vec::new();
    while held.len() < 9 {
        server.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
             WHERE usename = 'app' AND query LIKE '%botisimo%'",
        );
        while let Ok(connection) = others.get().await {
            held.push(connection);
            if held.len() == 9 {
                break;
            }
        }
    }
    open.until_it_refuses().await;
    open.until_unhealthy("too many connections");
    drop(held);
    others.close();
    open.recovers().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_without_free_connections_is_503_with_its_cause() {
    let server = PostgresServer::start();
    create_role(&server);
    let pool = pool(&server.url_of("app", "postgres"), 4);
    let mut open = Open::with(pool.clone()).await;
    open.until_it_stores().await;
    // The program takes every connection that the inbox loses.
    let held = Arc::new(Mutex::new(Vec::new()));
    let taking = {
        let (held, pool) = (Arc::clone(&held), pool.clone());
        tokio::spawn(async move {
            loop {
                // The test may end a connection that is starting.
                if let Ok(connection) = pool.get().await {
                    held.lock().unwrap().push(connection);
                }
            }
        })
    };
    let begun = Instant::now();
    while held.lock().unwrap().len() < 4 {
        assert!(begun.elapsed() < TIMEOUT, "the inbox keeps a connection");
        server.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
             WHERE usename = 'app' AND query LIKE '%botisimo%'",
        );
        // The writer uses its connection only if it has events.
        open.stores().await;
    }
    open.until_it_refuses().await;
    open.until_unhealthy("no free connection");
    taking.abort();
    held.lock().unwrap().clear();
    open.recovers().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_without_rights_is_refused_with_its_cause() {
    let server = PostgresServer::start();
    server.sql("CREATE ROLE app LOGIN");
    let opened = PostgresInbox::builder(pool(&server.url_of("app", "postgres"), 4))
        .open(EventRouter::new())
        .await;
    let error = opened.unwrap_err().to_string();
    assert!(error.contains("permission"), "{error}");

    server.sql("GRANT CREATE ON DATABASE postgres TO app");
    let mut open = Open::with(pool(&server.url_of("app", "postgres"), 4)).await;
    open.until_it_stores().await;
    server.sql("ALTER SCHEMA botisimo OWNER TO postgres");
    open.until_it_refuses().await;
    open.until_unhealthy("lacks a permission");
    server.sql("ALTER SCHEMA botisimo OWNER TO app");
    open.recovers().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_that_is_dropped_under_an_inbox_is_503_until_it_is_created_again() {
    let server = PostgresServer::start();
    let mut open = Open::new(&server).await;
    open.until_it_stores().await;
    until("the event runs", || {
        open.inbox.handle().stats().in_flight() == 0
    });
    server.sql("DROP SCHEMA botisimo CASCADE");
    open.until_it_refuses().await;
    open.until_unhealthy("schema of the inbox is missing");
    // A process that starts creates the schema. Either process runs the events.
    let pool = pool(&server.url_of("app", "postgres"), 4);
    let other = Open::with_runs(pool, Arc::clone(&open.runs)).await;
    open.recovers().await;
    other.recovers().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_to_a_synchronous_standby_loses_no_accepted_event() {
    let mut server = PostgresServer::start_with(Fsync::On, "");
    create_role(&server);
    let standby = server.standby();
    let url = format!(
        "postgresql://app@127.0.0.1:{},127.0.0.1:{}/postgres?target_session_attrs=read-write",
        server.port(),
        standby.port()
    );
    let mut open = Open::with(pool(&url, 4)).await;
    for _ in 0..50 {
        open.until_it_stores().await;
    }
    server.kill();
    standby.promote();
    open.recovers().await;
    assert_eq!(standby.sql("SELECT count(*) FROM botisimo.events"), "0");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a file system of 256 MiB in SMALL_DISK; `.ci/run` mounts one"]
async fn small_disk_a_server_whose_disk_is_full_is_503_until_it_has_space_and_is_restarted() {
    let disk = env::var_os("SMALL_DISK").expect("SMALL_DISK names a file system");
    let disk = Path::new(&disk);
    // Recycled files of the log would leave the server space after the disk is full.
    let settings =
        "wal_recycle = off\nwal_init_zero = on\nmin_wal_size = 32MB\nmax_wal_size = 32MB";
    let mut server = PostgresServer::start_in(disk, Fsync::On, settings);
    let mut open = Open::new(&server).await;
    open.until_it_stores().await;
    let filler = disk.join("filler");
    fill(&filler);
    open.until_it_refuses().await;
    open.until_unhealthy("PostgreSQL server");
    fs::remove_file(&filler).unwrap();
    // A server that can't write its log may end, so an operator restarts it.
    server.stop_immediately();
    server.restart();
    open.recovers().await;
}

/// Fills the file system of a file.
fn fill(file: &Path) {
    let (mut zeros, mut filler) = (std::io::repeat(0), fs::File::create(file).unwrap());
    let full = std::io::copy(&mut zeros, &mut filler).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
}
