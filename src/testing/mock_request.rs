use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, header};
use serde::Serialize;

use crate::event::{Event, EventType};

/// A webhook request as Botisimo sends it, or wrong on purpose.
///
/// Without further ado it is a good one: `POST /webhooks/botisimo` with an envelope whose
/// `messageId` no other mock of this process has, and whose `data` is `null`. Its clones have the
/// same `messageId`, and so are copies of the event, which an inbox takes once.
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

/// A member of the envelope: its name, and its value as JSON.
#[derive(Clone)]
struct Member {
    name: String,
    value: String,
}

impl MockRequest {
    /// Returns the request of an event of this type.
    pub fn event(event_type: impl Into<EventType>) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(1);
        let id = format!("mock-{}", COUNT.fetch_add(1, Ordering::Relaxed));
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
        // The time of the example in the specification.
        mock.message_id(id)
            .timestamp(1_674_489_999_154)
            .member("eventType", event_type.into())
            .data(())
    }

    /// Sets the `messageId`.
    pub fn message_id(self, id: impl AsRef<str>) -> Self {
        self.member("messageId", id.as_ref())
    }

    /// Sets the `timestamp`, in milliseconds since the Unix epoch.
    pub fn timestamp(self, millis: i64) -> Self {
        self.member("timestamp", millis)
    }

    /// Sets the `data`: anything that serde encodes, such as `json!({…})`.
    ///
    /// # Panics
    ///
    /// If serde_json can't encode it, or the body is set as a whole.
    #[track_caller]
    pub fn data(self, data: impl Serialize) -> Self {
        self.member("data", data)
    }

    /// Sets a member of the envelope, also one that isn't specified, or to a value of the wrong
    /// type.
    ///
    /// # Panics
    ///
    /// If serde_json can't encode the value, or the body is set as a whole.
    #[track_caller]
    pub fn member(mut self, name: &str, value: impl Serialize) -> Self {
        let value = serde_json::to_string(&value);
        let value = value.unwrap_or_else(|error| panic!("{name} can't be encoded: {error}"));
        let members = self.members();
        // In its old place, so that the envelope keeps the order of the specification.
        let place = members.iter().position(|member| member.name == name);
        members.retain(|member| member.name != name);
        let name = name.to_owned();
        members.insert(place.unwrap_or(members.len()), Member { name, value });
        self
    }

    /// Leaves a member of the envelope out.
    ///
    /// # Panics
    ///
    /// If the body is set as a whole.
    #[track_caller]
    pub fn without(mut self, name: &str) -> Self {
        self.members().retain(|member| member.name != name);
        self
    }

    /// Adds a member of the envelope as JSON text, whether there is one of this name or not.
    ///
    /// # Panics
    ///
    /// If the body is set as a whole.
    #[track_caller]
    pub fn twice(mut self, name: &str, value: impl Into<String>) -> Self {
        let (name, value) = (name.to_owned(), value.into());
        self.members().push(Member { name, value });
        self
    }

    #[track_caller]
    fn members(&mut self) -> &mut Vec<Member> {
        match &mut self.body {
            MockBody::Envelope(members) => members,
            MockBody::Raw(_) => panic!("the body is set as a whole: set its members before"),
        }
    }

    /// Sets the whole body, whatever it is; it has no members then.
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = MockBody::Raw(body.into());
        self
    }

    /// Makes the body one that isn't JSON: the envelope less its end.
    pub fn truncated(self) -> Self {
        let body = self.body_bytes();
        let cut = body.slice(..body.len().saturating_sub(1));
        self.body(cut)
    }

    /// Makes the body `bytes` long, by spaces after the envelope, which JSON allows.
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

    /// Sets the path. The default is `/webhooks/botisimo`. A whole URL is fine too, for a client
    /// that sends the request.
    pub fn path(mut self, path: impl Into<String>) -> Self {
        self.path = path.into();
        self
    }

    /// Adds a query parameter, such as the one of a secret. It is encoded as URLs need it.
    pub fn query(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.query.push((name.into(), value.into()));
        self
    }

    /// Sets a header, such as the one of a secret.
    ///
    /// # Panics
    ///
    /// If name or value aren't those of a header.
    #[track_caller]
    pub fn header(
        mut self,
        name: impl TryInto<HeaderName>,
        value: impl TryInto<HeaderValue>,
    ) -> Self {
        let (Ok(name), Ok(value)) = (name.try_into(), value.try_into()) else {
            panic!("not the name or the value of a header");
        };
        self.headers.insert(name, value);
        self
    }

    /// Sets the content type. The default is `application/json`.
    ///
    /// # Panics
    ///
    /// If it can't be the value of a header.
    #[track_caller]
    pub fn content_type(self, value: &str) -> Self {
        self.header(header::CONTENT_TYPE, value)
    }

    /// Leaves a header out.
    ///
    /// # Panics
    ///
    /// If the name isn't that of a header.
    #[track_caller]
    pub fn without_header(mut self, name: impl TryInto<HeaderName>) -> Self {
        let Ok(name) = name.try_into() else {
            panic!("not the name of a header")
        };
        self.headers.remove(name);
        self
    }

    /// Returns the body.
    #[must_use]
    pub fn body_bytes(&self) -> Bytes {
        let members = match &self.body {
            MockBody::Envelope(members) => members,
            MockBody::Raw(body) => return body.clone(),
        };
        let members = members
            .iter()
            .map(|member| format!("{:?}:{}", member.name, member.value));
        Bytes::from(format!("{{{}}}", members.collect::<Vec<_>>().join(",")))
    }

    /// Returns the request, with a body of any type that can be made from [`Bytes`]: axum's `Body`,
    /// `http_body_util::Full`, …
    ///
    /// # Panics
    ///
    /// If the path isn't one.
    #[track_caller]
    pub fn build<B: From<Bytes>>(&self) -> Request<B> {
        let mut uri = self.path.clone();
        if !self.query.is_empty() {
            let query = form_urlencoded::Serializer::new(String::new())
                .extend_pairs(&self.query)
                .finish();
            uri = format!("{uri}?{query}");
        }
        let mut request = Request::new(B::from(self.body_bytes()));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = uri
            .parse()
            .unwrap_or_else(|error| panic!("{:?}: {error}", self.path));
        *request.headers_mut() = self.headers.clone();
        request
    }

    /// Returns the event that the body stands for, to call a handler or a router with.
    ///
    /// # Panics
    ///
    /// If the body is no event.
    #[track_caller]
    #[must_use]
    pub fn to_event(&self) -> Event {
        Event::from_bytes(self.body_bytes())
            .unwrap_or_else(|error| panic!("this mock is no event: {error}"))
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
