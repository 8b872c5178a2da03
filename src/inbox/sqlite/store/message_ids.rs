use rusqlite::Result;

use super::Store;
use super::row::{number, signed, text};

/// The table `message_ids`, which the inbox uses to recognize copies.
impl Store {
    /// Calls `each` for every message id, oldest first, with the event's id, the time of acceptance and the message id.
    pub(crate) fn message_ids(&self, mut each: impl FnMut(u64, u64, &str)) -> Result<()> {
        let sql = "SELECT id, accepted_at, message_id FROM message_ids ORDER BY id";
        self.each(sql, [], |row| {
            each(number(row, 0)?, number(row, 1)?, &text(row, 2)?);
            Ok(())
        })
    }

    /// Forgets up to `limit` message ids of the events up to `id`. Returns whether all of them are forgotten.
    pub(crate) fn forget(&mut self, id: u64, limit: usize) -> Result<bool> {
        let sql = "DELETE FROM message_ids WHERE id IN (SELECT id FROM message_ids WHERE id <= ?1 ORDER BY id LIMIT ?2)";
        let forgotten = self.run(sql, [signed(id), signed(limit as u64)])?;
        Ok(forgotten < limit)
    }
}
