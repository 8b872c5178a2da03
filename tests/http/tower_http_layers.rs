//! Every tower-http layer composes with the receiver, outside it and inside it.

use std::convert::Infallible;
use std::fmt::Debug;
use std::future::{Ready, ready};
use std::task::{Context, Poll};
use std::time::Duration;

use botisimo_webhooks::testing::MockRequest;
use botisimo_webhooks::{Event, EventRouter, SharedSecret, WebhookLayer};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use tower::{Service, ServiceBuilder, ServiceExt};
use tower_http::add_extension::AddExtensionLayer;
use tower_http::auth::AddAuthorizationLayer;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::cors::CorsLayer;
use tower_http::decompression::{DecompressionLayer, RequestDecompressionLayer};
use tower_http::limit::RequestBodyLimitLayer;
use tower_http::map_request_body::MapRequestBodyLayer;
use tower_http::map_response_body::MapResponseBodyLayer;
use tower_http::metrics::InFlightRequestsLayer;
use tower_http::metrics::in_flight_requests::InFlightRequestsCounter;
use tower_http::normalize_path::NormalizePathLayer;
use tower_http::propagate_header::PropagateHeaderLayer;
use tower_http::request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer};
use tower_http::sensitive_headers::SetSensitiveHeadersLayer;
use tower_http::set_header::{SetRequestHeaderLayer, SetResponseHeaderLayer};
use tower_http::set_status::SetStatusLayer;
use tower_http::timeout::{RequestBodyTimeoutLayer, ResponseBodyTimeoutLayer, TimeoutLayer};
use tower_http::trace::TraceLayer;
use tower_http::validate_request::ValidateRequestHeaderLayer;

const SECOND: Duration = Duration::from_secs(1);

/// A service that answers requests with any body type, because layers change the type.
#[derive(Clone)]
struct Site;

impl<B> Service<Request<B>> for Site {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<B>) -> Self::Future {
        ready(Ok(Response::new(Full::from("home"))))
    }
}

fn webhooks() -> WebhookLayer {
    let router = EventRouter::new().on("account.updated", |_: Event| async {});
    WebhookLayer::new("/webhooks/botisimo", router)
        .verify(SharedSecret::in_query("token", "s3cret"))
}

async fn ask<S, B>(service: S, request: Request<Full<Bytes>>) -> (StatusCode, Bytes)
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>, Error: Debug>,
    B: Body<Error: Debug>,
{
    let answer = service.oneshot(request).await.unwrap();
    let status = answer.status();
    (
        status,
        answer.into_body().collect().await.unwrap().to_bytes(),
    )
}

async fn assert_serves<S, B>(service: S)
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>, Error: Debug> + Clone,
    B: Body<Error: Debug>,
{
    let mock = MockRequest::event("account.updated");
    let (status, text) = ask(service.clone(), mock.build()).await;
    assert_eq!(
        (status.as_u16(), &*text),
        (401, &b"the secret is wrong or missing"[..])
    );
    let (status, text) = ask(service.clone(), mock.query("token", "s3cret").build()).await;
    assert_eq!((status.as_u16(), &*text), (200, &b""[..]));
    let (status, text) = ask(service, Request::new(Full::default())).await;
    assert_eq!((status.as_u16(), &*text), (200, &b"home"[..]));
}

macro_rules! layers {
    ($($name:ident: $layer:expr;)*) => {
        $(
            #[tokio::test]
            async fn $name() {
                let builder = ServiceBuilder::new();
                assert_serves(builder.layer($layer).layer(webhooks()).service(Site)).await;
                let builder = ServiceBuilder::new();
                assert_serves(builder.layer(webhooks()).layer($layer).service(Site)).await;
            }
        )*
    };
}

const NAME: HeaderName = HeaderName::from_static("x-test");

fn value() -> HeaderValue {
    HeaderValue::from_static("test")
}

layers! {
    add_authorization: AddAuthorizationLayer::bearer("token");
    add_extension: AddExtensionLayer::new(1);
    catch_panic: CatchPanicLayer::new();
    compression: CompressionLayer::new();
    cors: CorsLayer::permissive();
    decompression: DecompressionLayer::new();
    in_flight_requests: InFlightRequestsLayer::new(InFlightRequestsCounter::new());
    map_request_body: MapRequestBodyLayer::new(Box::pin);
    map_response_body: MapResponseBodyLayer::new(Box::pin);
    normalize_path: NormalizePathLayer::trim_trailing_slash();
    propagate_header: PropagateHeaderLayer::new(NAME);
    propagate_request_id: PropagateRequestIdLayer::new(NAME);
    request_body_limit: RequestBodyLimitLayer::new(1 << 20);
    request_body_timeout: RequestBodyTimeoutLayer::new(SECOND);
    request_decompression: RequestDecompressionLayer::new();
    response_body_timeout: ResponseBodyTimeoutLayer::new(SECOND);
    sensitive_headers: SetSensitiveHeadersLayer::new([header::AUTHORIZATION]);
    set_request_header: SetRequestHeaderLayer::overriding(NAME, value());
    set_request_id: SetRequestIdLayer::new(NAME, MakeRequestUuid);
    set_response_header: SetResponseHeaderLayer::overriding(NAME, value());
    timeout: TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, SECOND);
    trace: TraceLayer::new_for_http();
    validate_request_header: ValidateRequestHeaderLayer::accept("*/*");
}

/// `SetStatus` changes every answer, so this test checks only that the types fit.
#[tokio::test]
async fn set_status() {
    let layer = SetStatusLayer::new(StatusCode::ACCEPTED);
    let outside = ServiceBuilder::new()
        .layer(layer)
        .layer(webhooks())
        .service(Site);
    let inside = ServiceBuilder::new()
        .layer(webhooks())
        .layer(layer)
        .service(Site);
    let mock = MockRequest::event("account.updated").query("token", "s3cret");
    assert_eq!(ask(outside, mock.build()).await.0, StatusCode::ACCEPTED);
    assert_eq!(ask(inside, mock.build()).await.0, StatusCode::OK);
}

#[tokio::test]
async fn the_default_response_body_is_empty() {
    struct NoDefault;
    let _ = botisimo_webhooks::ResponseBody::<NoDefault>::default();
    let body = botisimo_webhooks::ResponseBody::<Full<Bytes>>::default();
    assert!(body.is_end_stream());
    assert_eq!(body.size_hint().exact(), Some(0));
    assert!(body.collect().await.unwrap().to_bytes().is_empty());
}
