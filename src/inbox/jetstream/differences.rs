use std::fmt::Debug;

use crate::error::{Error, ErrorKind};

/// The differences between the settings of a stream or a consumer and the wanted settings.
#[derive(Default)]
pub(super) struct Differences {
    texts: Vec<String>,
}

impl Differences {
    /// Adds a setting unless it has the wanted value.
    #[allow(clippy::needless_pass_by_value)] // callers pass each setting by value
    pub(super) fn compare<T: PartialEq + Debug>(&mut self, name: &str, found: T, wanted: T) {
        self.require(found == wanted, || {
            format!("{name} is {found:?}, not {wanted:?}")
        });
    }

    /// Adds a difference unless the setting fits.
    pub(super) fn require(&mut self, fits: bool, text: impl FnOnce() -> String) {
        if !fits {
            self.texts.push(text());
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// Returns an error that lists all differences, unless there is none.
    pub(super) fn result(&self, describe: impl FnOnce(String) -> String) -> Result<(), Error> {
        if self.is_empty() {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Inbox,
            describe(self.texts.join("; ")),
        ))
    }
}
