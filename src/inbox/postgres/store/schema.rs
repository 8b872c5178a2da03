use std::sync::Arc;

use deadpool_postgres::{Object, Pool};
use tokio_postgres::GenericClient;
use tokio_postgres::types::Type;

use super::Store;
use crate::error::Error;
use crate::inbox::postgres::connection::Connection;
use crate::inbox::postgres::error::{self, Failure};
use crate::runtime::Runtime;

/// The scripts of all versions, oldest first.
const SCRIPTS: [&str; 1] = [include_str!("schema_1.sql")];

/// The number of the advisory lock of migrations.
const LOCK: i64 = 0x626f_7469_7369_6d6f;

/// Returns an error if `schema` isn't a plain name: at most 63 lowercase letters, digits and underscores.
pub(in crate::inbox::postgres) fn check_name(schema: &str) -> Result<(), Error> {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    let starts = schema
        .bytes()
        .next()
        .is_some_and(|first| !first.is_ascii_digit());
    if starts && schema.len() <= 63 && schema.bytes().all(is_plain) {
        return Ok(());
    }
    let why = "use at most 63 lowercase letters, digits and underscores as the schema's name";
    Err(error::not_opened(&schema.escape_debug().to_string(), why))
}

/// Creates or migrates the schema.
///
/// # Errors
///
/// Fails if the server fails, if its encoding isn't UTF8, or if a newer version of this crate has made the schema.
pub(in crate::inbox::postgres) async fn migrate(
    pool: &Pool,
    runtime: Arc<dyn Runtime>,
    store: &Store,
    schema: &str,
) -> Result<(), Error> {
    let mut connection = Connection::new(pool.clone(), runtime);
    let failed = |failure: Failure| error::open_failed(schema, &failure.error);
    let encoding = connection.query("SHOW server_encoding", &[]).await;
    let encoding: String = encoding
        .and_then(|rows| super::read_one(&rows, |row| row.try_get(0)))
        .map_err(failed)?;
    if encoding != "UTF8" {
        let why = "its database doesn't have the encoding UTF8";
        return Err(error::not_opened(schema, why));
    }
    let client = connection.client().await.map_err(failed)?;
    // A program whose role may not create anything still opens an existing schema.
    match version(&***client, store, schema).await.map_err(failed)? {
        version if version == SCRIPTS.len() => return Ok(()),
        version if version > SCRIPTS.len() => return Err(too_new(schema, version)),
        _ => {}
    }
    drop(connection);
    let mut client = pool.get().await.map_err(error::no_connection)?;
    run_scripts(&mut client, store, schema).await
}

/// Runs the missing scripts in one transaction.
async fn run_scripts(client: &mut Object, store: &Store, schema: &str) -> Result<(), Error> {
    let failed = |error| error::open_failed(schema, &error::failing(error));
    let transaction = client.transaction().await.map_err(failed)?;
    // Ends with the transaction, so it also works through pgbouncer.
    let lock = "SELECT pg_advisory_xact_lock($1)";
    let locked = transaction.query_typed(lock, &[(&LOCK, Type::INT8)]).await;
    locked.map_err(failed)?;
    let at = version(&*transaction, store, schema).await;
    let at = at.map_err(|failure| error::open_failed(schema, &failure.error))?;
    if at > SCRIPTS.len() {
        return Err(too_new(schema, at));
    }
    if at < SCRIPTS.len() {
        let mut script = String::new();
        let sql = "SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = $1)";
        let rows = transaction
            .query_typed(sql, &[(&schema, Type::TEXT)])
            .await
            .map_err(failed)?;
        let exists: bool = rows
            .first()
            .map_or(Ok(false), |row| row.try_get(0))
            .map_err(failed)?;
        // Even `IF NOT EXISTS` needs the right to create schemas.
        if !exists {
            script += &format!("CREATE SCHEMA {};\n", store.schema);
        }
        for missing in &SCRIPTS[at..] {
            script += &store.sql(missing);
        }
        let newest = SCRIPTS.len();
        script += &store.sql(&format!(
            "DELETE FROM botisimo.schema_version; INSERT INTO botisimo.schema_version VALUES ({newest});"
        ));
        transaction.batch_execute(&script).await.map_err(failed)?;
    }
    transaction.commit().await.map_err(failed)
}

/// Returns the version of the schema, or 0 if it doesn't exist.
async fn version(
    client: &impl GenericClient,
    store: &Store,
    schema: &str,
) -> Result<usize, Failure> {
    let sql = "SELECT EXISTS (SELECT FROM pg_catalog.pg_tables WHERE schemaname = $1 AND tablename = 'schema_version')";
    let rows = client.query_typed(sql, &[(&schema, Type::TEXT)]).await;
    let rows = rows.map_err(Failure::of)?;
    if !super::read_one(&rows, |row| row.try_get(0))? {
        return Ok(0);
    }
    let sql = store.sql("SELECT version FROM botisimo.schema_version");
    let rows = client.query_typed(&sql, &[]).await.map_err(Failure::of)?;
    let version: i32 = super::read_one(&rows, |row| row.try_get(0))?;
    Ok(usize::try_from(version).unwrap_or(0))
}

fn too_new(schema: &str, version: usize) -> Error {
    let newest = SCRIPTS.len();
    let why = format!(
        "a newer version of this crate made it (schema version {version}, this version knows {newest}): use that version"
    );
    error::not_opened(schema, why)
}
