use std::time::Duration;

use tokio_postgres::types::Type;

use super::{Store, get, signed, stored, unsigned};
use crate::inbox::postgres::connection::{Connection, Param};
use crate::inbox::postgres::error::Failure;
use crate::inbox::postgres::settings::Settings;

/// The number of rows that one statement deletes.
const STEP: usize = 500;

/// Old rows.
impl Store {
    /// Deletes the message ids, the dead letters and the handled events that are too old or too many. Returns the number of dead letters
    /// that were too many.
    pub(in crate::inbox::postgres) async fn prune(
        &self,
        connection: &mut Connection,
        settings: &Settings,
    ) -> Result<u64, Failure> {
        let sql = "DELETE FROM botisimo.message_ids WHERE message_id = ANY (ARRAY(SELECT message_id FROM botisimo.message_ids WHERE accepted_at < now() - $1 * interval '1 millisecond' LIMIT 500))";
        self.repeat(connection, sql, signed(settings.duplicate_window))
            .await?;
        let sql = "DELETE FROM botisimo.handled WHERE id = ANY (ARRAY(SELECT id FROM botisimo.handled WHERE ended_at < now() - $1 * interval '1 millisecond' ORDER BY ended_at LIMIT 500))";
        if settings.keeps_handled() {
            self.repeat(connection, sql, signed(settings.keep_handled))
                .await?;
        }
        let sql = "DELETE FROM botisimo.handled WHERE id = ANY (ARRAY(SELECT id FROM botisimo.handled ORDER BY ended_at DESC, id DESC OFFSET $1 LIMIT 500))";
        self.repeat(connection, sql, stored(settings.max_handled))
            .await?;
        self.delete_dead_letters_before(connection, settings.keep_dead_letters)
            .await?;
        let select = "SELECT id FROM botisimo.dead_letters ORDER BY dead_lettered_at DESC, id DESC OFFSET $1 LIMIT 500";
        let excess = stored(settings.max_dead_letters);
        self.delete_selected(connection, select, excess).await
    }

    /// Deletes the dead letters that became dead letters longer ago than `age`. Returns how many.
    pub(in crate::inbox::postgres) async fn delete_dead_letters_before(
        &self,
        connection: &mut Connection,
        age: Duration,
    ) -> Result<u64, Failure> {
        let select = "SELECT id FROM botisimo.dead_letters WHERE dead_lettered_at < now() - $1 * interval '1 millisecond' ORDER BY dead_lettered_at LIMIT 500";
        self.delete_selected(connection, select, signed(age)).await
    }

    /// Deletes dead letters, and returns how many existed.
    pub(in crate::inbox::postgres) async fn delete_dead_letters(
        &self,
        connection: &mut Connection,
        ids: &[i64],
    ) -> Result<u64, Failure> {
        let sql = "SELECT botisimo.delete_dead_letters($1)";
        let params: [Param<'_>; 1] = [(&ids, Type::INT8_ARRAY)];
        let rows = connection.query(&self.sql(sql), &params).await?;
        let deleted: i64 = rows.first().map_or(Ok(0), |row| get(row, 0))?;
        Ok(unsigned(deleted))
    }

    /// Deletes handled events, and returns how many existed.
    pub(in crate::inbox::postgres) async fn delete_handled(
        &self,
        connection: &mut Connection,
        ids: &[i64],
    ) -> Result<u64, Failure> {
        let sql = "DELETE FROM botisimo.handled WHERE id = ANY ($1) RETURNING id";
        let params: [Param<'_>; 1] = [(&ids, Type::INT8_ARRAY)];
        let rows = connection.query(&self.sql(sql), &params).await?;
        Ok(rows.len() as u64)
    }

    /// Deletes the dead letters that a query with a limit of [`STEP`] selects, until it selects fewer.
    async fn delete_selected(
        &self,
        connection: &mut Connection,
        select: &str,
        param: i64,
    ) -> Result<u64, Failure> {
        let sql = format!("SELECT botisimo.delete_dead_letters(ARRAY({select}))");
        let sql = self.sql(&sql);
        let mut sum = 0;
        loop {
            let params: [Param<'_>; 1] = [(&param, Type::INT8)];
            let rows = connection.query(&sql, &params).await?;
            let deleted: i64 = rows.first().map_or(Ok(0), |row| get(row, 0))?;
            sum += unsigned(deleted);
            if unsigned(deleted) < STEP as u64 {
                return Ok(sum);
            }
        }
    }

    /// Runs a statement that deletes up to [`STEP`] rows, until it deletes fewer.
    async fn repeat(
        &self,
        connection: &mut Connection,
        sql: &str,
        param: i64,
    ) -> Result<(), Failure> {
        let sql = format!("WITH d AS ({sql} RETURNING 1) SELECT count(*) FROM d");
        let sql = self.sql(&sql);
        loop {
            let params: [Param<'_>; 1] = [(&param, Type::INT8)];
            let rows = connection.query(&sql, &params).await?;
            let deleted: i64 = rows.first().map_or(Ok(0), |row| get(row, 0))?;
            if unsigned(deleted) < STEP as u64 {
                return Ok(());
            }
        }
    }
}
