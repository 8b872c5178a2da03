use rusqlite::params;

use super::Store;
use super::row::{number, signed};

/// The table `message_ids`, which the inbox uses to recognize copies.
impl Store {
    /// Remembers message ids, each given with the id of its event.
    pub(crate) fn remember<'a>(
        &mut self,
        message_ids: impl Iterator<Item = (u64, &'a str)>,
    ) -> rusqlite::Result<()> {
        let sql = "INSERT INTO message_ids (id, accepted_at, message_id) VALUES (?1, ?2, ?3)";
        let accepted_at = signed(self.totals.clock.now);
        let mut statement = self.connection.prepare_cached(sql)?;
        for (id, message_id) in message_ids {
            statement.execute(params![signed(id), accepted_at, message_id])?;
        }
        Ok(())
    }

    /// Calls `each` for every message id, oldest first, with the event's id, the time of acceptance and the message id.
    pub(crate) fn message_ids(&self, mut each: impl FnMut(u64, u64, &str)) -> rusqlite::Result<()> {
        let sql = "SELECT id, accepted_at, message_id FROM message_ids ORDER BY id";
        let mut statement = self.connection.prepare(sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let message_id = String::from_utf8_lossy(row.get_ref(2)?.as_bytes()?);
            each(number(row, 0)?, number(row, 1)?, &message_id);
        }
        Ok(())
    }

    /// Forgets up to `limit` message ids of the events up to `id`. Returns whether all of them are forgotten.
    pub(crate) fn forget(&mut self, id: u64, limit: usize) -> rusqlite::Result<bool> {
        let sql = "DELETE FROM message_ids WHERE id IN (SELECT id FROM message_ids WHERE id <= ?1 ORDER BY id LIMIT ?2)";
        let forgotten = self.run(sql, [signed(id), signed(limit as u64)])?;
        Ok(forgotten < limit)
    }
}
