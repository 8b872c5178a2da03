//! The pages as HTML. Each page escapes all text that comes from the sender, a handler or the URL.

mod confirm;
mod event;
mod events;
mod layout;
mod message;
mod overview;
mod routes;

use std::time::SystemTime;

pub(super) use self::confirm::confirm;
pub(super) use self::event::event;
pub(super) use self::events::{Listed, events, row};
pub(super) use self::message::message;
pub(super) use self::overview::overview;
pub(super) use self::routes::routes;
use super::source::Source;
use crate::inspector::permission::Viewer;

/// The values that every page needs.
pub(super) struct Context<'a> {
    pub(super) source: &'a Source,
    pub(super) viewer: &'a Viewer,
    pub(super) now: SystemTime,
    /// Allows the style sheet and the script of this page.
    pub(super) nonce: &'a str,
    /// Shows that a form comes from this inspector.
    pub(super) token: &'a str,
    /// The result of the last action.
    pub(super) notice: Option<String>,
}
