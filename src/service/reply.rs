use std::time::Duration;

use http::{HeaderName, HeaderValue, Response, StatusCode, header};

use super::body::ResponseBody;

/// The receiver's answer, before conversion to a response.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    status: StatusCode,
    text: &'static str,
    header: Option<(HeaderName, HeaderValue)>,
    closing: bool,
}

impl Reply {
    pub(super) fn new(status: StatusCode, text: &'static str) -> Self {
        Self {
            status,
            text,
            header: None,
            closing: false,
        }
    }

    pub(super) fn method_not_allowed(text: &'static str) -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, text)
            .with(header::ALLOW, HeaderValue::from_static("POST"))
    }

    /// RFC 9110, 15.5.2: a 401 must name an authentication scheme. No registered scheme applies.
    pub(super) fn unauthorized(text: &'static str) -> Self {
        let challenge = HeaderValue::from_static("SharedSecret realm=\"webhooks\"");
        Self::new(StatusCode::UNAUTHORIZED, text).with(header::WWW_AUTHENTICATE, challenge)
    }

    /// RFC 9110, 15.5.16: a 415 because of the content encoding names the accepted encodings.
    pub(super) fn unsupported_encoding(text: &'static str) -> Self {
        let identity = HeaderValue::from_static("identity");
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, text).with(header::ACCEPT_ENCODING, identity)
    }

    pub(super) fn unavailable(text: &'static str, retry_after: Duration) -> Self {
        let round_up = u64::from(retry_after.subsec_nanos() > 0);
        let seconds = retry_after.as_secs().saturating_add(round_up);
        Self::new(StatusCode::SERVICE_UNAVAILABLE, text)
            .with(header::RETRY_AFTER, HeaderValue::from(seconds))
    }

    fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.header = Some((name, value));
        self
    }

    pub(super) fn closing(self) -> Self {
        Self {
            closing: true,
            ..self
        }
    }

    pub(super) fn status(&self) -> StatusCode {
        self.status
    }

    pub(super) fn into_response<B>(self) -> Response<ResponseBody<B>> {
        // RFC 9110, 6.4.1 and 15.3.6: responses with these statuses have no body. The user may have
        // set one of these statuses.
        let bodiless = self.status.is_informational()
            || [
                StatusCode::NO_CONTENT,
                StatusCode::RESET_CONTENT,
                StatusCode::NOT_MODIFIED,
            ]
            .contains(&self.status);
        let text = if bodiless { "" } else { self.text };
        let mut response = Response::new(ResponseBody::text(text));
        *response.status_mut() = self.status;
        if !text.is_empty() {
            let plain = HeaderValue::from_static("text/plain; charset=utf-8");
            response.headers_mut().insert(header::CONTENT_TYPE, plain);
        }
        response.headers_mut().extend(self.header);
        if self.closing {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
        response
    }
}
