use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use super::error::{caused, unusable};
use super::file_identity::id_at;
use crate::error::Error;
use crate::telemetry;

/// The maximum number of symbolic links in a path, as on Linux.
const MAX_LINKS: usize = 40;

/// Returns the path of the file that `path` leads to, without symbolic links. SQLite puts the write-ahead log next to
/// this path, so every name of the file leads to the same log.
pub(super) fn resolve(path: &Path) -> Result<PathBuf, Error> {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        if path.is_dir() {
            return Err(unusable(&path, "it is a folder"));
        }
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(unusable(&path, "it has no file name"));
        };
        if !folder.is_dir() {
            return Err(unusable(&path, "its folder doesn't exist"));
        }
        let folder = folder.canonicalize();
        let folder = folder.map_err(|e| caused(&path, "the folder can't be opened", e))?;
        let file = folder.join(name);
        match fs::read_link(&file) {
            // This also works if the link leads to a file that doesn't exist yet.
            Ok(target) => path = folder.join(target),
            Err(_) if is_mount_point(&file) => {
                let why = "it is a mount point of its own, so its write-ahead log would lie outside the mount and be lost: \
                           mount its folder instead";
                return Err(unusable(&file, why));
            }
            Err(_) => return Ok(file),
        }
    }
    Err(unusable(&path, "it is a symbolic link to itself"))
}

/// If the database is empty or new, checks that no write-ahead log exists, because SQLite would delete the log.
pub(super) fn check_new(path: &Path) -> Result<(), Error> {
    let wal = beside(path, "-wal");
    let is_empty = |path: &Path| fs::metadata(path).map_or(true, |file| file.len() == 0);
    if is_empty(path) && !is_empty(&wal) {
        let why = format!(
            "the database is gone, and its write-ahead log {} may contain events: move the database back, or delete the log",
            wal.display()
        );
        return Err(unusable(path, &why));
    }
    Ok(())
}

/// Checks that a database that wasn't closed still has its write-ahead log. `old_path` is the path under which the
/// database was last opened.
///
/// # Errors
///
/// Returns an error if the log is next to the old name of the database. In that case, the database was renamed or
/// moved, or has several names.
pub(super) fn check_wal(path: &Path, old_path: &Path) -> Result<(), Error> {
    let old_wal = beside(old_path, "-wal");
    let has_wal = fs::metadata(&old_wal).is_ok_and(|wal| wal.len() > 0);
    // If another file is at the old path, the log belongs to that file, and this file is a copy.
    let old_file = id_at(old_path);
    let is_ours = old_file.is_none() || old_file == id_at(path);
    if old_path != path && has_wal && is_ours {
        let why = format!(
            "its write-ahead log {}, which contains events, is still next to the file's old name: move the log to {}, or open \
             the inbox under the old name",
            old_wal.display(),
            beside(path, "-wal").display()
        );
        return Err(unusable(path, &why));
    }
    telemetry::inbox_wal_missing(path);
    Ok(())
}

/// Returns the path of a file next to the database: `inbox.db-lock`.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    PathBuf::from(name)
}

/// Returns whether a file is itself a mount point, as with `docker run -v ./inbox.db:/data/inbox.db`.
#[cfg(target_os = "linux")]
fn is_mount_point(path: &Path) -> bool {
    use std::os::unix::ffi::OsStrExt;

    // The fifth field is the mount point, with these characters in octal.
    let escaped = path
        .as_os_str()
        .as_bytes()
        .iter()
        .flat_map(|byte| match byte {
            b' ' | b'\t' | b'\n' | b'\\' => format!("\\{byte:03o}").into_bytes(),
            _ => vec![*byte],
        });
    let escaped: Vec<u8> = escaped.collect();
    let mounts = fs::read("/proc/self/mountinfo").unwrap_or_default();
    let mut mounts = mounts.split(|byte| *byte == b'\n');
    mounts.any(|mount| mount.split(|byte| *byte == b' ').nth(4) == Some(&escaped[..]))
}

#[cfg(not(target_os = "linux"))]
fn is_mount_point(_: &Path) -> bool {
    false
}
