use rusqlite::params;

use super::store::Store;
use super::stored::{signed, unsigned};

/// The ids by which copies are recognised.
impl Store {
    /// Remembers the ids of events, the first of which has the number `first`.
    pub(super) fn remember<'a>(
        &mut self,
        first: u64,
        at: u64,
        message_ids: impl Iterator<Item = &'a str>,
    ) -> rusqlite::Result<()> {
        let sql = "INSERT INTO message_ids (id, accepted_at, message_id) VALUES (?1, ?2, ?3)";
        let mut statement = self.connection.prepare_cached(sql)?;
        for (id, message_id) in (first..).zip(message_ids) {
            statement.execute(params![signed(id), signed(at), message_id])?;
        }
        Ok(())
    }

    /// Calls `each` with the number, the time and the text of each id that is remembered, oldest
    /// first.
    pub(super) fn remembered(&self, mut each: impl FnMut(u64, u64, &str)) -> rusqlite::Result<()> {
        let sql = "SELECT id, accepted_at, message_id FROM message_ids ORDER BY id";
        let mut statement = self.connection.prepare(sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let message_id = String::from_utf8_lossy(row.get_ref(2)?.as_bytes()?);
            each(unsigned(row.get(0)?), unsigned(row.get(1)?), &message_id);
        }
        Ok(())
    }

    /// Forgets up to `limit` of the ids of events up to `id`. Returns whether that were all.
    pub(super) fn forget(&mut self, id: u64, limit: usize) -> rusqlite::Result<bool> {
        let sql = "DELETE FROM message_ids WHERE id IN (SELECT id FROM message_ids WHERE id <= ?1 ORDER BY id LIMIT ?2)";
        let forgotten = self.run(sql, params![signed(id), signed(limit as u64)])?;
        Ok(forgotten < limit)
    }
}
