//! `botisimo check` against the examples, and against servers that are wrong on purpose.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use botisimo_webhooks::EventType;
use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use serde_json::Value;
use support::{Example, Ran, botisimo, command, ran, stable, transcript};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// Checks an endpoint, and returns the result of each case by its id.
fn results(ran: &Ran) -> BTreeMap<String, Value> {
    let lines = ran.json();
    let cases = lines.into_iter().filter(|line| line.get("id").is_some());
    cases
        .map(|case| (case["id"].as_str().expect("a string").to_owned(), case))
        .collect()
}

fn failed(ran: &Ran, level: &str) -> Vec<String> {
    let results = results(ran);
    let failed = results
        .values()
        .filter(|case| case["result"] == "failed" && case["level"] == level);
    failed
        .map(|case| case["id"].as_str().expect("a string").to_owned())
        .collect()
}

fn check(url: &str, args: &[&str]) -> Ran {
    let limit: &[&str] = match args.contains(&"--stall-limit") {
        true => &[],
        false => &["--stall-limit", "8s"],
    };
    botisimo(&[&["--json", "check", url], limit, args].concat())
}

#[test]
fn the_examples_pass() {
    for name in ["quickstart", "axum", "hyper", "durable", "live_board"] {
        let folder = tempfile::tempdir().expect("a folder");
        let inbox = folder.path().join("inbox.db");
        let board = folder.path().join("board.json");
        let variables = [
            ("BOTISIMO_SECRET", "s3cret"),
            ("INBOX", inbox.to_str().expect("UTF-8")),
            ("BOARD", board.to_str().expect("UTF-8")),
        ];
        let example = Example::start(name, &variables);
        let mut command = command(&["--json", "check", &example.url(), "--load", "200"]);
        let checked = ran(command.env("BOTISIMO_SECRET", "s3cret"));
        assert_eq!(failed(&checked, "must"), [""; 0], "{name}: {checked:?}");
        assert_eq!(failed(&checked, "should"), [""; 0], "{name}: {checked:?}");
        assert_eq!(checked.code(), 0, "{name}: {checked:?}");
        let passed = checked.json().pop().expect("a summary")["passed"].as_u64();
        assert!(passed >= Some(34), "{name}: {checked:?}");
        assert!(
            !format!("{checked:?}").contains("s3cret"),
            "{name}: {checked:?}"
        );
    }
}

#[test]
fn the_example_with_the_inspector_passes() {
    let folder = tempfile::tempdir().expect("a folder");
    let inbox = folder.path().join("inbox.db");
    let inbox = inbox.to_str().expect("UTF-8");
    let variables = [("ADMIN_PASSWORD", "pass"), ("INBOX", inbox)];
    let features = "inspector,metrics,signal,sqlite";
    let example = Example::start_with_features("operate", features, &variables);
    let checked = check(&example.url(), &[]);
    assert_eq!(failed(&checked, "must"), [""; 0], "{checked:?}");
    assert_eq!(checked.code(), 0, "{checked:?}");
}

#[test]
fn a_server_that_only_speaks_http2_passes() {
    let example = Example::start("tonic", &[("BOTISIMO_SECRET", "s3cret")]);
    let mut command = command(&["--json", "check", &example.url(), "--http2"]);
    let checked = ran(command.env("BOTISIMO_SECRET", "s3cret"));
    assert_eq!(failed(&checked, "must"), [""; 0], "{checked:?}");
    assert_eq!(checked.code(), 0, "{checked:?}");
}

/// A wrong endpoint on a free port, which stops with the test.
struct Wrong {
    url: String,
    _runtime: Runtime,
}

impl Wrong {
    fn start(app: Router) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let listener = runtime
            .block_on(TcpListener::bind("127.0.0.1:0"))
            .expect("a port is free");
        let url = format!("http://{}/hook", listener.local_addr().expect("it listens"));
        runtime.spawn(async { axum::serve(listener, app).await });
        Self {
            url,
            _runtime: runtime,
        }
    }
}

/// A correct endpoint in a few lines, which a test can spoil.
async fn correct(headers: &HeaderMap, body: Option<Bytes>) -> Response {
    let text = headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"text/"));
    if text {
        return StatusCode::UNSUPPORTED_MEDIA_TYPE.into_response();
    }
    let Some(body) = body else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    let event: Value = serde_json::from_slice(&body).unwrap_or_default();
    match event["eventType"].as_str() {
        Some(_) => StatusCode::OK.into_response(),
        None => StatusCode::BAD_REQUEST.into_response(),
    }
}

async fn body(request: Request) -> Option<Bytes> {
    axum::body::to_bytes(request.into_body(), 1 << 20)
        .await
        .ok()
}

/// Reads the body within a limit, as a correct endpoint does.
async fn handle(request: Request) -> Response {
    if request.method() != "POST" {
        return (StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, "POST")]).into_response();
    }
    let headers = request.headers().clone();
    match tokio::time::timeout(Duration::from_secs(2), body(request)).await {
        Ok(body) => correct(&headers, body).await,
        Err(_) => StatusCode::REQUEST_TIMEOUT.into_response(),
    }
}

#[test]
fn a_correct_endpoint_of_another_library_passes() {
    let server = Wrong::start(Router::new().route("/hook", any(handle)));
    let checked = check(&server.url, &[]);
    assert_eq!(failed(&checked, "must"), [""; 0], "{checked:?}");
    assert_eq!(failed(&checked, "should"), [""; 0], "{checked:?}");
    assert_eq!(checked.code(), 0, "{checked:?}");
}

#[test]
fn an_endpoint_that_answers_late_fails() {
    let late = async |request: Request| {
        let answer = handle(request).await;
        if answer.status().is_success() {
            tokio::time::sleep(Duration::from_millis(700)).await;
        }
        answer
    };
    let server = Wrong::start(Router::new().route("/hook", any(late)));
    let checked = check(
        &server.url,
        &[
            "--answer-within",
            "500ms",
            "--only",
            "quick-answer,work-after-answer,duplicate",
        ],
    );
    assert_eq!(checked.code(), 1);
    assert_eq!(failed(&checked, "must"), ["quick-answer"], "{checked:?}");
    assert_eq!(
        failed(&checked, "should"),
        ["work-after-answer"],
        "{checked:?}"
    );
    let checked = check(&server.url, &["--only", "quick-answer,work-after-answer"]);
    assert_eq!(
        checked.code(),
        0,
        "only a should fails within the limit: {checked:?}"
    );
    assert_eq!(
        failed(&checked, "should"),
        ["work-after-answer"],
        "{checked:?}"
    );
}

#[test]
fn an_endpoint_that_redirects_fails_and_the_location_is_told() {
    let redirect = async |uri: Uri| {
        (
            StatusCode::PERMANENT_REDIRECT,
            [(header::LOCATION, format!("{}/?token=s3cret", uri.path()))],
        )
    };
    let server = Wrong::start(Router::new().route("/hook", any(redirect)));
    let checked = check(&server.url, &[]);
    assert_eq!(checked.code(), 1);
    assert_eq!(failed(&checked, "must"), ["redirect"], "{checked:?}");
    let got = results(&checked)["redirect"]["got"].to_string();
    assert!(
        got.contains("308 Permanent Redirect to /hook/: register that URL"),
        "{got}"
    );
    assert_eq!(
        results(&checked)["duplicate"]["got"],
        "because `redirect` failed"
    );
    let text = botisimo(&["check", &server.url]).stdout;
    transcript(
        "check.md",
        "redirect",
        &format!(
            "$ botisimo check http://127.0.0.1:3000/hook\n{}",
            stable_prefix(&text.replace(
                server.url.trim_end_matches("/hook"),
                "http://127.0.0.1:3000"
            ))
        ),
    );
}

/// Replaces the prefix of the message ids, which differs from run to run.
fn stable_prefix(text: &str) -> String {
    let prefix = regex::Regex::new("check-[0-9a-f]{8}").expect("valid");
    prefix.replace_all(text, "check-5eed0001").into_owned()
}

#[test]
fn the_transcript_of_the_guide_is_true() {
    let example = Example::start("quickstart", &[("BOTISIMO_SECRET", "s3cret")]);
    let args = [
        "check",
        &example.url(),
        "--only",
        "duplicate,unknown-type,half-body,secret-echo",
    ];
    let checked = ran(command(&args).env("BOTISIMO_SECRET", "s3cret"));
    let text = stable_prefix(&stable(&checked.stdout, &example));
    let call = "botisimo check http://127.0.0.1:3000/webhooks/botisimo --only duplicate,unknown-type,half-body,secret-echo";
    transcript("check.md", "check", &format!("$ {call}\n{text}"));
}

#[test]
fn an_endpoint_that_answers_500_to_unknown_types_fails() {
    let strict = async |request: Request| {
        let (parts, whole) = request.into_parts();
        let whole = body(Request::new(whole)).await;
        let event: Value =
            serde_json::from_slice(whole.as_deref().unwrap_or_default()).unwrap_or_default();
        let event_type = event["eventType"].as_str().map(EventType::from);
        match event_type {
            Some(EventType::Undocumented(_)) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
            _ => correct(&parts.headers, whole).await,
        }
    };
    let server = Wrong::start(Router::new().route("/hook", any(strict)));
    let checked = check(&server.url, &["--skip", "half-body,method-get,method-put"]);
    assert_eq!(checked.code(), 1);
    assert_eq!(failed(&checked, "must"), ["unknown-type"], "{checked:?}");
    assert_eq!(failed(&checked, "should"), [""; 0], "{checked:?}");
}

#[test]
fn an_endpoint_that_echoes_the_secret_fails() {
    let echo = async |State(place): State<&'static str>, uri: Uri, request: Request| {
        let query = uri.query().unwrap_or_default().to_owned();
        if query != "token=s3cret%2F1" {
            return StatusCode::UNAUTHORIZED.into_response();
        }
        let mut answer = handle(request).await;
        if answer.status() == StatusCode::BAD_REQUEST {
            answer = match place {
                "body" => (StatusCode::BAD_REQUEST, "wrong event for s3cret/1").into_response(),
                _ => (StatusCode::BAD_REQUEST, [("x-query", query)]).into_response(),
            };
        }
        answer
    };
    for place in ["body", "header"] {
        let server = Wrong::start(Router::new().route("/hook", any(echo)).with_state(place));
        let args = ["--json", "check", &server.url, "--skip", "half-body"];
        let checked = ran(command(&args).env("BOTISIMO_SECRET", "s3cret/1"));
        assert_eq!(checked.code(), 1);
        assert_eq!(failed(&checked, "must"), ["secret-echo"], "{checked:?}");
        let got = &results(&checked)["secret-echo"]["got"];
        assert!(got.as_str().is_some_and(|got| got.contains(place)), "{got}");
    }
}

#[test]
fn an_endpoint_that_ignores_its_secret_fails() {
    let server = Wrong::start(Router::new().route("/hook", any(handle)));
    let args = ["--json", "check", &server.url, "--only", "secret"];
    let checked = ran(command(&args).env("BOTISIMO_SECRET", "s3cret"));
    assert_eq!(failed(&checked, "must"), ["secret"], "{checked:?}");
}

#[test]
fn an_endpoint_that_hangs_on_half_a_body_fails() {
    let hang = async |request: Request| {
        let headers = request.headers().clone();
        correct(&headers, body(request).await).await
    };
    let server = Wrong::start(Router::new().route("/hook", any(hang)));
    let checked = check(
        &server.url,
        &["--only", "half-body,aborted-body", "--stall-limit", "500ms"],
    );
    assert_eq!(checked.code(), 1);
    assert_eq!(failed(&checked, "must"), ["half-body"], "{checked:?}");
}

#[test]
fn an_endpoint_that_serves_one_request_at_a_time_fails_while_a_body_stalls() {
    let lock = Arc::new(tokio::sync::Mutex::new(()));
    let single = async |State(lock): State<Arc<tokio::sync::Mutex<()>>>, request: Request| {
        let _guard = lock.lock().await;
        handle(request).await
    };
    let server = Wrong::start(Router::new().route("/hook", any(single)).with_state(lock));
    let checked = check(
        &server.url,
        &[
            "--only",
            "half-body",
            "--timeout",
            "1s",
            "--answer-within",
            "1s",
        ],
    );
    assert_eq!(failed(&checked, "must"), ["half-body"], "{checked:?}");
    let got = &results(&checked)["half-body"]["got"];
    assert!(
        got.as_str()
            .is_some_and(|got| got.contains("another event meanwhile")),
        "{got}"
    );
}

#[test]
fn an_endpoint_that_refuses_copies_fails() {
    let seen = Arc::new(std::sync::Mutex::new(std::collections::HashSet::new()));
    let unique =
        async |State(seen): State<Arc<std::sync::Mutex<std::collections::HashSet<String>>>>,
               request: Request| {
            let headers = request.headers().clone();
            let whole = body(request).await;
            let event: Value =
                serde_json::from_slice(whole.as_deref().unwrap_or_default()).unwrap_or_default();
            let id = event["messageId"].as_str().unwrap_or_default().to_owned();
            let is_new = id.is_empty() || seen.lock().expect("no handler panics").insert(id);
            match is_new {
                true => correct(&headers, whole).await,
                false => StatusCode::CONFLICT.into_response(),
            }
        };
    let server = Wrong::start(Router::new().route("/hook", any(unique)).with_state(seen));
    let checked = check(&server.url, &["--skip", "half-body,method-get,method-put"]);
    assert_eq!(
        failed(&checked, "must"),
        ["concurrent-duplicates", "duplicate"],
        "{checked:?}"
    );
}

#[test]
fn an_endpoint_that_fails_under_load_fails_and_503_with_retry_after_passes() {
    for (retry_after, expected) in [(true, 0), (false, 1)] {
        let busy = async move |request: Request| {
            let answer = handle(request).await;
            match fastrand::u8(..4) {
                0 if retry_after => (
                    StatusCode::SERVICE_UNAVAILABLE,
                    [(header::RETRY_AFTER, "1")],
                )
                    .into_response(),
                0 => StatusCode::SERVICE_UNAVAILABLE.into_response(),
                _ => answer,
            }
        };
        let calm = Arc::new(std::sync::atomic::AtomicU32::new(0));
        let app = async move |State(count): State<Arc<std::sync::atomic::AtomicU32>>,
                              request: Request| {
            // The first events, before the load, are accepted.
            match count.fetch_add(1, std::sync::atomic::Ordering::Relaxed) < 2 {
                true => handle(request).await,
                false => busy(request).await,
            }
        };
        let server = Wrong::start(Router::new().route("/hook", any(app)).with_state(calm));
        let checked = check(
            &server.url,
            &["--only", "load", "--load", "200", "--concurrency", "4"],
        );
        assert_eq!(checked.code(), expected, "{checked:?}");
        let load = results(&checked)["load"]["got"].to_string();
        assert!(load.contains("of 200 accepted"), "{load}");
    }
}

#[test]
fn an_endpoint_that_announces_the_end_of_each_connection_passes() {
    let app = async |request: Request| ([(header::CONNECTION, "close")], handle(request).await);
    let server = Wrong::start(Router::new().route("/hook", any(app)));
    let checked = check(
        &server.url,
        &[
            "--only",
            "keep-alive,load",
            "--load",
            "20",
            "--concurrency",
            "2",
        ],
    );
    assert_eq!(checked.code(), 0, "{checked:?}");
    assert_eq!(results(&checked)["load"]["result"], "passed");
    assert_eq!(results(&checked)["keep-alive"]["result"], "skipped");
}

#[test]
fn a_secret_in_the_url_is_the_secret() {
    let example = Example::start("quickstart", &[("BOTISIMO_SECRET", "s3cret")]);
    let url = format!("{}?token=s3cret", example.url());
    let checked = check(&url, &["--only", "secret,secret-echo"]);
    assert_eq!(checked.code(), 0, "{checked:?}");
    for case in ["secret", "secret-echo"] {
        assert_eq!(results(&checked)[case]["result"], "passed", "{checked:?}");
    }
    assert!(!format!("{checked:?}").contains("s3cret"), "{checked:?}");
}

#[test]
fn a_port_without_a_server_fails_to_connect() {
    let checked = check("http://127.0.0.1:1/hook", &[]);
    assert_eq!(checked.code(), 1);
    assert_eq!(failed(&checked, "must"), ["connect"], "{checked:?}");
}

/// Serves HTTPS with this certificate, and returns the URL.
fn serve_tls(runtime: &Runtime, params: &CertificateParams, alpn: &[&[u8]]) -> (String, String) {
    let key = KeyPair::generate().expect("a key");
    let certificate = params.self_signed(&key).expect("a certificate");
    let chain = vec![certificate.der().clone()];
    let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the default versions")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("the key fits");
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = runtime
        .block_on(TcpListener::bind("127.0.0.1:0"))
        .expect("a port is free");
    let port = listener.local_addr().expect("it listens").port();
    let app = Router::new().route("/hook", any(handle));
    runtime.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, app) = (acceptor.clone(), app.clone());
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else {
                    return;
                };
                let service = hyper_util::service::TowerToHyperService::new(app);
                let builder = hyper_util::server::conn::auto::Builder::new(
                    hyper_util::rt::TokioExecutor::new(),
                );
                let _ = builder
                    .serve_connection(hyper_util::rt::TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    (format!("https://localhost:{port}/hook"), certificate.pem())
}

fn params(name: &str) -> CertificateParams {
    CertificateParams::new(vec![name.to_owned()]).expect("a name")
}

#[test]
fn problems_of_certificates_are_told_plainly() {
    let runtime = Runtime::new().expect("a runtime");
    let folder = tempfile::tempdir().expect("a folder");
    let mut expired = params("localhost");
    expired.not_before = date_time_ymd(2020, 1, 1);
    expired.not_after = date_time_ymd(2021, 1, 1);
    let mut early = params("localhost");
    early.not_before = date_time_ymd(3000, 1, 1);
    early.not_after = date_time_ymd(3001, 1, 1);
    let cases = [
        (params("localhost"), false, "unknown issuer"),
        (expired, true, "has expired"),
        (early, true, "isn't valid yet"),
        (params("other.example"), true, "is for another name"),
    ];
    for (params, is_trusted, expected) in cases {
        let (url, pem) = serve_tls(&runtime, &params, &[]);
        let file = folder.path().join("ca.pem");
        fs::write(&file, pem).expect("the file can be written");
        let trusted = ["--ca-file", file.to_str().expect("UTF-8")];
        let checked = check(&url, if is_trusted { &trusted } else { &[] });
        assert_eq!(checked.code(), 1, "{checked:?}");
        assert_eq!(failed(&checked, "must"), ["connect"], "{checked:?}");
        let got = results(&checked)["connect"]["got"].to_string();
        assert!(got.contains(expected), "{expected}: {got}");
    }
}

#[test]
fn https_with_a_trusted_certificate_passes_and_http2_must_be_offered() {
    let runtime = Runtime::new().expect("a runtime");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("ca.pem");
    for (alpn, expected) in [
        (&[&b"h2"[..], b"http/1.1"][..], "passed"),
        (&[b"http/1.1"], "failed"),
    ] {
        let (url, pem) = serve_tls(&runtime, &params("localhost"), alpn);
        fs::write(&file, pem).expect("the file can be written");
        let checked = check(
            &url,
            &[
                "--ca-file",
                file.to_str().expect("UTF-8"),
                "--skip",
                "half-body",
            ],
        );
        assert_eq!(failed(&checked, "must"), [""; 0], "{checked:?}");
        assert_eq!(checked.code(), 0, "{checked:?}");
        assert_eq!(results(&checked)["https"]["result"], "passed");
        assert_eq!(
            results(&checked)["http2"]["result"],
            expected,
            "{checked:?}"
        );
    }
}

#[test]
fn the_list_names_every_case_and_an_unknown_id_is_an_error() {
    let list = botisimo(&["--json", "check", "--list"]);
    assert!(list.json().len() >= 35, "{list:?}");
    let text = botisimo(&["check", "--list"]).stdout;
    for case in list.json() {
        let why = case["why"].as_str().expect("a string");
        assert!(text.contains(why), "{why}: {text}");
    }
    let wrong = botisimo(&["check", "http://127.0.0.1:1/", "--only", "duplicates"]);
    assert_eq!(wrong.code(), 2);
    assert!(wrong.stderr.contains("check --list"), "{wrong:?}");
}
