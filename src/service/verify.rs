use std::borrow::Cow;
use std::fmt;

use http::HeaderName;
use http::request::Parts;
use percent_encoding::percent_decode_str;
use subtle::{Choice, ConstantTimeEq};

/// Decides whether a request comes from the sender.
///
/// Botisimo signs nothing, so a [`SharedSecret`] in the URL is what there is. This trait is for
/// whatever comes one day, and for what a proxy adds.
///
/// # Examples
///
/// ```
/// use botisimo_webhooks::{Unverified, Verify};
///
/// /// Trusts what the proxy in shared of this service has checked.
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
    /// Decides by the request's head, before its body is read.
    ///
    /// # Errors
    ///
    /// [`Unverified`] if the request is to be answered 401.
    fn verify_head(&self, parts: &Parts) -> Result<(), Unverified>;

    /// Decides by the whole body too, before it is decoded. The default lets it pass.
    ///
    /// # Errors
    ///
    /// [`Unverified`] if the request is to be answered 401.
    fn verify_body(&self, parts: &Parts, body: &[u8]) -> Result<(), Unverified> {
        let _ = (parts, body);
        Ok(())
    }
}

/// The request isn't the sender's: it is answered 401.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unverified;

impl fmt::Display for Unverified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the request is not verified")
    }
}

impl std::error::Error for Unverified {}

/// A secret that the sender was given as a part of the URL, or that a proxy adds as a header.
///
/// Register `https://example.com/webhooks/botisimo?token=…` in the Botisimo dashboard. Secrets are compared in constant
/// time, and never show in `Debug`, logs or errors of this crate. A tracing layer around the
/// service may log the request's URL, and the secret with it: have it log the path only.
///
/// # Examples
///
/// ```
/// use botisimo_webhooks::{Event, EventRouter, SharedSecret, WebhookLayer};
///
/// let router = EventRouter::new().on_any(|_: Event| async {});
/// let webhooks = WebhookLayer::new("/webhooks/botisimo", router)
///     // While the secret changes in the dashboard, the old one is accepted too.
///     .verify(SharedSecret::in_query("token", "new secret").or("old secret"));
/// ```
#[derive(Clone)]
pub struct SharedSecret {
    place: Carrier,
    secrets: Vec<Box<[u8]>>,
}

#[derive(Clone, Debug)]
enum Carrier {
    Query(Box<str>),
    Header(HeaderName),
}

impl SharedSecret {
    /// Expects the secret as a query parameter: `?token=…`. Percent-encoding is undone, and a `+`
    /// may be itself or a space.
    ///
    /// # Panics
    ///
    /// If the secret is empty: it would keep nobody out.
    #[track_caller]
    #[must_use]
    pub fn in_query(parameter: impl Into<Box<str>>, secret: impl AsRef<[u8]>) -> Self {
        Self {
            place: Carrier::Query(parameter.into()),
            secrets: Vec::new(),
        }
        .or(secret)
    }

    /// Expects the secret as the whole value of a header.
    ///
    /// # Panics
    ///
    /// If the name isn't one of a header, or the secret is empty.
    #[track_caller]
    #[must_use]
    pub fn in_header(name: impl TryInto<HeaderName>, secret: impl AsRef<[u8]>) -> Self {
        let Ok(name) = name.try_into() else {
            panic!("the secret's header needs a header's name")
        };
        Self {
            place: Carrier::Header(name),
            secrets: Vec::new(),
        }
        .or(secret)
    }

    /// Accepts another secret as well, in the same place.
    ///
    /// # Panics
    ///
    /// If the secret is empty.
    #[track_caller]
    #[must_use]
    pub fn or(mut self, secret: impl AsRef<[u8]>) -> Self {
        let secret = secret.as_ref();
        assert!(!secret.is_empty(), "an empty secret would keep nobody out");
        self.secrets.push(Box::from(secret));
        self
    }

    /// Compares the value of a query parameter. A `+` in it is a space where a form was encoded,
    /// and itself where a secret was pasted into the URL.
    fn fits_encoded(&self, given: &str) -> Choice {
        // A stranger says how many parameters there are: what can't fit costs next to nothing, and what has nothing to
        // decode no allocation. A length is no secret.
        let possible =
            |secret: &[u8]| (secret.len()..=secret.len().saturating_mul(3)).contains(&given.len());
        if !self.secrets.iter().any(|secret| possible(secret)) {
            return Choice::from(0);
        }
        let decoded = |text| Cow::from(percent_decode_str(text));
        let pasted = self.fits(&decoded(given));
        if !given.contains('+') {
            return pasted;
        }
        pasted | self.fits(&decoded(&given.replace('+', " ")))
    }

    /// Compares with every secret, whichever fits, so that the time doesn't tell which.
    fn fits(&self, given: &[u8]) -> Choice {
        self.secrets
            .iter()
            .fold(Choice::from(0), |fits, secret| fits | given.ct_eq(secret))
    }
}

impl Verify for SharedSecret {
    fn verify_head(&self, parts: &Parts) -> Result<(), Unverified> {
        let fits = match &self.place {
            Carrier::Query(parameter) => {
                let pairs = parts.uri.query().unwrap_or_default().split('&');
                let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
                pairs
                    .filter(|(name, _)| {
                        *name == &**parameter
                            || (name.contains('%')
                                && percent_decode_str(name).eq(parameter.bytes()))
                    })
                    .fold(Choice::from(0), |fits, (_, given)| {
                        fits | self.fits_encoded(given)
                    })
            }
            Carrier::Header(name) => {
                let values = parts.headers.get_all(name).iter();
                values.fold(Choice::from(0), |fits, given| {
                    fits | self.fits(given.as_bytes())
                })
            }
        };
        if fits.into() { Ok(()) } else { Err(Unverified) }
    }
}

impl<V: Verify + ?Sized> Verify for std::sync::Arc<V> {
    fn verify_head(&self, parts: &Parts) -> Result<(), Unverified> {
        (**self).verify_head(parts)
    }

    fn verify_body(&self, parts: &Parts, body: &[u8]) -> Result<(), Unverified> {
        (**self).verify_body(parts, body)
    }
}

impl fmt::Debug for SharedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedSecret")
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}
