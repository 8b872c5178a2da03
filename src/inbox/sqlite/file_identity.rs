use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use super::path::beside;

/// The coarsest resolution of a folder's change time on common file systems.
const RESOLUTION: Duration = Duration::from_secs(2);

/// The identities that the database and its write-ahead log had when the inbox opened them.
///
/// If another process deletes, moves or replaces one of the files, the next process won't find the data that the inbox
/// writes afterwards.
#[derive(Debug)]
pub(super) struct FileIdentity {
    folder: PathBuf,
    files: [(Option<FileId>, PathBuf); 2],
    /// The state of the folder when both files were last in place, and when the folder was first seen in this state.
    unchanged: Option<(Folder, Instant)>,
}

/// The device and the inode of a file.
pub(super) type FileId = (u64, u64);

/// A folder and the time of its last change. Deleting, moving or replacing a file in it changes the time.
type Folder = (FileId, SystemTime);

impl FileIdentity {
    pub(super) fn new(path: &Path) -> Self {
        let with_id = |path: PathBuf| (id_at(&path), path);
        Self {
            folder: path.parent().unwrap_or(Path::new(".")).to_owned(),
            files: [path.to_owned(), beside(path, "-wal")].map(with_id),
            unchanged: None,
        }
    }

    /// Returns the path of a file that has been moved, removed or replaced, if there is one. Costs one `stat` while nothing
    /// in the folder changes.
    pub(super) fn moved(&mut self) -> Option<&Path> {
        let folder = fs::metadata(&self.folder).ok();
        let folder = folder.and_then(|folder| Some((file_id(&folder), folder.modified().ok()?)));
        if let Some((unchanged, since)) = self.unchanged
            && Some(unchanged) == folder
        {
            // Within this time, a second change could have the same timestamp.
            if since.elapsed() > RESOLUTION {
                return None;
            }
        } else {
            self.unchanged = folder.map(|folder| (folder, Instant::now()));
        }
        let is_moved = |(id, path): &&(Option<FileId>, PathBuf)| id.is_some() && id_at(path) != *id;
        let (_, moved) = self.files.iter().find(is_moved)?;
        self.unchanged = None;
        Some(moved)
    }
}

/// Returns the identity of the file at `path`, if there is a file.
pub(super) fn id_at(path: &Path) -> Option<FileId> {
    fs::metadata(path).ok().map(|file| file_id(&file))
}

#[cfg(unix)]
pub(super) fn file_id(file: &fs::Metadata) -> FileId {
    use std::os::unix::fs::MetadataExt;

    (file.dev(), file.ino())
}

/// Other platforms don't delete open files, so files need no identity there.
#[cfg(not(unix))]
pub(super) fn file_id(_: &fs::Metadata) -> FileId {
    (0, 0)
}
