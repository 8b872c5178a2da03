//! sqlx with PostgreSQL, `migrate` and `chrono`, and the inbox, in one process.
//!
//! These features bring `libsqlite3-sys` into the build even if the build doesn't use sqlx with SQLite. No
//! server is needed, because the pool connects lazily.

#[path = "../common.rs"]
mod common;

use std::sync::{Arc, Mutex};

use sqlx::migrate::Migrator;
use sqlx::postgres::PgPoolOptions;
use sqlx::types::chrono::{DateTime, Utc};

#[tokio::main]
async fn main() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let migrations = folder.path().join("migrations");
    std::fs::create_dir(&migrations).expect("a folder for migrations");
    std::fs::write(
        migrations.join("1_seen.sql"),
        "CREATE TABLE seen (id TEXT PRIMARY KEY);",
    )
    .expect("a migration");
    let migrator = Migrator::new(migrations)
        .await
        .expect("the migrations are read");
    assert_eq!(migrator.iter().count(), 1);
    let pool = PgPoolOptions::new()
        .connect_lazy("postgres://app@127.0.0.1:1/app")
        .expect("a lazy pool");
    assert_eq!(pool.size(), 0);
    let seen: Arc<Mutex<Vec<(String, DateTime<Utc>)>>> = Arc::default();
    let log = Arc::clone(&seen);
    common::deliver(&folder, move |id| {
        log.lock()
            .expect("no handler panics")
            .push((id, Utc::now()));
        async { Ok::<(), sqlx::Error>(()) }
    })
    .await;
    let mut stored: Vec<_> = seen
        .lock()
        .expect("no handler panics")
        .iter()
        .map(|(id, _)| id.clone())
        .collect();
    stored.sort();
    assert_eq!(stored, common::IDS);
    println!("sqlx for PostgreSQL and the inbox share one process");
}
