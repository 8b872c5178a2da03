use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use maud::Markup;

use super::access::Denied;
use super::body::InspectorBody;
use super::feed::Watcher;

/// Returns a page that runs only its own script and style sheet.
pub(super) fn page(status: StatusCode, nonce: &str, page: Markup) -> Response<InspectorBody> {
    let mut response = plain(status, "text/html; charset=utf-8", page.into_string());
    let policy = format!(
        "default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; img-src data:; connect-src 'self'; \
         form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    );
    if let Ok(policy) = HeaderValue::try_from(policy) {
        response
            .headers_mut()
            .insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    response
}

/// Returns a text without a page.
pub(super) fn text(status: StatusCode, text: impl Into<String>) -> Response<InspectorBody> {
    plain(
        status,
        "text/plain; charset=utf-8",
        format!("{}\n", text.into()),
    )
}

pub(super) fn json(json: String) -> Response<InspectorBody> {
    plain(StatusCode::OK, "application/json", json)
}

pub(super) fn denied(denied: Denied) -> Response<InspectorBody> {
    let mut response = text(denied.status, denied.text);
    if denied.asks {
        let challenge = "Basic realm=\"Botisimo webhooks\", charset=\"UTF-8\"";
        insert(&mut response, header::WWW_AUTHENTICATE, challenge);
    }
    response
}

/// Returns a redirect after a form. `link` is relative, so it works below any path.
pub(super) fn see_other(link: &str) -> Response<InspectorBody> {
    let mut response = text(StatusCode::SEE_OTHER, "the action is done");
    if let Ok(link) = HeaderValue::try_from(link) {
        response.headers_mut().insert(header::LOCATION, link);
    }
    response
}

pub(super) fn feed(watcher: Watcher) -> Response<InspectorBody> {
    let mut response = with_headers(
        StatusCode::OK,
        "text/event-stream",
        InspectorBody::feed(watcher),
    );
    // nginx would hold the messages back.
    insert(
        &mut response,
        HeaderName::from_static("x-accel-buffering"),
        "no",
    );
    response
}

fn plain(status: StatusCode, content_type: &'static str, body: String) -> Response<InspectorBody> {
    with_headers(status, content_type, InspectorBody::page(body))
}

fn with_headers(
    status: StatusCode,
    content_type: &'static str,
    body: InspectorBody,
) -> Response<InspectorBody> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    insert(&mut response, header::CONTENT_TYPE, content_type);
    insert(&mut response, header::CACHE_CONTROL, "no-store");
    insert(&mut response, header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    insert(&mut response, header::X_FRAME_OPTIONS, "DENY");
    // Without a referrer, browsers would send `Origin: null` with a form.
    insert(&mut response, header::REFERRER_POLICY, "same-origin");
    response
}

fn insert(response: &mut Response<InspectorBody>, name: HeaderName, value: &'static str) {
    response
        .headers_mut()
        .insert(name, HeaderValue::from_static(value));
}
