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
    files: [(PathBuf, Option<FileId>); 2],
    /// The state of the folder when both files were last in place, and when the folder was first seen in this state.
    unchanged: Option<(Folder, Instant)>,
}

/// The device and the inode of a file.
pub(super) type FileId = (u64, u64);

/// A folder and the time of its last change. Deleting, moving or replacing a file in it changes the time.
type Folder = (FileId, SystemTime);

impl FileIdentity {
    pub(super) fn new(path: &Path) -> Self {
        let with_id = |path: PathBuf| {
            let id = fs::metadata(&path).ok().map(|file| file_id(&file));
            (path, id)
        };
        Self {
            folder: path.parent().unwrap_or(Path::new(".")).to_owned(),
            files: [path.to_owned(), beside(path, "-wal")].map(with_id),
            unchanged: None,
        }
    }

    /// Returns the file that is no longer in its place. Costs one `stat` while nothing in the folder changes.
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
        let is_moved = |(path, then): &&(PathBuf, Option<FileId>)| {
            let now = fs::metadata(path).ok().map(|file| file_id(&file));
            then.is_some() && now != *then
        };
        let (moved, _) = self.files.iter().find(is_moved)?;
        self.unchanged = None;
        Some(moved)
    }
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
