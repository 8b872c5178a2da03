use std::fmt::Debug;

/// The differences between the settings of a stream or a consumer and the wanted settings.
#[derive(Default)]
pub(super) struct Differences {
    texts: Vec<String>,
}

impl Differences {
    /// Adds a setting unless it has the wanted value. Returns whether it differs.
    #[allow(clippy::needless_pass_by_value)] // callers pass each setting by value
    pub(super) fn compare<T: PartialEq + Debug>(
        &mut self,
        name: &str,
        found: T,
        wanted: T,
    ) -> bool {
        self.require(found == wanted, || {
            format!("{name} is {found:?}, not {wanted:?}")
        })
    }

    /// Adds a difference unless the setting fits. Returns whether it differs.
    pub(super) fn require(&mut self, fits: bool, text: impl FnOnce() -> String) -> bool {
        if !fits {
            self.texts.push(text());
        }
        !fits
    }

    /// Returns all differences in one line, or `None` if there is no difference.
    pub(super) fn describe(&self) -> Option<String> {
        (!self.texts.is_empty()).then(|| self.texts.join("; "))
    }
}
