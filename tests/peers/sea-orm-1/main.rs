//! SeaORM with SQLite and the inbox, in one process. Both use the only `libsqlite3-sys` of the build.

#[path = "../common.rs"]
mod common;

use sea_orm::{ConnectionTrait, Database, DatabaseBackend, Statement};

#[tokio::main]
async fn main() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let url = format!(
        "sqlite://{}?mode=rwc",
        folder.path().join("app.db").display()
    );
    let app = Database::connect(url)
        .await
        .expect("the app's database opens");
    app.execute_unprepared("CREATE TABLE seen (id TEXT PRIMARY KEY)")
        .await
        .expect("a table");
    let db = app.clone();
    common::deliver(&folder, move |id| {
        let db = db.clone();
        async move {
            let insert = Statement::from_sql_and_values(
                DatabaseBackend::Sqlite,
                "INSERT INTO seen VALUES (?)",
                [id.into()],
            );
            db.execute(insert).await.map(drop)
        }
    })
    .await;
    let select = Statement::from_string(DatabaseBackend::Sqlite, "SELECT id FROM seen ORDER BY id");
    let rows = app.query_all(select).await.expect("the ids");
    let stored: Vec<String> = rows
        .iter()
        .map(|row| row.try_get("", "id").expect("an id"))
        .collect();
    assert_eq!(stored, common::IDS);
    println!("SeaORM and the inbox share one process");
}
