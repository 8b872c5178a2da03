//! If an answer ends its connection, the receiver sends `connection: close`.

use std::convert::Infallible;

use botisimo_webhooks::{Endpoint, EventRouter};
use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response, StatusCode, Version, header};
use http_body::{Body, Frame};
use http_body_util::{Full, StreamBody};
use tower::ServiceExt;

/// Returns a body of `chunks` chunks of 16 KiB, without a declared length.
fn chunked(chunks: usize) -> impl Body<Data = Bytes, Error = Infallible> + Send + 'static {
    let chunk = Bytes::from_static(&[b' '; 16 << 10]);
    StreamBody::new(stream::iter(
        (0..chunks).map(move |_| Ok(Frame::data(chunk.clone()))),
    ))
}

async fn send<B>(request: Request<B>) -> Response<()>
where
    B: Body<Data = Bytes, Error = Infallible> + Send + 'static,
{
    let endpoint = Endpoint::new(EventRouter::new());
    let response = endpoint.oneshot(request).await;
    response.unwrap_or_else(|never| match never {}).map(drop)
}

fn closes(response: &Response<()>) -> bool {
    response
        .headers()
        .get(header::CONNECTION)
        .is_some_and(|value| value == "close")
}

/// The bug: after a 413 or a 415, the client reused the kept-alive connection. The server then closed the
/// connection during the next event.
#[tokio::test]
async fn a_body_that_is_not_read_to_its_end_closes_the_connection() {
    let wrong_type = Request::post("/").header(header::CONTENT_TYPE, "text/plain");
    let response = send(wrong_type.body(chunked(200)).expect("a request")).await;
    assert_eq!(response.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert!(closes(&response));

    let response = send(Request::post("/").body(chunked(200)).expect("a request")).await;
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert!(closes(&response));
}

#[tokio::test]
async fn the_connection_of_a_client_that_received_no_100_is_closed() {
    let waits = Request::put("/").header(header::EXPECT, "100-continue");
    let response = send(waits.body(chunked(1)).expect("a request")).await;
    assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert!(closes(&response));
}

#[tokio::test]
async fn a_body_that_is_read_to_its_end_keeps_the_connection() {
    let wrong_type = Request::post("/").header(header::CONTENT_TYPE, "text/plain");
    let response = send(wrong_type.body(chunked(2)).expect("a request")).await;
    assert_eq!(response.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert!(!closes(&response));

    let no_json = Full::new(Bytes::from_static(b"{"));
    let response = send(Request::post("/").body(no_json).expect("a request")).await;
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    assert!(!closes(&response));

    let response = send(Request::get("/").body(Full::default()).expect("a request")).await;
    assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert!(!closes(&response));
}

/// An HTTP/2 message with a `connection` header is malformed: RFC 9113, 8.2.2.
#[tokio::test]
async fn http_2_answers_have_no_connection_header() {
    let request = Request::put("/").version(Version::HTTP_2);
    let response = send(request.body(chunked(200)).expect("a request")).await;
    assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert!(!closes(&response));
}
