mod folder;
mod known;
mod recorder;
mod scrub;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};

use crate::connection::{ConnectionArgs, Url, read_secret};
use crate::failure::{Failure, Success};
use crate::output::{BAD, FAINT, GOOD, Output, STRONG, styled};
use folder::Folder;
use recorder::{Recorded, Recorder};
use scrub::Scrubber;

/// The maximum size of a body, in bytes.
const MAX_BODY: usize = 16 << 20;

/// The time for requests in flight after Ctrl-C.
const GRACE: Duration = Duration::from_secs(10);

/// Receives deliveries, stores each as a file, and forwards them.
///
/// Listens for any path. The query and the headers `authorization`, `cookie` and `set-cookie` are never stored, because
/// they carry secrets. If an answer repeats a value of the query, the value is replaced. With --forward, the answer comes from the endpoint. If a file can't be written, the answer is 503.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  botisimo record --to deliveries
  botisimo record --to deliveries --forward http://127.0.0.1:3000/webhooks/botisimo --scrub default
  botisimo record --to deliveries --scrub rules.toml --scrub-key-file key --count 10
  botisimo record --show-rules > rules.toml")]
pub(crate) struct Args {
    /// Folder of the files. Created if it doesn't exist
    #[arg(long, value_name = "DIR", required_unless_present = "show_rules")]
    to: Option<PathBuf>,
    /// URL of the endpoint that gets each delivery. Without a query, the URL gets the received query
    #[arg(long, value_name = "URL")]
    forward: Option<Url>,
    /// Address to listen on. Port 0 chooses a free port
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:3001")]
    listen: SocketAddr,
    /// Status of the answers without --forward
    #[arg(
        long,
        value_name = "STATUS",
        default_value = "200",
        conflicts_with = "forward"
    )]
    answer: StatusCode,
    /// Replace names, ids, e-mail addresses and secrets by stand-ins: a TOML file with rules, or `default`
    #[arg(long, value_name = "RULES")]
    scrub: Option<String>,
    /// File with a key that makes the same stand-ins in every run. Keep it apart from the recordings [default: a new key for each run]
    #[arg(long, value_name = "FILE", requires = "scrub")]
    scrub_key_file: Option<PathBuf>,
    /// Print the default rules as TOML
    #[arg(long)]
    show_rules: bool,
    /// Stop after this number of deliveries
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    #[command(flatten)]
    connection: ConnectionArgs,
}

pub(super) async fn run(args: &Args, output: &Output) -> Result<Success, Failure> {
    let Some(folder) = args.to.as_ref().filter(|_| !args.show_rules) else {
        output.line(scrub::DEFAULT.trim_end());
        output.json(&json!({ "rules": scrub::DEFAULT }));
        return Ok(Success::Good);
    };
    let recorder = recorder(args, folder)?;
    let listener = TcpListener::bind(args.listen).await.map_err(|error| {
        Failure::unavailable(format_args!(
            "can't listen on {}: {error}; choose another address with --listen",
            args.listen
        ))
    })?;
    let address = listener.local_addr().map_err(Failure::unavailable)?;
    output.line(format_args!(
        "Listening on http://{address}. Stop with Ctrl-C.\n"
    ));
    output.json(&json!({ "listening": format!("http://{address}") }));
    let (sender, mut recorded) = mpsc::channel::<Recorded>(64);
    let enough = Arc::new(Notify::new());
    let stop = {
        let enough = Arc::clone(&enough);
        async move {
            tokio::select! {
                () = stopped() => {}
                () = enough.notified() => {}
            }
        }
    };
    // The channel closes after the last answer.
    tokio::spawn(serve(listener, Arc::new(recorder), sender, stop));
    let (mut count, mut failed) = (0, 0);
    while let Some(recorded) = recorded.recv().await {
        count += 1;
        failed += u64::from(recorded.file.is_err());
        report(&recorded, output);
        if args.count.is_some_and(|limit| count >= limit) {
            enough.notify_one();
        }
    }
    let stored = count - failed;
    let deliveries = if stored == 1 {
        "delivery"
    } else {
        "deliveries"
    };
    output.line(format_args!(
        "\n{stored} {deliveries} stored in {}",
        folder.display()
    ));
    Ok(Success::when(failed == 0))
}

fn recorder(args: &Args, folder: &std::path::Path) -> Result<Recorder, Failure> {
    let key = args
        .scrub_key_file
        .as_deref()
        .map(read_secret)
        .transpose()?;
    if key.as_ref().is_some_and(|key| key.len() < 16) {
        return Err(Failure::usage(
            "the key of the stand-ins is shorter than 16 bytes: others could guess it",
        ));
    }
    let scrubber = args
        .scrub
        .as_deref()
        .map(|rules| Scrubber::load(rules, key.as_deref()));
    let scrubber = scrubber.transpose()?;
    let forward = match &args.forward {
        Some(url) => Some((args.connection.client()?, args.connection.endpoint(url)?)),
        None => None,
    };
    let in_url = forward
        .as_ref()
        .and_then(|(_, endpoint)| endpoint.secret.clone());
    let secret = args.connection.secret()?.or(in_url);
    if let (Some(scrubber), Some(secret)) = (&scrubber, &secret) {
        scrubber.forbid(secret);
    }
    Ok(Recorder {
        folder: Arc::new(Folder::open(folder)?),
        scrubber,
        forward,
        status: args.answer,
        secret,
        secret_header: args.connection.secret_header(),
    })
}

/// Ends on Ctrl-C and on SIGTERM.
async fn stopped() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
            return;
        }
    }
    let _ = tokio::signal::ctrl_c().await;
}

async fn serve(
    listener: TcpListener,
    recorder: Arc<Recorder>,
    recorded: mpsc::Sender<Recorded>,
    stop: impl Future<Output = ()>,
) {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(30));
    let graceful = GracefulShutdown::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(_) => {
                    // For example, the process has too many open files.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
            () = &mut stop => break,
        };
        let (recorder, recorded) = (Arc::clone(&recorder), recorded.clone());
        let service = service_fn(move |request: http::Request<Incoming>| {
            let (recorder, recorded) = (Arc::clone(&recorder), recorded.clone());
            async move { Ok::<_, Infallible>(answer(recorder, recorded, request).await) }
        });
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        let connection = graceful.watch(connection.into_owned());
        tokio::spawn(async move {
            let _ = connection.await;
        });
    }
    drop(listener);
    let _ = tokio::time::timeout(GRACE, graceful.shutdown()).await;
}

async fn answer(
    recorder: Arc<Recorder>,
    recorded: mpsc::Sender<Recorded>,
    request: http::Request<Incoming>,
) -> Response<Full<Bytes>> {
    let (parts, body) = request.into_parts();
    let body = match Limited::new(body, MAX_BODY).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => {
            let is_large = error.is::<http_body_util::LengthLimitError>();
            let (status, text) = match is_large {
                true => (
                    StatusCode::PAYLOAD_TOO_LARGE,
                    "the body is larger than 16 MiB\n",
                ),
                false => (StatusCode::BAD_REQUEST, "the body is incomplete\n"),
            };
            let mut response = Response::new(Full::new(Bytes::from(text)));
            *response.status_mut() = status;
            return response;
        }
    };
    // A task of its own stores the delivery even if the client disconnects before the answer.
    let recording = tokio::spawn(async move {
        let mut result = recorder.record(parts, body).await;
        let response = std::mem::take(&mut result.response);
        // `send` doesn't fail, because the receiver outlives all senders.
        let _ = recorded.send(result).await;
        response
    });
    recording.await.unwrap_or_else(|_| {
        let mut response = Response::new(Full::new(Bytes::from_static(b"the recorder failed\n")));
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        response
    })
}

fn report(recorded: &Recorded, output: &Output) {
    let (event_type, id) = &recorded.event;
    let style = if (200..300).contains(&recorded.status) {
        GOOD
    } else {
        BAD
    };
    let file = match &recorded.file {
        Ok(file) => file.clone(),
        Err(error) => {
            output.warning(format_args!("a delivery isn't stored: {error}"));
            "not stored".to_owned()
        }
    };
    output.line(format_args!(
        "{} {} {}",
        styled(style, recorded.status),
        styled(STRONG, &file),
        styled(FAINT, crate::text::visible(id)),
    ));
    if let Some(error) = &recorded.error {
        output.warning(format_args!("the endpoint gave no answer: {error}"));
    }
    if let Some(omitted) = &recorded.omitted {
        output.warning(format_args!("{file} has no body: {omitted}"));
    }
    output.json(&json!({
        "file": recorded.file.as_ref().ok(),
        "event_type": event_type,
        "message_id": id,
        "status": recorded.status,
        "error": recorded.error,
    }));
}
