//! The client: one request, one answer, and a plain explanation of every failure.

mod client;
mod connection;
mod explain;
mod tls;

pub(crate) use client::{Answer, Client, ClientSettings, Request, host};
pub(crate) use connection::{Connection, PacedBody, Site, Step, connect, paced};
pub(crate) use explain::{SendError, SendErrorKind};
pub(crate) use tls::tls_config;
