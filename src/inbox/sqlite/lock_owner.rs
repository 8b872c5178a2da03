//! The process id in the lock file. Other processes name this id in their errors, and the lock itself works without the id.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use super::file_identity::{file_id, id_at};
use super::path::beside;

/// The maximum size of the text in the lock file, in bytes.
const MAX_TEXT: u64 = 128;

/// Writes the id of this process into its lock file. On a full disk, the file stays empty.
pub(super) fn write_owner(mut lock: &File) {
    let text = format!("{} {}\n", std::process::id(), namespace().display());
    let _ = lock.set_len(0);
    let _ = lock.write_all(text.as_bytes());
}

/// Returns the id of the process that has locked the file of an inbox, if known. The id isn't known if an earlier version of
/// this crate locked the file, or if the process is in another container.
///
/// On platforms other than Linux, the process may have crashed.
pub(super) fn owner(path: &Path) -> Option<u32> {
    let lock = beside(path, "-lock");
    let size = fs::metadata(&lock).ok()?.len();
    let text = (size <= MAX_TEXT).then(|| fs::read_to_string(&lock).ok())??;
    let (process, space) = text.trim_end().split_once(' ')?;
    let process = process.parse().ok()?;
    (Path::new(space) == namespace() && has_open(process, &lock)).then_some(process)
}

/// Returns the namespace of this process's id, which differs between containers.
fn namespace() -> PathBuf {
    fs::read_link("/proc/self/ns/pid").unwrap_or_else(|_| PathBuf::from("-"))
}

/// Returns whether the process has the file open. If only the existence of the process is known, returns whether it exists.
fn has_open(process: u32, path: &Path) -> bool {
    if !cfg!(target_os = "linux") {
        return true;
    }
    let process = PathBuf::from(format!("/proc/{process}"));
    let Ok(descriptors) = fs::read_dir(process.join("fd")) else {
        return process.exists();
    };
    let id = id_at(path);
    let mut open = descriptors
        .flatten()
        .filter_map(|descriptor| fs::metadata(descriptor.path()).ok());
    open.any(|file| Some(file_id(&file)) == id)
}
