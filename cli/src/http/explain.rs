use std::error::Error;
use std::{fmt, io};

use rustls::CertificateError;

/// Why a request got no answer.
#[derive(Clone, Debug)]
pub(crate) struct SendError {
    kind: SendErrorKind,
    message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SendErrorKind {
    /// The name of the host has no address.
    Resolve,
    /// Nothing accepts connections there.
    Connect,
    /// The TLS handshake failed, for example because of the certificate.
    Tls,
    /// No answer came in time.
    Timeout,
    /// The server closed the connection before its answer was complete.
    Closed,
    /// The server's bytes aren't HTTP, or not the version of HTTP that was asked for.
    Protocol,
}

impl SendError {
    pub(crate) fn new(kind: SendErrorKind, message: impl fmt::Display) -> Self {
        let message = message.to_string();
        Self { kind, message }
    }

    pub(crate) fn kind(&self) -> SendErrorKind {
        self.kind
    }

    /// Adds a hint to an error of a connection that only uses HTTP/2.
    pub(super) fn with_http2_hint(mut self) -> Self {
        if matches!(self.kind, SendErrorKind::Closed | SendErrorKind::Protocol) {
            self.message.push_str("; does the server speak HTTP/2?");
        }
        self
    }

    /// Explains an error of the connector or of the connection to `host`.
    pub(crate) fn explain(error: &(dyn Error + 'static), host: &str) -> Self {
        let mut texts = Vec::new();
        let mut source = Some(error);
        while let Some(error) = source {
            if let Some(error) = tls_error(error) {
                return Self::new(SendErrorKind::Tls, explain_tls(error, host));
            }
            if let Some(error) = error.downcast_ref::<io::Error>()
                && let Some(explained) = explain_io(error, host)
            {
                return explained;
            }
            if let Some(error) = error.downcast_ref::<hyper::Error>()
                && let Some(explained) = explain_hyper(error)
            {
                return explained;
            }
            texts.push(error.to_string());
            source = error.source();
        }
        let text = texts.join(": ");
        match text {
            text if text.contains("dns error") => Self::new(
                SendErrorKind::Resolve,
                format_args!("the name {host} has no address"),
            ),
            text if text.contains("http2 error") => Self::new(
                SendErrorKind::Protocol,
                format_args!("the HTTP/2 connection failed: {text}"),
            ),
            text => Self::new(SendErrorKind::Connect, text),
        }
    }
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Finds the TLS error in an error. The `source` of an `io::Error` skips the error that it wraps, and wrappers may be nested.
fn tls_error<'a>(mut error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    loop {
        if let Some(error) = error.downcast_ref::<rustls::Error>() {
            return Some(error);
        }
        error = error.downcast_ref::<io::Error>()?.get_ref()?;
    }
}

fn explain_io(error: &io::Error, host: &str) -> Option<SendError> {
    use SendErrorKind::{Closed, Connect, Timeout};
    Some(match error.kind() {
        io::ErrorKind::ConnectionRefused => SendError::new(
            Connect,
            format_args!("nothing listens on {host}: start the server, or check the port"),
        ),
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            SendError::new(Connect, format_args!("{host} can't be reached: {error}"))
        }
        io::ErrorKind::TimedOut => SendError::new(
            Timeout,
            format_args!("{host} didn't accept the connection in time"),
        ),
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::UnexpectedEof => SendError::new(
            Closed,
            "the server closed the connection before its answer was complete",
        ),
        _ => return None,
    })
}

fn explain_hyper(error: &hyper::Error) -> Option<SendError> {
    if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
        Some(SendError::new(
            SendErrorKind::Closed,
            "the server closed the connection before its answer was complete",
        ))
    } else if error.is_parse() {
        Some(SendError::new(
            SendErrorKind::Protocol,
            format_args!("the answer isn't HTTP: {error}"),
        ))
    } else {
        None
    }
}

/// Says what is wrong with a handshake, and what mends it.
fn explain_tls(error: &rustls::Error, host: &str) -> String {
    use CertificateError as C;
    let rustls::Error::InvalidCertificate(certificate) = error else {
        return match error {
            rustls::Error::InvalidMessage(_) => {
                format!("{host} doesn't speak TLS: does the URL need http:// instead of https://?")
            }
            error => format!("the TLS handshake with {host} failed: {error}"),
        };
    };
    match certificate {
        C::Expired | C::ExpiredContext { .. } => {
            format!("the certificate of {host} has expired: renew it")
        }
        C::NotValidYet | C::NotValidYetContext { .. } => {
            format!("the certificate of {host} isn't valid yet: check the clocks")
        }
        C::NotValidForName | C::NotValidForNameContext { .. } => format!(
            "the certificate is for another name than {host}: add the name to the certificate"
        ),
        C::UnknownIssuer => format!(
            "the certificate of {host} has an unknown issuer: serve the whole chain with a certificate \
             of a public authority, or pass --ca-file to trust your own"
        ),
        C::Revoked => format!("the certificate of {host} is revoked: renew it"),
        other => format!("the certificate of {host} is invalid: {other}"),
    }
}
