use std::time::SystemTime;

use botisimo_webhooks::{SqliteFile, SqliteFileCheck, SqliteFileStats};
use indicatif::BinaryBytes;
use serde_json::{Value, json};

use super::failure;
use super::list::time;
use crate::failure::{Failure, Success};
use crate::output::{BAD, GOOD, Output, STRONG, WARNING, styled, table};
use crate::text::visible;

pub(super) async fn stats(file: &SqliteFile, output: &Output) -> Result<Success, Failure> {
    let stats = file.stats().await.map_err(|error| failure(&error))?;
    print_file(file, &stats, output);
    print_counts(&stats, output);
    output.json(&stats_json(file, &stats));
    Ok(Success::Good)
}

pub(super) async fn check(file: &SqliteFile, output: &Output) -> Result<Success, Failure> {
    let check = file.check().await.map_err(|error| failure(&error))?;
    let stats = match file.stats().await {
        Ok(stats) => stats,
        Err(error) if check.damage.is_empty() => return Err(failure(&error)),
        // A damaged file may not be countable.
        Err(_) => {
            print_damage(&check, output);
            let json = json!({ "file": file.path(), "intact": false, "damage": check.damage });
            output.json(&json);
            return Ok(Success::Bad);
        }
    };
    print_file(file, &stats, output);
    print_damage(&check, output);
    let mut rows = Vec::new();
    for (name, bytes) in &check.table_bytes {
        rows.push(vec![
            visible(name).into_owned(),
            BinaryBytes(*bytes).to_string(),
        ]);
    }
    output.line(format_args!("\n{}", table(&["table", "size"], &rows)));
    output.line("");
    print_counts(&stats, output);
    output.line(styled(STRONG, "\nnext start"));
    for line in next_start(&stats, &check) {
        output.line(line);
    }
    let mut json = stats_json(file, &stats);
    json["intact"] = Value::from(check.damage.is_empty());
    json["damage"] = json!(check.damage);
    json["counts_match"] = Value::from(check.counts_match);
    let sizes = check.table_bytes.iter().cloned();
    json["table_bytes"] = sizes
        .map(|(name, bytes)| (name, Value::from(bytes)))
        .collect();
    output.json(&json);
    Ok(Success::when(check.damage.is_empty()))
}

fn print_file(file: &SqliteFile, stats: &SqliteFileStats, output: &Output) {
    output.line(styled(STRONG, visible(&file.path().display().to_string())));
    let mut size = format!("size {}", BinaryBytes(stats.file_bytes));
    if stats.free_bytes > 0 {
        size = format!("{size}, {} of it free", BinaryBytes(stats.free_bytes));
    }
    if stats.wal_bytes > 0 {
        size = format!("{size}, write-ahead log {}", BinaryBytes(stats.wal_bytes));
    }
    output.line(size);
    if let Some(owner) = stats.owner {
        output.line(format_args!("owned by process {owner}"));
    }
}

fn print_counts(stats: &SqliteFileStats, output: &Output) {
    let size = |bytes| BinaryBytes(bytes).to_string();
    let since = |time: Option<SystemTime>| time.map(|at| format!("oldest {}", self::time(at)));
    let rows = [
        ("waiting", stats.waiting, None, None),
        ("running", stats.running, None, None),
        ("retrying", stats.retrying, None, None),
        (
            "in flight",
            stats.in_flight(),
            Some(stats.event_bytes),
            since(stats.oldest_event),
        ),
        (
            "dead letters",
            stats.dead_letters,
            Some(stats.dead_letter_bytes),
            since(stats.oldest_dead_letter),
        ),
        ("handled", stats.handled, None, None),
        ("unhandled", stats.unhandled, None, None),
        ("message ids", stats.message_ids, None, None),
    ];
    let rows = rows.map(|(name, count, bytes, note)| {
        let bytes = bytes.filter(|_| count > 0).map(size).unwrap_or_default();
        vec![
            name.to_owned(),
            count.to_string(),
            bytes,
            note.unwrap_or_default(),
        ]
    });
    output.line(table(&[], &rows));
}

fn print_damage(check: &SqliteFileCheck, output: &Output) {
    if check.damage.is_empty() {
        output.line(styled(GOOD, "the database is intact"));
        return;
    }
    output.line(styled(BAD, "the database is damaged"));
    for damage in &check.damage {
        for line in damage.lines() {
            output.line(format_args!("  {}", visible(line)));
        }
    }
    output.line("restore a backup, or try `.recover` of sqlite3 on a copy");
}

/// Says what the next start of a service with this version of the library does.
fn next_start(stats: &SqliteFileStats, check: &SqliteFileCheck) -> Vec<String> {
    let mut lines = Vec::new();
    if stats.schema_version < stats.newest_schema_version {
        let text = format!(
            "migrates the file from schema {} to {}: older versions can't open it afterwards",
            stats.schema_version, stats.newest_schema_version
        );
        lines.push(styled(WARNING, text));
    }
    lines.push(match stats.in_flight() {
        0 => "recovers no events".to_owned(),
        events => format!(
            "recovers {events} in flight, {} of them when their retries are due",
            stats.retrying
        ),
    });
    if stats.poison_candidates > 0 && stats.owner.is_none() {
        let text = format!(
            "runs {} one at a time, because a process ended while they were running",
            stats.poison_candidates
        );
        lines.push(styled(WARNING, text));
    }
    if stats.blocked_keys > 0 {
        let text = format!(
            "keeps {} ordering keys blocked until their dead letters are replayed or deleted, if `block_key_on_dead_letter` is set",
            stats.blocked_keys
        );
        lines.push(styled(WARNING, text));
    }
    if !check.counts_match {
        lines.push(styled(
            WARNING,
            "counts the rows again, because another program changed them",
        ));
    }
    lines.into_iter().map(|line| format!("  {line}")).collect()
}

fn stats_json(file: &SqliteFile, stats: &SqliteFileStats) -> Value {
    let millis = |time: Option<SystemTime>| {
        let since = time.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
        since.map(|since| since.as_millis() as u64)
    };
    json!({
        "file": file.path(),
        "owner": stats.owner,
        "schema_version": stats.schema_version,
        "newest_schema_version": stats.newest_schema_version,
        "file_bytes": stats.file_bytes,
        "free_bytes": stats.free_bytes,
        "wal_bytes": stats.wal_bytes,
        "waiting": stats.waiting,
        "running": stats.running,
        "retrying": stats.retrying,
        "in_flight": stats.in_flight(),
        "event_bytes": stats.event_bytes,
        "oldest_event": millis(stats.oldest_event),
        "dead_letters": stats.dead_letters,
        "dead_letter_bytes": stats.dead_letter_bytes,
        "oldest_dead_letter": millis(stats.oldest_dead_letter),
        "handled": stats.handled,
        "unhandled": stats.unhandled,
        "handled_bytes": stats.handled_bytes,
        "message_ids": stats.message_ids,
        "poison_candidates": stats.poison_candidates,
        "blocked_keys": stats.blocked_keys,
    })
}
