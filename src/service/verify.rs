use std::fmt;
use std::sync::Arc;

use http::request::Parts;

/// Verifies that a request comes from the sender.
///
/// Botisimo doesn't sign requests, so most services use a [`SharedSecret`](crate::SharedSecret).
/// Implement this trait to check a header that a reverse proxy adds, or a signature if Botisimo
/// adds one.
///
/// # Examples
///
/// ```
/// use botisimo_webhooks::{Unverified, Verify};
///
/// /// Trusts the check of the reverse proxy.
/// struct CheckedByProxy;
///
/// impl Verify for CheckedByProxy {
///     fn verify_head(&self, parts: &http::request::Parts) -> Result<(), Unverified> {
///         match parts.headers.get("x-client-verified") {
///             Some(value) if value == "yes" => Ok(()),
///             _ => Err(Unverified),
///         }
///     }
/// }
/// ```
pub trait Verify: Send + Sync + 'static {
    /// Verifies the head of a request, before the body is read.
    ///
    /// # Errors
    ///
    /// [`Unverified`] rejects the request with 401.
    fn verify_head(&self, parts: &Parts) -> Result<(), Unverified>;

    /// Verifies the whole body, before it is decoded. The default accepts it.
    ///
    /// # Errors
    ///
    /// [`Unverified`] rejects the request with 401.
    fn verify_body(&self, parts: &Parts, body: &[u8]) -> Result<(), Unverified> {
        let _ = (parts, body);
        Ok(())
    }
}

/// The error for a request that fails verification. The receiver answers 401.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unverified;

impl fmt::Display for Unverified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the request is not verified")
    }
}

impl std::error::Error for Unverified {}

impl<V: Verify + ?Sized> Verify for Arc<V> {
    fn verify_head(&self, parts: &Parts) -> Result<(), Unverified> {
        (**self).verify_head(parts)
    }

    fn verify_body(&self, parts: &Parts, body: &[u8]) -> Result<(), Unverified> {
        (**self).verify_body(parts, body)
    }
}
