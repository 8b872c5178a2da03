use std::borrow::Cow;
use std::{env, fmt};

use http::HeaderName;
use http::request::Parts;
use percent_encoding::percent_decode_str;
use subtle::{Choice, ConstantTimeEq};

use super::verify::{Unverified, Verify};
use crate::error::{Error, ErrorKind};
use crate::telemetry;

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
///
/// With [`from_env`](SharedSecret::from_env), the secret isn't in the code:
///
/// ```no_run
/// # use botisimo_webhooks::{Error, EventRouter, SharedSecret, WebhookLayer};
/// # fn build(router: EventRouter) -> Result<(), Error> {
/// let webhooks = WebhookLayer::new("/webhooks/botisimo", router)
///     .verify(SharedSecret::from_env("BOTISIMO_SECRET")?);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct SharedSecret {
    carrier: Carrier,
    /// If the list is empty, every request is verified.
    secrets: Vec<Box<[u8]>>,
}

/// The part of the request that contains the secret.
#[derive(Clone, Debug)]
enum Carrier {
    Query(Box<str>),
    Header(HeaderName),
}

impl SharedSecret {
    /// Reads the secret from an environment variable, and expects it as the query parameter `token`.
    ///
    /// To rotate the secret, set the variable to several secrets, one on each line. The receiver accepts each of them. This
    /// method ignores empty lines, so a trailing line break is harmless. Every other character is a part of the secret,
    /// including a space, a comma or `&`. The value needn't be UTF-8. In the URL, the secret is percent-encoded.
    ///
    /// To expect the secret elsewhere, call [`parameter`](SharedSecret::parameter) or [`header`](SharedSecret::header).
    ///
    /// # Errors
    ///
    /// Returns an error of the kind [`Secret`](ErrorKind::Secret) if the variable isn't set, or contains no secret. The
    /// message names the variable.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # use botisimo_webhooks::SharedSecret;
    /// let in_url = SharedSecret::from_env("BOTISIMO_SECRET")?; // …?token=<secret>
    /// let in_header = SharedSecret::from_env("BOTISIMO_SECRET")?.header("x-webhook-token");
    /// # Ok::<_, botisimo_webhooks::Error>(())
    /// ```
    pub fn from_env(variable: impl AsRef<str>) -> Result<Self, Error> {
        let variable = variable.as_ref();
        let value = env::var_os(variable);
        let problem = match &value {
            None => "isn't set",
            Some(value) if value.is_empty() => "is empty",
            Some(_) => "contains only line breaks",
        };
        let secrets = lines(&value.unwrap_or_default().into_encoded_bytes());
        if secrets.is_empty() {
            let text = format!(
                "the environment variable `{variable}` {problem}: set it to the secret in the webhook's URL"
            );
            return Err(Error::new(ErrorKind::Secret, text));
        }
        Ok(Self::in_token(secrets))
    }

    /// Reads the secret as [`from_env`](SharedSecret::from_env) does. If the variable contains no secret, logs a warning and
    /// accepts every request.
    ///
    /// Use this method only for development. If a deployment loses the variable, any client that knows the URL can send
    /// events.
    #[must_use]
    pub fn from_env_or_accept_all(variable: impl AsRef<str>) -> Self {
        Self::from_env(variable.as_ref()).unwrap_or_else(|_| {
            telemetry::secret_missing(variable.as_ref());
            Self::in_token(Vec::new())
        })
    }

    fn in_token(secrets: Vec<Box<[u8]>>) -> Self {
        Self {
            carrier: Carrier::Query(Box::from("token")),
            secrets,
        }
    }

    /// Expects the secret as this query parameter instead.
    #[must_use]
    pub fn parameter(mut self, name: impl Into<Box<str>>) -> Self {
        self.carrier = Carrier::Query(name.into());
        self
    }

    /// Expects the secret as the value of this header instead.
    ///
    /// # Panics
    ///
    /// Panics if the name isn't a valid header name.
    #[track_caller]
    #[must_use]
    pub fn header(mut self, name: impl TryInto<HeaderName>) -> Self {
        let Ok(name) = name.try_into() else {
            panic!("the name of the secret's header is not a valid header name")
        };
        self.carrier = Carrier::Header(name);
        self
    }

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
        Self::in_token(Vec::new()).or(secret).parameter(parameter)
    }

    /// Expects the secret as the value of a header.
    ///
    /// # Panics
    ///
    /// Panics if the name isn't a valid header name, or if the secret is empty.
    #[track_caller]
    #[must_use]
    pub fn in_header(name: impl TryInto<HeaderName>, secret: impl AsRef<[u8]>) -> Self {
        Self::in_token(Vec::new()).or(secret).header(name)
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
        if self.secrets.is_empty() {
            return Ok(());
        }
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

/// Returns the lines that aren't empty.
fn lines(value: &[u8]) -> Vec<Box<[u8]>> {
    let lines = value.split(|byte| *byte == b'\n');
    let lines = lines.map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    lines
        .filter(|line| !line.is_empty())
        .map(Box::from)
        .collect()
}
