//! One connection to an endpoint, for requests whose body needs control over each byte and its time.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use http::header::HOST;
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderValue, Request, Uri};
use http_body_util::StreamBody;
use hyper::body::Frame;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use super::client::{Answer, host};
use super::explain::{SendError, SendErrorKind};

/// The parts of a body, and the pauses between them.
pub(crate) type PacedBody = StreamBody<BoxStream<'static, Result<Frame<Bytes>, Infallible>>>;

#[derive(Clone)]
pub(crate) enum Step {
    Send(Bytes),
    Pause(Duration),
    Notify(Arc<Notify>),
    /// Waits for a notification, at most for this time.
    Until(Arc<Notify>, Duration),
    /// Sends nothing more, and doesn't end the body.
    Stall,
}

/// Returns a body that takes these steps.
pub(crate) fn paced(steps: Vec<Step>) -> PacedBody {
    let parts = stream::iter(steps).filter_map(async |step| match step {
        Step::Send(bytes) => Some(Ok(Frame::data(bytes))),
        Step::Pause(time) => {
            tokio::time::sleep(time).await;
            None
        }
        Step::Notify(notify) => {
            notify.notify_one();
            None
        }
        Step::Until(notify, limit) => {
            let _ = tokio::time::timeout(limit, notify.notified()).await;
            None
        }
        Step::Stall => std::future::pending().await,
    });
    StreamBody::new(parts.boxed())
}

/// The server to connect to, and how.
#[derive(Clone)]
pub(crate) struct Site {
    pub(crate) uri: Uri,
    pub(crate) tls: ClientConfig,
    pub(crate) timeout: Duration,
}

pub(crate) struct Connection {
    sender: Sender,
    driver: JoinHandle<()>,
    host: String,
    timeout: Duration,
}

enum Sender {
    Http1(http1::SendRequest<PacedBody>),
    Http2(http2::SendRequest<PacedBody>),
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Connection {
    /// Opens a connection for HTTP/1.1, or for HTTP/2. With `http://`, HTTP/2 is by prior knowledge.
    pub(crate) async fn open(site: &Site, http2: bool) -> Result<Self, SendError> {
        let opening = Self::open_unlimited(site, http2);
        let opened = tokio::time::timeout(site.timeout, opening).await;
        opened.unwrap_or_else(|_| {
            Err(SendError::new(
                SendErrorKind::Timeout,
                format_args!("{} didn't accept the connection in time", host(&site.uri)),
            ))
        })
    }

    async fn open_unlimited(site: &Site, http2: bool) -> Result<Self, SendError> {
        let host = host(&site.uri);
        let explain = |error: &(dyn std::error::Error + 'static)| SendError::explain(error, &host);
        let stream = stream(site, &host, http2).await?;
        let io = TokioIo::new(stream);
        let (sender, driver) = if http2 {
            let connected = http2::handshake(TokioExecutor::new(), io).await;
            let (sender, driver) = connected.map_err(|error| explain(&error))?;
            (
                Sender::Http2(sender),
                tokio::spawn(async { drop(driver.await) }),
            )
        } else {
            let connected = http1::handshake(io).await;
            let (sender, driver) = connected.map_err(|error| explain(&error))?;
            (
                Sender::Http1(sender),
                tokio::spawn(async { drop(driver.await) }),
            )
        };
        Ok(Self {
            sender,
            driver,
            host,
            timeout: site.timeout,
        })
    }

    /// Sends a request and reads the whole answer, even if the answer comes before the end of the body.
    pub(crate) async fn send(&mut self, request: Request<PacedBody>) -> Result<Answer, SendError> {
        let timeout = self.timeout;
        match tokio::time::timeout(timeout, self.exchange(request)).await {
            Ok(answer) => answer,
            Err(_) => Err(SendError::new(
                SendErrorKind::Timeout,
                format_args!(
                    "no complete answer within {}",
                    humantime::format_duration(timeout)
                ),
            )),
        }
    }

    async fn exchange(&mut self, mut request: Request<PacedBody>) -> Result<Answer, SendError> {
        let start = Instant::now();
        let response = match &mut self.sender {
            Sender::Http1(sender) => {
                to_origin_form(&mut request);
                sender
                    .ready()
                    .await
                    .map_err(|error| SendError::explain(&error, &self.host))?;
                sender.send_request(request).await
            }
            Sender::Http2(sender) => {
                sender
                    .ready()
                    .await
                    .map_err(|error| SendError::explain(&error, &self.host))?;
                sender.send_request(request).await
            }
        };
        let response = response.map_err(|error| SendError::explain(&error, &self.host))?;
        Answer::read(response, &self.host, start).await
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Closes the connection, even in the middle of a request.
        self.driver.abort();
    }
}

/// Opens a connection without TLS and HTTP.
pub(crate) async fn connect(uri: &Uri) -> Result<TcpStream, SendError> {
    let host = host(uri);
    let tcp = TcpStream::connect(&host).await;
    tcp.map_err(|error| match error.raw_os_error() {
        Some(_) => SendError::explain(&error, &host),
        // An error that isn't the system's comes from the resolver.
        None => SendError::new(
            SendErrorKind::Resolve,
            format_args!("the name {host} has no address"),
        ),
    })
}

async fn stream(site: &Site, host: &str, http2: bool) -> Result<Box<dyn Stream>, SendError> {
    let explain = |error: std::io::Error| SendError::explain(&error, host);
    let tcp = connect(&site.uri).await?;
    let _ = tcp.set_nodelay(true);
    if site.uri.scheme() != Some(&Scheme::HTTPS) {
        return Ok(Box::new(tcp));
    }
    let mut config = site.tls.clone();
    config.alpn_protocols = vec![if http2 {
        b"h2".to_vec()
    } else {
        b"http/1.1".to_vec()
    }];
    let name = site.uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let name = ServerName::try_from(name.to_owned()).map_err(|_| {
        SendError::new(
            SendErrorKind::Resolve,
            format_args!("{name} is not the name of a server"),
        )
    })?;
    let tls = TlsConnector::from(Arc::new(config))
        .connect(name, tcp)
        .await;
    let tls = tls.map_err(explain)?;
    if http2 && tls.get_ref().1.alpn_protocol() != Some(b"h2") {
        return Err(SendError::new(
            SendErrorKind::Protocol,
            "the server doesn't offer HTTP/2 in the TLS handshake",
        ));
    }
    Ok(Box::new(tls))
}

/// Moves the host from the URL to a header, as HTTP/1.1 requires.
fn to_origin_form(request: &mut Request<PacedBody>) {
    let authority = request
        .uri()
        .authority()
        .map(|authority| authority.as_str());
    let host = authority.and_then(|authority| authority.rsplit('@').next());
    if let Some(host) = host.and_then(|host| HeaderValue::from_str(host).ok()) {
        request.headers_mut().entry(HOST).or_insert(host);
    }
    let path = request.uri().path_and_query().cloned();
    *request.uri_mut() = Uri::from(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
}
