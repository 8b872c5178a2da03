use std::path::Path;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;
use std::{fmt, io};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, header};
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::recording::Recording;
use crate::event::{Event, EventType, Traceparent};

/// A mock webhook request, valid or invalid.
///
/// Builds a valid request by default: `POST /webhooks/botisimo` with an envelope whose `data` is
/// `null`. The `messageId` is unique, even across processes, so tests can share a durable inbox. A
/// clone has the same `messageId`, so an inbox treats the clone as a duplicate.
///
/// # Examples
///
/// ```
/// use botisimo_webhooks::testing::MockRequest;
/// use serde_json::json;
///
/// let request: http::Request<axum::body::Body> = MockRequest::event("connection.stream.started")
///     .data(json!({ "title": "hello" }))
///     .query("token", "s3cret")
///     .build();
/// assert_eq!(request.uri(), "/webhooks/botisimo?token=s3cret");
/// ```
#[derive(Clone)]
#[must_use]
pub struct MockRequest {
    method: Method,
    path: String,
    query: Vec<(String, String)>,
    headers: HeaderMap,
    body: MockBody,
}

#[derive(Clone)]
enum MockBody {
    Envelope(Vec<Member>),
    Raw(Bytes),
}

/// A member of the envelope. The value is JSON text.
#[derive(Clone)]
struct Member {
    name: String,
    value: String,
}

impl MockBody {
    /// Returns the body as members, if these members serialize to the same bytes.
    fn of(body: Bytes) -> Self {
        let members: Result<Members, _> = serde_json::from_slice(&body);
        if let Ok(Members(members)) = members
            && envelope(&members) == body
        {
            return Self::Envelope(members);
        }
        Self::Raw(body)
    }
}

/// The members of a JSON object, in order.
struct Members(Vec<Member>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visit;
        impl<'de> Visitor<'de> for Visit {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, Box<RawValue>>()? {
                    let value = value.get().to_owned();
                    members.push(Member { name, value });
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Visit)
    }
}

fn envelope(members: &[Member]) -> Bytes {
    let members = members
        .iter()
        .map(|member| format!("{}:{}", Value::from(&*member.name), member.value));
    Bytes::from(format!("{{{}}}", members.collect::<Vec<_>>().join(",")))
}

impl MockRequest {
    /// Returns a request with an event of this type.
    pub fn event(event_type: impl Into<EventType>) -> Self {
        static PROCESS: LazyLock<u64> = LazyLock::new(|| fastrand::u64(..));
        static COUNT: AtomicU64 = AtomicU64::new(1);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let id = format!("mock-{:016x}-{count}", *PROCESS);
        let mut headers = HeaderMap::new();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        let mock = Self {
            method: Method::POST,
            path: "/webhooks/botisimo".to_owned(),
            query: Vec::new(),
            headers,
            body: MockBody::Envelope(Vec::new()),
        };
        // The timestamp of the specification's example.
        mock.message_id(id)
            .member("timestamp", 1_674_489_999_154_i64)
            .member("eventType", event_type.into())
            .data(())
    }

    /// Returns the request of a file that `botisimo record` wrote.
    ///
    /// The request has the recorded method, path, headers and body. The file has no query, because the query contains the
    /// secret: add the secret with [`query`](MockRequest::query) or [`header`](MockRequest::header). If the body is a JSON
    /// object without white space, you can set members such as [`message_id`](MockRequest::message_id).
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use botisimo_webhooks::testing::{Harness, MockRequest};
    /// # async fn example(router: botisimo_webhooks::EventRouter) -> std::io::Result<()> {
    /// let request = MockRequest::from_recording("tests/deliveries/000001-connection.stream.started.json")?;
    /// Harness::new(router).deliver(request).await.assert_handled("announce");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Fails if the file can't be read. Fails with [`InvalidData`](std::io::ErrorKind::InvalidData) if the file isn't a
    /// recording, or if its body wasn't recorded.
    pub fn from_recording(path: impl AsRef<Path>) -> io::Result<Self> {
        let recording = Recording::read(path.as_ref())?;
        Ok(Self {
            method: recording.method,
            path: recording.path,
            query: Vec::new(),
            headers: recording.headers,
            body: MockBody::of(recording.body),
        })
    }

    /// Sets the `messageId`.
    pub fn message_id(self, id: impl AsRef<str>) -> Self {
        self.member("messageId", id.as_ref())
    }

    /// Sets the `data`, for example to `json!({…})`.
    ///
    /// # Panics
    ///
    /// Panics if serde_json can't serialize the data, or after [`body`](Self::body).
    #[track_caller]
    pub fn data(self, data: impl Serialize) -> Self {
        self.member("data", data)
    }

    /// Sets a member of the envelope. The member may be unknown, and the value may have the wrong
    /// type.
    ///
    /// # Panics
    ///
    /// Panics if serde_json can't serialize the value, or after [`body`](Self::body).
    #[track_caller]
    pub fn member(mut self, name: &str, value: impl Serialize) -> Self {
        let value = serde_json::to_string(&value);
        let value = value.unwrap_or_else(|error| panic!("{name} can't be serialized: {error}"));
        let members = self.members();
        // Keep the position, so that the members stay in the order of the specification.
        let position = members.iter().position(|member| member.name == name);
        members.retain(|member| member.name != name);
        let name = name.to_owned();
        members.insert(position.unwrap_or(members.len()), Member { name, value });
        self
    }

    #[track_caller]
    fn members(&mut self) -> &mut Vec<Member> {
        match &mut self.body {
            MockBody::Envelope(members) => members,
            MockBody::Raw(_) => {
                panic!("the body is not an envelope: set members before calling `body`")
            }
        }
    }

    /// Replaces the whole envelope with a body.
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = MockBody::Raw(body.into());
        self
    }

    /// Appends spaces until the body has `bytes` bytes. The body stays valid.
    pub fn padded(self, bytes: usize) -> Self {
        let mut body = self.body_bytes().to_vec();
        body.resize(bytes.max(body.len()), b' ');
        self.body(body)
    }

    /// Sets the method.
    pub fn method(mut self, method: Method) -> Self {
        self.method = method;
        self
    }

    /// Sets the path. The default is `/webhooks/botisimo`.
    ///
    /// The path may include a query. If an HTTP client sends the request, the path may be a whole URL.
    pub fn path(mut self, path: impl Into<String>) -> Self {
        self.path = path.into();
        self
    }

    /// Adds a percent-encoded query parameter, for example a secret.
    pub fn query(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.query.push((name.into(), value.into()));
        self
    }

    /// Sets a header, for example `content-type` or the header of a secret.
    ///
    /// # Panics
    ///
    /// Panics if the name or the value isn't valid.
    #[track_caller]
    pub fn header(
        mut self,
        name: impl TryInto<HeaderName>,
        value: impl TryInto<HeaderValue>,
    ) -> Self {
        let (Ok(name), Ok(value)) = (name.try_into(), value.try_into()) else {
            panic!("the name or the value of the header is not valid");
        };
        self.headers.insert(name, value);
        self
    }

    /// Returns the body.
    #[must_use]
    pub fn body_bytes(&self) -> Bytes {
        match &self.body {
            MockBody::Envelope(members) => envelope(members),
            MockBody::Raw(body) => body.clone(),
        }
    }

    /// Returns the request. The body of the request may be any type that converts from [`Bytes`], for example axum's
    /// `Body` or `http_body_util::Full`.
    ///
    /// # Panics
    ///
    /// Panics if the path isn't valid.
    #[track_caller]
    pub fn build<B: From<Bytes>>(&self) -> Request<B> {
        let mut uri = self.path.clone();
        if !self.query.is_empty() {
            let query = form_urlencoded::Serializer::new(String::new())
                .extend_pairs(&self.query)
                .finish();
            let separator = match uri.split_once('?') {
                None => "?",
                Some((_, "")) => "",
                Some(_) => "&",
            };
            uri = format!("{uri}{separator}{query}");
        }
        let mut request = Request::new(B::from(self.body_bytes()));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = uri
            .parse()
            .unwrap_or_else(|error| panic!("{:?}: {error}", self.path));
        *request.headers_mut() = self.headers.clone();
        request
    }

    /// Decodes the body to an event, for a direct call of a handler or a router. The event has the
    /// request's `traceparent`.
    ///
    /// # Panics
    ///
    /// Panics if the body isn't an event.
    #[track_caller]
    #[must_use]
    pub fn to_event(&self) -> Event {
        let (body, traceparent) = (self.body_bytes(), Traceparent::of_request(&self.headers));
        Event::received(Box::from(&*body), SystemTime::now(), traceparent)
            .unwrap_or_else(|undecoded| panic!("the body is not an event: {}", undecoded.error))
    }
}

impl fmt::Debug for MockRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = self.body_bytes();
        f.debug_struct("MockRequest")
            .field("method", &self.method)
            .field("path", &self.path)
            .field("query", &self.query)
            .field("headers", &self.headers)
            .field("body", &String::from_utf8_lossy(&body))
            .finish()
    }
}
