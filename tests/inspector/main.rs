//! The inspector: its pages, its access rules, its actions and its live feed.
#![allow(clippy::unwrap_used)] // a failed `unwrap` fails the test

mod access;
mod actions;
mod feed;
mod inboxes;
mod json;
mod pages;
mod site;
#[path = "../support/mod.rs"]
mod support;
