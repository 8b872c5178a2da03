use std::borrow::Cow;
use std::fmt;

use http::HeaderName;
use http::request::Parts;
use percent_encoding::percent_decode_str;
use subtle::{Choice, ConstantTimeEq};

use super::verify::{Unverified, Verify};

/// A secret in the URL that the sender calls, or in a header that a reverse proxy adds.
///
/// Register `https://example.com/webhooks/botisimo?token=…` in the Botisimo dashboard. Secrets are
/// compared in constant time, and never appear in `Debug` output, logs or errors of this crate. An
/// outer tracing layer may log the URL with the secret: configure it to log the path only.
///
/// # Examples
///
/// ```
/// use botisimo_webhooks::{Event, EventRouter, SharedSecret, WebhookLayer};
///
/// let router = EventRouter::new().on_any(|_: Event| async {});
/// let webhooks = WebhookLayer::new("/webhooks/botisimo", router)
///     // To rotate the secret, accept the old one until the dashboard has the new one.
///     .verify(SharedSecret::in_query("token", "new secret").or("old secret"));
/// ```
#[derive(Clone)]
pub struct SharedSecret {
    carrier: Carrier,
    secrets: Vec<Box<[u8]>>,
}

/// The part of the request that contains the secret.
#[derive(Clone, Debug)]
enum Carrier {
    Query(Box<str>),
    Header(HeaderName),
}

impl SharedSecret {
    /// Expects the secret as a query parameter: `?token=…`.
    ///
    /// The value is percent-decoded. A `+` matches both itself and a space.
    ///
    /// # Panics
    ///
    /// Panics if the secret is empty.
    #[track_caller]
    #[must_use]
    pub fn in_query(parameter: impl Into<Box<str>>, secret: impl AsRef<[u8]>) -> Self {
        Self {
            carrier: Carrier::Query(parameter.into()),
            secrets: Vec::new(),
        }
        .or(secret)
    }

    /// Expects the secret as the value of a header.
    ///
    /// # Panics
    ///
    /// Panics if the name isn't a valid header name, or if the secret is empty.
    #[track_caller]
    #[must_use]
    pub fn in_header(name: impl TryInto<HeaderName>, secret: impl AsRef<[u8]>) -> Self {
        let Ok(name) = name.try_into() else {
            panic!("the name of the secret's header is not a valid header name")
        };
        Self {
            carrier: Carrier::Header(name),
            secrets: Vec::new(),
        }
        .or(secret)
    }

    /// Also accepts another secret, in the same parameter or header.
    ///
    /// # Panics
    ///
    /// Panics if the secret is empty.
    #[track_caller]
    #[must_use]
    pub fn or(mut self, secret: impl AsRef<[u8]>) -> Self {
        let secret = secret.as_ref();
        assert!(
            !secret.is_empty(),
            "an empty secret would accept every request"
        );
        self.secrets.push(Box::from(secret));
        self
    }

    /// Compares the value of a query parameter.
    ///
    /// A `+` stands for a space if the sender encoded the query as a form, and for itself if the
    /// secret was pasted into the URL.
    fn matches_encoded(&self, given: &str) -> Choice {
        // Any client can send any number of parameters. So a value whose length can't match is
        // rejected early, and a value without escapes isn't copied. The length isn't secret.
        let possible =
            |secret: &[u8]| (secret.len()..=secret.len().saturating_mul(3)).contains(&given.len());
        if !self.secrets.iter().any(|secret| possible(secret)) {
            return Choice::from(0);
        }
        let decoded = |text| Cow::from(percent_decode_str(text));
        let pasted = self.matches(&decoded(given));
        if !given.contains('+') {
            return pasted;
        }
        pasted | self.matches(&decoded(&given.replace('+', " ")))
    }

    /// Compares with every secret, even after a match, so that the time doesn't reveal which secret
    /// matched.
    fn matches(&self, given: &[u8]) -> Choice {
        self.secrets
            .iter()
            .fold(Choice::from(0), |matched, secret| {
                matched | given.ct_eq(secret)
            })
    }
}

impl Verify for SharedSecret {
    fn verify_head(&self, parts: &Parts) -> Result<(), Unverified> {
        let matched = match &self.carrier {
            Carrier::Query(parameter) => {
                let pairs = parts.uri.query().unwrap_or_default().split('&');
                let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
                pairs
                    .filter(|(name, _)| {
                        *name == &**parameter
                            || (name.contains('%')
                                && percent_decode_str(name).eq(parameter.bytes()))
                    })
                    .fold(Choice::from(0), |matched, (_, given)| {
                        matched | self.matches_encoded(given)
                    })
            }
            Carrier::Header(name) => {
                let values = parts.headers.get_all(name).iter();
                values.fold(Choice::from(0), |matched, given| {
                    matched | self.matches(given.as_bytes())
                })
            }
        };
        if matched.into() {
            Ok(())
        } else {
            Err(Unverified)
        }
    }
}

impl fmt::Debug for SharedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedSecret")
            .field("carrier", &self.carrier)
            .finish_non_exhaustive()
    }
}
