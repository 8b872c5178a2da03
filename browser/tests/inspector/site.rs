//! A server with the inspector, and a proxy in front of a server.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use botisimo_webhooks::testing::MockRequest;
use botisimo_webhooks::{
    Access, DeliverySettings, Event, EventRouter, HandlerError, Inbox, Inspector, MemoryInbox,
    Permission, RetryPolicy,
};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;

/// A server with the inspector at `/admin/webhooks`.
pub(crate) struct Site {
    pub(crate) inbox: MemoryInbox,
    pub(crate) address: SocketAddr,
    /// Whether the route `refresh` handles events. At first, it fails.
    pub(crate) is_fixed: Arc<AtomicBool>,
}

impl Site {
    pub(crate) async fn start() -> Self {
        let is_fixed = Arc::new(AtomicBool::new(false));
        let fixed = Arc::clone(&is_fixed);
        let router = EventRouter::new()
            .on_prefix("connection.stream.started", |_: Event| async {
                tokio::time::sleep(Duration::from_millis(30)).await
            })
            .named("announce")
            .on("account.updated", move |_: Event| async move {
                match fixed.load(Ordering::SeqCst) {
                    true => Ok(()),
                    false => Err(HandlerError::permanent("the account service answered 404")),
                }
            })
            .named("refresh")
            .on("poll.*", |_: Event| async {
                Err::<(), _>("connection refused")
            })
            .on_any(|_: Event| async {})
            .named("audit");
        let retry = RetryPolicy::new()
            .max_attempts(3)
            .max_delay(Duration::from_millis(300))
            .seed(7);
        let inbox = MemoryInbox::builder()
            .delivery(DeliverySettings::new().retry(retry))
            .build(router);
        let inspector = Inspector::new(
            &inbox.handle(),
            Access::from_fn(|_| Permission::operate("ana")),
        );
        let app = Router::new().nest_service("/admin/webhooks", inspector);
        let address = serve(app).await;
        Self {
            inbox,
            address,
            is_fixed,
        }
    }

    pub(crate) fn url(&self, query: &str) -> String {
        format!("http://{}/admin/webhooks{query}", self.address)
    }

    pub(crate) async fn accept(&self, event_type: &str, id: &str) {
        self.accept_event(MockRequest::event(event_type).message_id(id).to_event())
            .await;
    }

    pub(crate) async fn accept_event(&self, event: Event) {
        self.inbox.accept(event).await.unwrap();
        self.idle().await;
    }

    pub(crate) async fn idle(&self) {
        self.inbox.handle().wait_idle().await;
    }

    pub(crate) fn fix(&self) {
        self.is_fixed.store(true, Ordering::SeqCst);
    }

    /// Starts a proxy that replaces the path `/tools/hooks` and the host, and returns the URL of the inspector behind the proxy.
    pub(crate) async fn proxied(&self) -> String {
        let client = Client::builder(TokioExecutor::new()).build_http::<Body>();
        let target = self.address;
        let forward = move |mut request: Request| {
            let client = client.clone();
            async move {
                let query = request.uri().query().unwrap_or_default();
                *request.uri_mut() = format!("http://{target}/admin/webhooks?{query}")
                    .parse()
                    .unwrap();
                request
                    .headers_mut()
                    .insert("host", target.to_string().parse().unwrap());
                let response: Response = client.request(request).await.unwrap().into_response();
                response
            }
        };
        let app = Router::new().route("/tools/hooks/", axum::routing::any(forward));
        format!("http://{}/tools/hooks/", serve(app).await)
    }
}

async fn serve(app: Router) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    address
}
