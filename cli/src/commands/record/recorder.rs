use std::io;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderName, Response, StatusCode, Uri, header};
use http_body_util::Full;
use serde_json::Value;

use super::folder::Folder;
use super::scrub::{SECRET, Scrubber};
use crate::connection::Endpoint;
use crate::http::{Client, Request};
use crate::recording::{RecordedAnswer, Recording, pairs};

/// Headers that are never stored, because they are secrets.
const SECRET_HEADERS: [HeaderName; 4] = [
    header::AUTHORIZATION,
    header::PROXY_AUTHORIZATION,
    header::COOKIE,
    header::SET_COOKIE,
];

/// Headers that belong to one connection, so they aren't forwarded.
const CONNECTION_HEADERS: [HeaderName; 8] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::EXPECT,
    header::HOST,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// A shorter value of the query is a part of many words, and no secret.
const MIN_QUERY_SECRET: usize = 6;

pub(super) struct Recorder {
    pub(super) folder: Arc<Folder>,
    pub(super) scrubber: Option<Scrubber>,
    /// The endpoint behind the recorder.
    pub(super) forward: Option<(Client, Endpoint)>,
    /// The answer without an endpoint.
    pub(super) status: StatusCode,
    pub(super) secret: Option<String>,
    pub(super) secret_header: Option<HeaderName>,
}

/// The result of a delivery.
pub(super) struct Recorded {
    pub(super) response: Response<Full<Bytes>>,
    /// The event type and the message id, after scrubbing.
    pub(super) event: (String, String),
    pub(super) status: u16,
    pub(super) error: Option<String>,
    pub(super) omitted: Option<String>,
    pub(super) file: io::Result<String>,
}

impl Recorder {
    /// Forwards a delivery, stores it, and returns the answer.
    pub(super) async fn record(&self, parts: Parts, body: Bytes) -> Recorded {
        let (received_at, start) = (SystemTime::now(), Instant::now());
        let number = self.folder.number();
        let (response, error) = self.answer(&parts, &body).await;
        let (status, headers, answer_body) = response;
        let took_ms = start.elapsed().as_secs_f64() * 1e3;
        // An answer can repeat the secret of the request, for example in the URL of a redirect.
        let received = self.received_secrets(&parts);
        let mut recording = self.recording(&parts, &body, received_at);
        recording.headers = self.stored_headers(&parts.headers, &received);
        // The body and the headers come first, so that their names are also found in the path.
        recording.path = hide(self.stored_text(parts.uri.path()), &received);
        recording.answer = RecordedAnswer {
            status: status.as_u16(),
            headers: self.stored_headers(&headers, &received),
            body: hide(self.stored_answer(&answer_body), &received),
            took_ms,
            error: error.clone(),
        };
        let event = head(recording.body.as_deref().unwrap_or_default());
        let (folder, name) = (Arc::clone(&self.folder), event.0.clone());
        let omitted = recording.body_omitted.clone();
        let stored =
            tokio::task::spawn_blocking(move || folder.store(number, &recording, &name)).await;
        let file = stored.unwrap_or_else(|error| Err(io::Error::other(error)));
        let mut response = Response::new(Full::new(answer_body));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        if file.is_err() {
            // The sender retries a 503, so the delivery can be recorded later.
            response = Response::new(Full::new(Bytes::from_static(
                b"the recording can't be written\n",
            )));
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        }
        Recorded {
            status: response.status().as_u16(),
            response,
            event,
            error,
            omitted,
            file,
        }
    }

    async fn answer(
        &self,
        parts: &Parts,
        body: &Bytes,
    ) -> ((StatusCode, HeaderMap, Bytes), Option<String>) {
        let Some((client, endpoint)) = &self.forward else {
            return ((self.status, HeaderMap::new(), Bytes::new()), None);
        };
        let mut headers = parts.headers.clone();
        for name in &CONNECTION_HEADERS {
            headers.remove(name);
        }
        // The endpoint's own secret replaces a received one.
        for (name, value) in &endpoint.headers {
            if name != header::CONTENT_TYPE && name != header::USER_AGENT {
                headers.insert(name, value.clone());
            }
        }
        let request = Request {
            method: parts.method.clone(),
            uri: with_query(&endpoint.uri, &parts.uri),
            headers,
            body: body.clone(),
        };
        match client.send(request).await {
            Ok(answer) => {
                let mut headers = answer.headers;
                for name in &CONNECTION_HEADERS {
                    headers.remove(name);
                }
                ((answer.status, headers, answer.body), None)
            }
            Err(error) => {
                let text = format!("{} gave no answer: {error}\n", endpoint.shown);
                let answer = (StatusCode::BAD_GATEWAY, HeaderMap::new(), Bytes::from(text));
                (answer, Some(error.to_string()))
            }
        }
    }

    /// Returns the recording of a request, without its path, its headers and an answer.
    fn recording(&self, parts: &Parts, body: &Bytes, received_at: SystemTime) -> Recording {
        let mut recording = Recording {
            version: Recording::VERSION,
            received_at: humantime::format_rfc3339_millis(received_at).to_string(),
            method: parts.method.to_string(),
            path: String::new(),
            headers: Vec::new(),
            body: None,
            body_hex: None,
            body_omitted: None,
            answer: RecordedAnswer::default(),
        };
        match &self.scrubber {
            None if self.contains_secret(body) && std::str::from_utf8(body).is_err() => {
                recording.body_omitted = Some("the body contains the secret".to_owned());
            }
            None => match std::str::from_utf8(body) {
                Ok(text) => recording.body = Some(self.without_secret(text)),
                Err(_) => {
                    let hex: Vec<_> = body.iter().map(|byte| format!("{byte:02x}")).collect();
                    recording.body_hex = Some(hex.concat());
                }
            },
            Some(scrubber) => match serde_json::from_slice::<Value>(body) {
                Ok(mut value) => {
                    scrubber.json(&mut value);
                    recording.body = Some(value.to_string());
                }
                Err(_) => {
                    let reason = "the body isn't JSON, so the rules can't be applied";
                    recording.body_omitted = Some(reason.to_owned());
                }
            },
        }
        recording
    }

    fn secret_headers(&self) -> impl Iterator<Item = &HeaderName> {
        SECRET_HEADERS.iter().chain(&self.secret_header)
    }

    /// Returns the values of the query and of the secret headers, also in the form that URLs have.
    fn received_secrets(&self, parts: &Parts) -> Vec<String> {
        let query = parts.uri.query().unwrap_or_default();
        let raw = query.split('&');
        let raw = raw.map(|pair| {
            pair.split_once('=')
                .map_or(pair, |(_, value)| value)
                .to_owned()
        });
        let decoded = form_urlencoded::parse(query.as_bytes()).map(|(_, value)| value.into_owned());
        let values = self
            .secret_headers()
            .flat_map(|name| parts.headers.get_all(name));
        // A cookie and a scheme such as `Bearer` consist of several parts.
        let headers = values
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split([' ', ';', '=']).chain([value]));
        let mut secrets: Vec<_> = raw
            .chain(decoded)
            .chain(headers.map(str::to_owned))
            .flat_map(|secret| [encoded(&secret), secret])
            .filter(|secret| secret.len() >= MIN_QUERY_SECRET)
            .collect();
        // A longer text can contain a shorter one.
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        secrets
    }

    /// Returns the headers without the secret ones, and without the secrets that came with the request.
    fn stored_headers(&self, headers: &HeaderMap, received: &[String]) -> Vec<(String, String)> {
        let is_secret = |name: &str| self.secret_headers().any(|secret| secret.as_str() == name);
        let headers = pairs(headers)
            .into_iter()
            .filter(|(name, _)| !is_secret(name));
        headers
            .map(|(name, value)| {
                let value = match &self.scrubber {
                    Some(scrubber) => scrubber.header(&name, &value),
                    None => self.without_secret(&value),
                };
                let value = hide(value, received);
                (name, value)
            })
            .collect()
    }

    fn stored_answer(&self, body: &Bytes) -> String {
        if let Some(scrubber) = &self.scrubber
            && let Ok(mut value) = serde_json::from_slice::<Value>(body)
        {
            scrubber.json(&mut value);
            return value.to_string();
        }
        if self.scrubber.is_some() && !body.is_empty() {
            return "(not stored: the answer isn't JSON, so the rules can't be applied)".to_owned();
        }
        self.stored_text(&String::from_utf8_lossy(body))
    }

    fn stored_text(&self, text: &str) -> String {
        match &self.scrubber {
            Some(scrubber) => scrubber.text(text),
            None => self.without_secret(text),
        }
    }

    fn contains_secret(&self, bytes: &[u8]) -> bool {
        self.secret.as_ref().is_some_and(|secret| {
            let secret = secret.as_bytes();
            bytes.windows(secret.len()).any(|window| window == secret)
        })
    }

    fn without_secret(&self, text: &str) -> String {
        match &self.secret {
            Some(secret) => text
                .replace(secret.as_str(), SECRET)
                .replace(&encoded(secret), SECRET),
            None => text.to_owned(),
        }
    }
}

fn encoded(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

fn hide(text: String, secrets: &[String]) -> String {
    secrets
        .iter()
        .fold(text, |text, secret| text.replace(secret, SECRET))
}

/// Returns the event type and the message id of a body.
fn head(body: &str) -> (String, String) {
    let envelope: Value = serde_json::from_str(body).unwrap_or_default();
    let member = |name: &str| {
        envelope
            .get(name)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    (member("eventType"), member("messageId"))
}

/// Adds the received query to the endpoint's URL, if the URL has no query.
fn with_query(endpoint: &Uri, received: &Uri) -> Uri {
    match (endpoint.query(), received.query()) {
        (None, Some(query)) => format!("{endpoint}?{query}")
            .parse()
            .unwrap_or_else(|_| endpoint.clone()),
        _ => endpoint.clone(),
    }
}
