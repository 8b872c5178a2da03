//! The client: one request, one answer, and a plain explanation of every failure.

mod client;
mod explain;
mod tls;

pub(crate) use client::{Answer, Client, ClientSettings, Request};
pub(crate) use explain::SendError;
pub(crate) use tls::tls_config;
