//! diesel with SQLite and the inbox, in one process. Both use the only `libsqlite3-sys` of the build.

#[path = "../common.rs"]
mod common;

use std::sync::{Arc, Mutex};

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::sqlite::SqliteConnection;

diesel::table! {
    seen (id) {
        id -> Text,
    }
}

#[tokio::main]
async fn main() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("app.db");
    let mut connection = SqliteConnection::establish(path.to_str().expect("a path in UTF-8"))
        .expect("the app's database opens");
    connection
        .batch_execute("CREATE TABLE seen (id TEXT PRIMARY KEY NOT NULL)")
        .expect("a table");
    let connection = Arc::new(Mutex::new(connection));
    let db = Arc::clone(&connection);
    common::deliver(&folder, move |event| {
        let mut db = db.lock().expect("no handler panics");
        let stored = diesel::insert_into(seen::table)
            .values(seen::id.eq(event))
            .execute(&mut *db);
        async move { stored.map(drop) }
    })
    .await;
    let stored: Vec<String> = seen::table
        .select(seen::id)
        .order(seen::id)
        .load(&mut *connection.lock().expect("no handler panics"))
        .expect("the ids");
    assert_eq!(stored, common::IDS);
    println!("diesel and the inbox share one process");
}
