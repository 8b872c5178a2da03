//! Arguments that describe how to reach an endpoint, and the endpoint with its secret.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::{env, fs};

use clap::Args;
use http::{HeaderMap, HeaderName, HeaderValue, Uri};

use crate::failure::Failure;
use crate::http::{Client, ClientSettings, tls_config};

/// The endpoint of `cargo run --example quickstart`.
pub(crate) const DEFAULT_URL: &str = "http://127.0.0.1:3000/webhooks/botisimo";

const SECRET_VARIABLE: &str = "BOTISIMO_SECRET";

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Connection")]
pub(crate) struct ConnectionArgs {
    /// Environment variable that contains the secret [default: BOTISIMO_SECRET, if it is set]
    #[arg(long, value_name = "NAME")]
    secret_env: Option<String>,
    /// File that contains the secret
    #[arg(long, value_name = "FILE", conflicts_with = "secret_env")]
    secret_file: Option<PathBuf>,
    /// Query parameter that carries the secret
    #[arg(long, value_name = "NAME", default_value = "token")]
    secret_parameter: String,
    /// Header that carries the secret, instead of the query parameter
    #[arg(long, value_name = "NAME")]
    secret_header: Option<HeaderName>,
    #[command(flatten)]
    transport: TransportArgs,
}

/// Arguments of every request, without a secret.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Connection")]
pub(crate) struct TransportArgs {
    /// Header to send. Without a value, removes a default header
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    headers: Vec<Header>,
    /// Time for the connection, the request and the whole answer
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    timeout: humantime::Duration,
    /// Use only HTTP/2
    #[arg(long)]
    http2: bool,
    /// File with further certificates to trust, in PEM format
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
}

#[derive(Clone, Debug)]
struct Header {
    name: HeaderName,
    value: Option<HeaderValue>,
}

impl FromStr for Header {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((name, value)) = text.split_once(':') else {
            return Err("a header needs a colon: 'x-name: value'".to_owned());
        };
        let name = name.trim().parse();
        let name = name.map_err(|error| format!("the name of the header is not valid: {error}"))?;
        let value = match value.trim() {
            "" => None,
            value => Some(value.parse().map_err(|_| {
                "the value of the header contains a character that isn't allowed".to_owned()
            })?),
        };
        Ok(Self { name, value })
    }
}

impl TransportArgs {
    pub(crate) fn client_settings(&self) -> Result<ClientSettings, Failure> {
        Ok(ClientSettings {
            timeout: *self.timeout,
            http2: self.http2,
            tls: tls_config(self.ca_file.as_deref())?,
        })
    }

    /// Applies the headers of the arguments to the default headers.
    pub(crate) fn apply_headers(&self, headers: &mut HeaderMap) {
        for header in &self.headers {
            match &header.value {
                Some(value) => {
                    headers.insert(header.name.clone(), value.clone());
                }
                None => {
                    headers.remove(&header.name);
                }
            }
        }
    }
}

/// Returns the header that names this program.
pub(crate) fn user_agent() -> HeaderValue {
    HeaderValue::from_static(concat!("botisimo-cli/", env!("CARGO_PKG_VERSION")))
}

impl ConnectionArgs {
    pub(crate) fn client(&self) -> Result<Client, Failure> {
        Ok(Client::new(self.client_settings()?))
    }

    pub(crate) fn client_settings(&self) -> Result<ClientSettings, Failure> {
        self.transport.client_settings()
    }

    /// Returns the endpoint at `url`, with the secret.
    pub(crate) fn endpoint(&self, url: &Url) -> Result<Endpoint, Failure> {
        self.endpoint_with_secret(url, self.secret()?)
    }

    /// Returns the endpoint at `url`, with this secret instead of the configured one.
    pub(crate) fn endpoint_with_secret(
        &self,
        url: &Url,
        secret: Option<String>,
    ) -> Result<Endpoint, Failure> {
        let mut uri = url.0.clone();
        let mut headers = HeaderMap::new();
        headers.insert(
            http::header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        headers.insert(http::header::USER_AGENT, user_agent());
        if let Some(secret) = &secret {
            match &self.secret_header {
                Some(name) => {
                    let mut value = HeaderValue::from_str(secret).map_err(|_| {
                        Failure::usage("the secret contains a character that a header can't carry")
                    })?;
                    value.set_sensitive(true);
                    headers.insert(name.clone(), value);
                }
                None => uri = with_parameter(&uri, &self.secret_parameter, secret)?,
            }
        }
        self.transport.apply_headers(&mut headers);
        Ok(Endpoint {
            uri,
            shown: url.shown(),
            headers,
            secret,
        })
    }

    /// Returns the header that carries the secret.
    pub(crate) fn secret_header(&self) -> Option<HeaderName> {
        self.secret_header.clone()
    }

    pub(crate) fn secret(&self) -> Result<Option<String>, Failure> {
        let secret = match (&self.secret_file, &self.secret_env) {
            (Some(path), _) => read_secret(path)?,
            (None, Some(name)) => env::var(name).map_err(|_| {
                Failure::usage(format_args!("the environment variable {name} isn't set"))
            })?,
            (None, None) => match env::var(SECRET_VARIABLE) {
                Ok(secret) if !secret.is_empty() => secret,
                _ => return Ok(None),
            },
        };
        if secret.is_empty() {
            return Err(Failure::usage("the secret is empty"));
        }
        Ok(Some(secret))
    }
}

/// Reads a secret from a file, without the line break at its end.
pub(crate) fn read_secret(path: &Path) -> Result<String, Failure> {
    let text = fs::read_to_string(path).map_err(|error| {
        Failure::usage(format_args!(
            "can't read the secret from {}: {error}",
            path.display()
        ))
    })?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// The URL of an endpoint, as the user wrote it.
#[derive(Clone, Debug)]
pub(crate) struct Url(Uri);

impl Url {
    /// Returns the URL without the values of its query, which can be secrets.
    pub(crate) fn shown(&self) -> String {
        shown(&self.0)
    }

    pub(crate) fn uri(&self) -> &Uri {
        &self.0
    }
}

impl FromStr for Url {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if !text.starts_with("http://") && !text.starts_with("https://") {
            return Err(format!(
                "a URL starts with http:// or https://: http://{text}"
            ));
        }
        let uri: Uri = text.parse().map_err(|error| format!("{error}"))?;
        match uri.host() {
            None | Some("") => Err("the URL has no host".to_owned()),
            Some(_) => Ok(Self(uri)),
        }
    }
}

/// An endpoint, with its secret and its headers.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    pub(crate) uri: Uri,
    /// The URL without secrets, for people.
    pub(crate) shown: String,
    pub(crate) headers: HeaderMap,
    pub(crate) secret: Option<String>,
}

/// Returns the URL without the values of its query, which can be secrets.
pub(crate) fn shown(uri: &Uri) -> String {
    let scheme = uri.scheme_str().unwrap_or("http");
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    // A user and a password stand before the host.
    let authority = authority.rsplit('@').next().unwrap_or_default();
    let mut shown = format!("{scheme}://{authority}{}", uri.path());
    for (index, parameter) in uri.query().unwrap_or_default().split('&').enumerate() {
        if let Some((name, _)) = parameter.split_once('=') {
            shown.push(if index == 0 { '?' } else { '&' });
            shown.push_str(name);
            shown.push_str("=…");
        }
    }
    shown
}

fn with_parameter(uri: &Uri, name: &str, value: &str) -> Result<Uri, Failure> {
    let parameter = form_urlencoded::Serializer::new(String::new())
        .append_pair(name, value)
        .finish();
    let separator = if uri.query().is_some() { '&' } else { '?' };
    format!("{uri}{separator}{parameter}")
        .parse()
        .map_err(|error| {
            Failure::usage(format_args!("the URL with the secret isn't valid: {error}"))
        })
}
