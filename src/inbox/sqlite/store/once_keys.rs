use std::sync::Arc;

use rusqlite::{Result, params};

use super::Store;
use super::row::{self, signed};
use crate::outcome::{RunKey, UsedKey};

/// The table `once_keys`.
impl Store {
    /// Adds the keys that an attempt used.
    pub(crate) fn add_once_keys(&mut self, used: &[UsedKey]) -> Result<()> {
        for key in used {
            let run = &key.run;
            let sql = "INSERT OR REPLACE INTO once_keys (route, event_id, key, window, accepted_at, used_at, expires_at, message_id) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
            let params = params![
                &*key.route,
                signed(run.event),
                &run.key[..],
                signed(run.window),
                signed(run.accepted_at),
                signed(key.used_at),
                signed(key.expires_at()),
                &*run.message_id,
            ];
            self.run(sql, params)?;
            if let Some(event) = key.forgotten {
                let sql = "DELETE FROM once_keys WHERE route = ?1 AND event_id = ?2";
                self.run(sql, params![&*key.route, signed(event)])?;
            }
        }
        Ok(())
    }

    /// Reads all keys, in the order of use.
    pub(crate) fn once_keys(&self, mut found: impl FnMut(UsedKey)) -> Result<()> {
        let sql = "SELECT route, event_id, key, window, accepted_at, used_at, message_id FROM once_keys ORDER BY used_at, event_id";
        self.each(sql, [], |row| {
            let key: Vec<u8> = row.get(2)?;
            found(UsedKey {
                route: Arc::from(row::text(row, 0)?),
                run: RunKey {
                    key: Arc::from(key),
                    window: row::number(row, 3)?,
                    event: row::number(row, 1)?,
                    accepted_at: row::number(row, 4)?,
                    message_id: Arc::from(row::text(row, 6)?),
                },
                used_at: row::number(row, 5)?,
                forgotten: None,
            });
            Ok(())
        })
    }

    /// Deletes up to `limit` keys that expired before `horizon`. Returns the number of deleted keys.
    pub(crate) fn delete_once_keys(&mut self, horizon: u64, limit: usize) -> Result<usize> {
        let sql = "DELETE FROM once_keys WHERE (route, event_id) IN (SELECT route, event_id FROM once_keys WHERE expires_at < ?1 LIMIT ?2)";
        self.run(sql, [signed(horizon), signed(limit as u64)])
    }

    /// Returns whether a key expired before `horizon`.
    pub(crate) fn has_expired_once_keys(&self, horizon: u64) -> Result<bool> {
        let sql = "SELECT EXISTS (SELECT 1 FROM once_keys WHERE expires_at < ?1)";
        let exists = self.row(sql, [signed(horizon)], |row| row.get(0))?;
        Ok(exists.unwrap_or(false))
    }
}
