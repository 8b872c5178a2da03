//! sqlx with SQLite and the inbox, in one process. Both use the only `libsqlite3-sys` of the build.

#[path = "../common.rs"]
mod common;

use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};

#[tokio::main]
async fn main() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let options = SqliteConnectOptions::new()
        .filename(folder.path().join("app.db"))
        .create_if_missing(true);
    let pool = SqlitePool::connect_with(options)
        .await
        .expect("the app's database opens");
    sqlx::query("CREATE TABLE seen (id TEXT PRIMARY KEY)")
        .execute(&pool)
        .await
        .expect("a table");
    let db = pool.clone();
    common::deliver(&folder, move |id| {
        let db = db.clone();
        async move {
            sqlx::query("INSERT INTO seen VALUES (?)")
                .bind(id)
                .execute(&db)
                .await
                .map(drop)
        }
    })
    .await;
    let stored: Vec<String> = sqlx::query_scalar("SELECT id FROM seen ORDER BY id")
        .fetch_all(&pool)
        .await
        .expect("the ids");
    assert_eq!(stored, common::IDS);
    println!("sqlx and the inbox share one process");
}
