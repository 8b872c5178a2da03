//! Set-up that several test binaries share. Each binary uses a part of it.
#![allow(dead_code, unused_imports)]

#[cfg(feature = "tokio")]
pub(crate) mod contract;
#[cfg(feature = "jetstream")]
pub(crate) mod nats;
#[cfg(feature = "tokio")]
pub(crate) mod receiver;
#[cfg(all(unix, feature = "sqlite", feature = "tokio"))]
pub(crate) mod server;
#[cfg(all(feature = "sqlite", feature = "tokio"))]
pub(crate) mod sqlite;
#[cfg(feature = "tracing")]
pub(crate) mod subscriber;
