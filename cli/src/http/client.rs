use std::time::{Duration, Instant};

use bytes::Bytes;
use http::uri::{Authority, Scheme};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use super::explain::{SendError, SendErrorKind};
use crate::text::visible;

/// The maximum size of an answer that the client keeps, in bytes.
const MAX_ANSWER: usize = 64 << 10;

#[derive(Clone, Debug)]
pub(crate) struct ClientSettings {
    /// The time for the connection, the request and the whole answer.
    pub(crate) timeout: Duration,
    /// Use only HTTP/2: by prior knowledge for `http://`, by negotiation for `https://`.
    pub(crate) http2: bool,
    pub(crate) tls: rustls::ClientConfig,
}

/// A client that reuses connections and never follows a redirect.
#[derive(Clone)]
pub(crate) struct Client {
    inner: legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    timeout: Duration,
    http2: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// At most 64 KiB.
    pub(crate) body: Bytes,
    /// The time from the start of the request to the end of the answer.
    pub(crate) took: Duration,
    /// Whether the server announces that it closes the connection.
    pub(crate) closes: bool,
}

impl Answer {
    /// Reads the body of a response to a request that was sent at `start`.
    pub(super) async fn read(
        response: http::Response<Incoming>,
        host: &str,
        start: Instant,
    ) -> Result<Self, SendError> {
        let (parts, body) = response.into_parts();
        let connection = parts.headers.get(http::header::CONNECTION).cloned();
        let body = Limited::new(body, MAX_ANSWER).collect().await;
        let body = match body {
            Ok(body) => body.to_bytes(),
            Err(error) if error.is::<http_body_util::LengthLimitError>() => {
                Bytes::from_static(b"(the answer is longer than 64 KiB)")
            }
            Err(error) => return Err(SendError::explain(&*error, host)),
        };
        Ok(Self {
            status: parts.status,
            headers: parts.headers,
            body,
            took: start.elapsed(),
            closes: closes(parts.version, connection.as_ref()),
        })
    }

    /// Returns the body as text on one line, cut at 80 characters.
    pub(crate) fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.body);
        let text: Vec<_> = text.split_whitespace().collect();
        let text = visible(&text.join(" ")).into_owned();
        match text.char_indices().nth(80) {
            Some((cut, _)) => format!("{}…", &text[..cut]),
            None => text,
        }
    }
}

impl Client {
    pub(crate) fn new(settings: ClientSettings) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        let builder = HttpsConnectorBuilder::new()
            .with_tls_config(settings.tls)
            .https_or_http();
        let connector = match settings.http2 {
            true => builder.enable_http2().wrap_connector(tcp),
            false => builder.enable_all_versions().wrap_connector(tcp),
        };
        let inner = legacy::Client::builder(TokioExecutor::new())
            .http2_only(settings.http2)
            .build(connector);
        Self {
            inner,
            timeout: settings.timeout,
            http2: settings.http2,
        }
    }

    /// Sends a request and reads the whole answer.
    pub(crate) async fn send(&self, request: Request) -> Result<Answer, SendError> {
        let start = Instant::now();
        let host = host(&request.uri);
        let exchange = self.exchange(request, &host, start);
        match tokio::time::timeout(self.timeout, exchange).await {
            Ok(answer) => answer,
            Err(_) => Err(self.timed_out("no complete answer")),
        }
    }

    async fn exchange(
        &self,
        request: Request,
        host: &str,
        start: Instant,
    ) -> Result<Answer, SendError> {
        let response = self.response(request, host).await?;
        Answer::read(response, host, start).await
    }

    /// Sends a request and returns the response when its head arrives. The time limit doesn't include the body.
    pub(crate) async fn open(
        &self,
        request: Request,
    ) -> Result<http::Response<Incoming>, SendError> {
        let host = host(&request.uri);
        match tokio::time::timeout(self.timeout, self.response(request, &host)).await {
            Ok(response) => response,
            Err(_) => Err(self.timed_out("no answer")),
        }
    }

    async fn response(
        &self,
        request: Request,
        host: &str,
    ) -> Result<http::Response<Incoming>, SendError> {
        let mut message = http::Request::new(Full::new(request.body));
        *message.method_mut() = request.method;
        *message.uri_mut() = request.uri;
        *message.headers_mut() = request.headers;
        let response = self.inner.request(message).await;
        response.map_err(|error| match SendError::explain(&error, host) {
            error if self.http2 => error.with_http2_hint(),
            error => error,
        })
    }

    fn timed_out(&self, what: &str) -> SendError {
        let limit = humantime::format_duration(self.timeout);
        SendError::new(
            SendErrorKind::Timeout,
            format_args!("{what} within {limit}"),
        )
    }
}

/// Returns whether a connection ends after an answer with this version and this header `connection`.
fn closes(version: Version, connection: Option<&HeaderValue>) -> bool {
    let has = |option: &str| {
        let value = connection.and_then(|value| value.to_str().ok());
        let mut options = value.unwrap_or_default().split(',');
        options.any(|each| each.trim().eq_ignore_ascii_case(option))
    };
    has("close") || (version == Version::HTTP_10 && !has("keep-alive"))
}

/// Returns the host and the port of a URL.
pub(crate) fn host(uri: &Uri) -> String {
    let name = uri.host().unwrap_or_default();
    let default = match uri.scheme() == Some(&Scheme::HTTPS) {
        true => 443,
        false => 80,
    };
    let port = uri.authority().and_then(Authority::port_u16);
    format!("{name}:{}", port.unwrap_or(default))
}
