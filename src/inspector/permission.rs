/// The permission of a user of an [`Inspector`](super::Inspector). The closure of [`Access::from_fn`](super::Access::from_fn)
/// returns a permission.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Permission {
    level: Level,
    user: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    None,
    Read,
    Operate,
}

impl Permission {
    /// Refuses the request.
    pub fn none() -> Self {
        Self::new(Level::None, String::new())
    }

    /// Lets the user read the pages.
    pub fn read(user: impl Into<String>) -> Self {
        Self::new(Level::Read, user.into())
    }

    /// Lets the user read the pages, and replay and delete events. The log and the hook of
    /// [`on_action`](super::Inspector::on_action) name the user.
    pub fn operate(user: impl Into<String>) -> Self {
        Self::new(Level::Operate, user.into())
    }

    fn new(level: Level, user: String) -> Self {
        Self { level, user }
    }

    /// Returns the user, or `None` if the user may not read.
    pub(super) fn into_viewer(self, hides_payloads: bool) -> Option<Viewer> {
        let can_operate = self.level == Level::Operate;
        (self.level != Level::None).then_some(Viewer {
            name: self.user,
            can_operate,
            sees_payloads: can_operate || !hides_payloads,
        })
    }
}

/// A user who may read.
#[derive(Debug)]
pub(super) struct Viewer {
    name: String,
    can_operate: bool,
    sees_payloads: bool,
}

impl Viewer {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn can_operate(&self) -> bool {
        self.can_operate
    }

    pub(super) fn sees_payloads(&self) -> bool {
        self.sees_payloads
    }
}
