//! The inspector: pages that list and replay the events of an inbox.
//!
//! A request passes `access.rs` (the host and the user) and, if it is a form, `origin.rs` (the page that sent it). `inspector.rs`
//! then renders a page from `pages/`, starts a `feed.rs`, or runs an action from `actions.rs`.

mod access;
mod action;
mod actions;
mod basic_auth;
mod body;
mod feed;
mod host;
#[allow(clippy::module_inception)] // each type has its own file, and this type names the module
mod inspector;
mod moment;
mod origin;
mod pages;
mod payload;
mod permission;
mod query;
mod respond;
mod route_stats;
mod source;
mod text;
mod token;

pub use self::access::Access;
pub use self::action::InspectorAction;
pub use self::body::InspectorBody;
pub use self::inspector::Inspector;
pub use self::permission::Permission;
