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
    /// Environment variable that contains the secret [default: BOTISIMO_SECRET, if it is set, or the parameter of the URL]
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
    /// Header to send, may be repeated. Without a value, removes a default header
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
            headers.remove(&header.name);
        }
        // A name may occur several times, as in curl.
        for header in &self.headers {
            if let Some(value) = &header.value {
                headers.append(header.name.clone(), value.clone());
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
        if let Some(secret) = self.secret()? {
            return self.endpoint_with_secret(url, Some(secret));
        }
        let secret = match self.secret_header {
            Some(_) => None,
            None => parameter(&url.0, &self.secret_parameter),
        };
        let mut endpoint = self.build(url, url.0.clone(), None)?;
        endpoint.secret = secret;
        Ok(endpoint)
    }

    /// Returns the endpoint at `url`, with this secret instead of the configured one and of one in the URL.
    pub(crate) fn endpoint_with_secret(
        &self,
        url: &Url,
        secret: Option<String>,
    ) -> Result<Endpoint, Failure> {
        let uri = match self.secret_header {
            Some(_) => url.0.clone(),
            None => without_parameter(&url.0, &self.secret_parameter)?,
        };
        self.build(url, uri, secret)
    }

    fn build(&self, url: &Url, mut uri: Uri, secret: Option<String>) -> Result<Endpoint, Failure> {
        // The parser of the arguments would repeat the password in its error.
        let authority = uri.authority().map(|authority| authority.as_str());
        if authority.is_some_and(|authority| authority.contains('@')) {
            return Err(Failure::usage(
                "a user in the URL isn't supported: pass -H 'authorization: Basic …'",
            ));
        }
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
    let parameters = uri.query().unwrap_or_default().split('&');
    let names = parameters.filter_map(|parameter| Some(parameter.split_once('=')?.0));
    for (index, name) in names.enumerate() {
        shown.push(if index == 0 { '?' } else { '&' });
        shown.push_str(name);
        shown.push_str("=…");
    }
    shown
}

/// Returns the value of a parameter of the query.
fn parameter(uri: &Uri, name: &str) -> Option<String> {
    let mut parameters = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    let found = parameters.find(|(found, value)| found == name && !value.is_empty());
    found.map(|(_, value)| value.into_owned())
}

/// Removes a parameter from the query, and keeps the bytes of all others.
fn without_parameter(uri: &Uri, name: &str) -> Result<Uri, Failure> {
    let Some(query) = uri.query().filter(|_| parameter(uri, name).is_some()) else {
        return Ok(uri.clone());
    };
    let is_other =
        |pair: &&str| form_urlencoded::parse(pair.as_bytes()).all(|(found, _)| found != name);
    let others: Vec<_> = query.split('&').filter(is_other).collect();
    let path = match others.is_empty() {
        true => uri.path().to_owned(),
        false => format!("{}?{}", uri.path(), others.join("&")),
    };
    let mut parts = uri.clone().into_parts();
    let path = path.parse();
    parts.path_and_query =
        Some(path.map_err(|error| Failure::usage(format_args!("the URL isn't valid: {error}")))?);
    Uri::from_parts(parts)
        .map_err(|error| Failure::usage(format_args!("the URL isn't valid: {error}")))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_shown_without_a_value_of_its_query() {
        for (url, expected) in [
            ("http://h/p", "http://h/p"),
            ("http://h:1/p?token=a&x=b", "http://h:1/p?token=…&x=…"),
            ("http://h/p?secret", "http://h/p"),
            ("http://h/p?secret&x=b", "http://h/p?x=…"),
        ] {
            let url: Url = url.parse().expect("a URL");
            assert_eq!(url.shown(), expected);
        }
    }

    #[test]
    fn a_parameter_is_removed_and_the_others_keep_their_bytes() {
        for (url, expected) in [
            ("http://h/p", "http://h/p"),
            ("http://h/p?token=a", "http://h/p"),
            ("http://h/p?a=%2f&token=x&b", "http://h/p?a=%2f&b"),
            ("http://h/p?tok%65n=a&token=b&x=1", "http://h/p?x=1"),
            ("http://h/p?token", "http://h/p?token"),
        ] {
            let uri = url.parse().expect("a URL");
            let removed = without_parameter(&uri, "token").expect("a URL");
            assert_eq!(removed.to_string(), expected);
        }
    }
}
