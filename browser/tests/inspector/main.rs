//! Tests of the inspector's pages in Chromium.
#![allow(clippy::unwrap_used)] // a failed `unwrap` fails the test

mod browser;
mod pages;
mod screenshots;
mod site;
