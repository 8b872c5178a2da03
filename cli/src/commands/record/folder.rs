use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::failure::Failure;
use crate::recording::{Recording, files};

/// The folder of the recordings.
pub(super) struct Folder {
    path: PathBuf,
    next: AtomicU64,
}

impl Folder {
    /// Creates the folder, or continues the numbers of its recordings.
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        fs::create_dir_all(path).map_err(|error| {
            Failure::usage(format_args!(
                "can't create the folder {}: {error}",
                path.display()
            ))
        })?;
        let numbers = files(path)?.into_iter().filter_map(|file| {
            let name = file.file_name()?.to_str()?.to_owned();
            name.split('-').next()?.parse::<u64>().ok()
        });
        Ok(Self {
            path: path.to_owned(),
            next: AtomicU64::new(numbers.max().unwrap_or(0) + 1),
        })
    }

    /// Returns the number of a delivery that arrives now.
    pub(super) fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Writes the recording of the delivery with this number, and returns the name of its file.
    ///
    /// The file appears under its name only when it is complete and on disk.
    pub(super) fn store(
        &self,
        number: u64,
        recording: &Recording,
        event_type: &str,
    ) -> io::Result<String> {
        let name = format!("{number:06}-{}.json", safe(event_type));
        let partial = self.path.join(format!(".{number:06}.partial"));
        let mut json = serde_json::to_vec_pretty(recording)?;
        json.push(b'\n');
        let written = File::create(&partial)
            .and_then(|mut file| file.write_all(&json).and_then(|()| file.sync_all()))
            .and_then(|()| fs::rename(&partial, self.path.join(&name)))
            .and_then(|()| self.sync());
        if written.is_err() {
            let _ = fs::remove_file(&partial);
        }
        written.map(|()| name)
    }

    #[cfg(unix)]
    fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    #[cfg(not(unix))]
    #[expect(clippy::unnecessary_wraps, clippy::unused_self)]
    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns a text that every file system accepts as a part of a name.
fn safe(text: &str) -> String {
    let allowed = |c: char| {
        if c.is_ascii_alphanumeric() || "._-".contains(c) {
            c
        } else {
            '_'
        }
    };
    let name: String = text.chars().take(60).map(allowed).collect();
    match name.trim_matches(['.', '_']) {
        "" => "unknown".to_owned(),
        name => name.to_owned(),
    }
}
