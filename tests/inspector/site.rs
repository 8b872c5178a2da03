//! An inspector over a memory inbox, and a client that sends requests to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use botisimo_webhooks::testing::MockRequest;
use botisimo_webhooks::{
    Access, DeliverySettings, Event, EventRouter, Handle, HandlerError, Inbox, Inspector,
    InspectorBody, MemoryInbox, Permission, RetryPolicy,
};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use scraper::{Html, Selector};
use tower::ServiceExt;

/// An inspector over an inbox with the routes `announce`, `account.updated` and `audit`.
pub(crate) struct Site {
    pub(crate) inbox: MemoryInbox,
    pub(crate) inspector: Inspector,
    /// Whether the route `account.updated` handles events. At first, it fails.
    pub(crate) is_fixed: Arc<AtomicBool>,
}

/// Lets every client operate.
pub(crate) fn open_access() -> Access {
    Access::from_fn(|_| Permission::operate("ana"))
}

pub(crate) fn router(is_fixed: &Arc<AtomicBool>) -> EventRouter {
    let is_fixed = Arc::clone(is_fixed);
    EventRouter::new()
        .on_prefix("connection.stream.started", |_: Event| async {})
        .named("announce")
        // Skips only the events of a test with a timestamp centuries ago.
        .fresh_within(Duration::from_secs(u32::MAX.into()))
        .on("account.updated", move |event: Event| async move {
            match is_fixed.load(Ordering::SeqCst) {
                true => Ok(()),
                false => Err(HandlerError::permanent(format!(
                    "no account {}",
                    event.raw_data()
                ))),
            }
        })
        .on_any(|_: Event| async {})
        .named("audit")
}

impl Site {
    pub(crate) fn new(access: Access) -> Self {
        let is_fixed = Arc::new(AtomicBool::new(false));
        let retry = RetryPolicy::new().max_attempts(1);
        let inbox = MemoryInbox::builder()
            .delivery(DeliverySettings::new().retry(retry))
            .build(router(&is_fixed));
        Self {
            inspector: Inspector::new(&inbox.handle(), access),
            inbox,
            is_fixed,
        }
    }

    pub(crate) fn handle(&self) -> Handle {
        self.inbox.handle()
    }

    pub(crate) async fn accept(&self, event_type: &str, id: &str) {
        self.accept_event(MockRequest::event(event_type).message_id(id).to_event())
            .await;
    }

    pub(crate) async fn accept_event(&self, event: Event) {
        self.inbox.accept(event).await.unwrap();
        self.handle().wait_idle().await;
    }

    fn client(&self) -> Client {
        Client(self.inspector.clone())
    }

    pub(crate) async fn send(&self, request: Request<Full<Bytes>>) -> Answer {
        self.client().send(request).await
    }

    pub(crate) async fn call(&self, request: Request<Full<Bytes>>) -> Response<InspectorBody> {
        self.client().call(request).await
    }

    pub(crate) async fn get(&self, query: &str) -> Answer {
        self.client().get(query).await
    }

    pub(crate) async fn post(&self, form: &str) -> Answer {
        self.client().post(form).await
    }

    pub(crate) async fn link_of(&self, message_id: &str) -> String {
        self.client().link_of(message_id).await
    }

    /// Returns the number of the event with this id.
    pub(crate) async fn number_of(&self, message_id: &str) -> u64 {
        let link = self.link_of(message_id).await;
        let number = link.strip_prefix("?page=event&event=").unwrap();
        number.parse().unwrap()
    }
}

/// A client of an inspector.
pub(crate) struct Client(pub(crate) Inspector);

impl Client {
    pub(crate) async fn send(&self, request: Request<Full<Bytes>>) -> Answer {
        Answer::of(self.call(request).await).await
    }

    pub(crate) async fn call(&self, request: Request<Full<Bytes>>) -> Response<InspectorBody> {
        self.0.clone().oneshot(request).await.unwrap()
    }

    pub(crate) async fn get(&self, query: &str) -> Answer {
        self.send(get(query)).await
    }

    /// Sends a form as a browser does from a page of the inspector.
    pub(crate) async fn post(&self, form: &str) -> Answer {
        self.send(post(form)).await
    }

    /// Returns the link to the page of the event with this id.
    pub(crate) async fn link_of(&self, message_id: &str) -> String {
        let page = self.get(&format!("?page=events&id={message_id}")).await;
        let link = page.attributes("table a", "href");
        assert_eq!(link.len(), 1, "{message_id}");
        link[0].clone()
    }
}

pub(crate) fn get(query: &str) -> Request<Full<Bytes>> {
    let request = Request::get(format!("/admin{query}")).header("host", "localhost:3000");
    request.body(Full::default()).unwrap()
}

pub(crate) fn post(form: &str) -> Request<Full<Bytes>> {
    Request::post("/admin?")
        .header("host", "localhost:3000")
        .header("content-type", "application/x-www-form-urlencoded")
        .header("sec-fetch-site", "same-origin")
        .body(Full::from(form.to_owned()))
        .unwrap()
}

/// A response whose body has been read.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) async fn of(response: Response<InspectorBody>) -> Self {
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Self {
            status: parts.status,
            headers: parts.headers,
            body: String::from_utf8(body.to_vec()).unwrap(),
        }
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    /// Returns the page, and asserts that it is valid HTML.
    #[track_caller]
    pub(crate) fn html(&self) -> Html {
        assert_eq!(
            self.header("content-type"),
            "text/html; charset=utf-8",
            "{}",
            self.body
        );
        let html = Html::parse_document(&self.body);
        let main = self.body.split_once("<main").map_or("", |(_, main)| main);
        let main = main.split_once("</main>").map_or("", |(main, _)| main);
        assert!(html.errors.is_empty(), "{:?}\n{main}", html.errors);
        html
    }

    /// Returns the text of each element that matches, with single spaces.
    #[track_caller]
    pub(crate) fn texts(&self, selector: &str) -> Vec<String> {
        let html = self.html();
        let selector = Selector::parse(selector).unwrap();
        let texts = html.select(&selector).map(|element| {
            let text: Vec<_> = element.text().collect();
            let text = text.join(" ");
            text.split_whitespace().collect::<Vec<_>>().join(" ")
        });
        texts.collect()
    }

    #[track_caller]
    pub(crate) fn attributes(&self, selector: &str, name: &str) -> Vec<String> {
        let html = self.html();
        let selector = Selector::parse(selector).unwrap();
        let elements = html.select(&selector);
        elements
            .filter_map(|element| element.attr(name))
            .map(str::to_owned)
            .collect()
    }

    /// Returns the text of the page without its navigation.
    #[track_caller]
    pub(crate) fn main(&self) -> String {
        self.texts("main").join(" ")
    }
}

/// Returns the hidden fields of the forms on a page, as a browser sends them.
pub(crate) fn fields(page: &Answer) -> String {
    let names = page.attributes("main form input[type=hidden]", "name");
    let values = page.attributes("main form input[type=hidden]", "value");
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.extend_pairs(names.iter().zip(&values)).finish()
}
