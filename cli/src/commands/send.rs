use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;
use std::{fs, io};

use botisimo_webhooks::EventType;
use bytes::Bytes;
use futures_util::future::join_all;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::connection::{ConnectionArgs, DEFAULT_URL, Endpoint, Url};
use crate::envelope::{Envelope, now, random_id};
use crate::failure::{Failure, Success};
use crate::http::{Client, Request};
use crate::output::{BAD, FAINT, GOOD, Output, STRONG, duration, styled};
use crate::pace::after;
use crate::results::Results;
use crate::samples::{sample, similar};

/// Sends an event to an endpoint.
///
/// Without --data, the event has invented sample data. Each event has a new message id and the current time.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  botisimo send connection.stream.started
  botisimo send account.updated --set data.name=grace --to https://example.com/webhooks/botisimo
  botisimo send poll.created --times 1000 --rate 200 --concurrency 16
  botisimo send --raw broken.json -H 'content-type: text/plain'")]
pub(crate) struct Args {
    /// Event type, documented or not: see `botisimo types`
    #[arg(required_unless_present = "raw", conflicts_with = "raw")]
    event_type: Option<String>,
    /// URL of the endpoint
    #[arg(long, value_name = "URL", default_value = DEFAULT_URL)]
    to: Url,
    /// Data of the event: JSON, @FILE, or - for stdin
    #[arg(long, value_name = "JSON", conflicts_with = "raw")]
    data: Option<String>,
    /// Member to set, for example data.title="Any%". A value that isn't JSON is a string
    #[arg(long, value_name = "PATH=VALUE", conflicts_with = "raw")]
    set: Vec<String>,
    /// Message id of every event [default: a new one for each event]
    #[arg(long, conflicts_with = "raw")]
    id: Option<String>,
    /// Time of the event: milliseconds since 1970, or RFC 3339 [default: now]
    #[arg(long, value_name = "TIME", conflicts_with = "raw", value_parser = timestamp)]
    timestamp: Option<i64>,
    /// File whose bytes are the body, or - for stdin
    #[arg(long, value_name = "FILE")]
    raw: Option<String>,
    /// Method of the request
    #[arg(long, default_value = "POST")]
    method: Method,
    /// Number of events to send
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u64).range(1..))]
    times: u64,
    /// Maximum events per second [default: no limit]
    #[arg(long, value_parser = rate)]
    rate: Option<f64>,
    /// Maximum requests that wait for an answer
    #[arg(long, value_name = "C", default_value = "1", value_parser = clap::value_parser!(u16).range(1..=1024))]
    concurrency: u16,
    #[command(flatten)]
    connection: ConnectionArgs,
}

pub(super) fn timestamp(text: &str) -> Result<i64, String> {
    if let Ok(millis) = text.parse() {
        return Ok(millis);
    }
    let time = humantime::parse_rfc3339_weak(text)
        .map_err(|_| "expected milliseconds since 1970 or 2023-01-23T16:06:39Z".to_owned())?;
    let since = time.duration_since(std::time::UNIX_EPOCH);
    let since = since.map_err(|_| "the time is before 1970".to_owned())?;
    i64::try_from(since.as_millis()).map_err(|_| "the time is too late".to_owned())
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate.is_finite() && rate > 0.0 => Ok(rate),
        _ => Err("a rate is a number above 0, in events per second".to_owned()),
    }
}

pub(super) async fn run(args: &Args, output: &Output) -> Result<Success, Failure> {
    let endpoint = args.connection.endpoint(&args.to)?;
    let client = args.connection.client()?;
    if let Some(name) = &args.event_type {
        warn_of_unknown(name, output);
    }
    let events = Events::new(args)?;
    if args.times == 1 {
        send_one(&client, &endpoint, &args.method, &events, output).await
    } else {
        send_many(&client, &endpoint, args, &events, output).await
    }
}

fn warn_of_unknown(name: &str, output: &Output) {
    if !matches!(EventType::from(name), EventType::Undocumented(_)) {
        return;
    }
    let hint = match similar(name) {
        Some(similar) => format!("did you mean {similar}?"),
        None => "`botisimo types` lists the documented types".to_owned(),
    };
    output.warning(format_args!("{name} isn't a documented event type: {hint}"));
}

/// The bodies to send.
enum Events {
    Raw(Bytes),
    Envelopes {
        template: Envelope,
        fixed_id: bool,
        fixed_time: bool,
        random: Mutex<fastrand::Rng>,
    },
}

impl Events {
    fn new(args: &Args) -> Result<Self, Failure> {
        if let Some(raw) = &args.raw {
            return Ok(Self::Raw(Bytes::from(read(raw)?)));
        }
        let event_type = EventType::from(args.event_type.as_deref().unwrap_or_default());
        let data = match &args.data {
            Some(data) => parse_data(data)?,
            None => sample(&event_type),
        };
        let mut random = fastrand::Rng::new();
        let id = match &args.id {
            Some(id) => id.clone(),
            None => random_id(&mut random),
        };
        let time = args.timestamp.unwrap_or_else(now);
        let mut template = Envelope::new(&id, time, event_type.as_str(), data);
        let (mut fixed_id, mut fixed_time) = (args.id.is_some(), args.timestamp.is_some());
        for assignment in &args.set {
            let (path, value) = assignment.split_once('=').ok_or_else(|| {
                Failure::usage(format_args!(
                    "--set {assignment} needs a value: {assignment}=VALUE"
                ))
            })?;
            let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
            template
                .set(path, value)
                .map_err(|error| Failure::usage(format_args!("--set {error}")))?;
            fixed_id |= path == "messageId";
            fixed_time |= path == "timestamp";
        }
        Ok(Self::Envelopes {
            template,
            fixed_id,
            fixed_time,
            random: Mutex::new(random),
        })
    }

    /// Returns the body of the next event.
    fn next(&self) -> Bytes {
        let (template, random) = match self {
            Self::Raw(body) => return body.clone(),
            Self::Envelopes {
                template, random, ..
            } => (template, random),
        };
        let mut envelope = template.clone();
        if !self.has_fixed_id() {
            let mut random = random.lock().unwrap_or_else(PoisonError::into_inner);
            envelope.set_id(&random_id(&mut random));
        }
        if !self.has_fixed_time() {
            envelope.set_timestamp(now());
        }
        envelope.to_bytes()
    }

    fn has_fixed_id(&self) -> bool {
        matches!(self, Self::Envelopes { fixed_id: true, .. })
    }

    fn has_fixed_time(&self) -> bool {
        matches!(
            self,
            Self::Envelopes {
                fixed_time: true,
                ..
            }
        )
    }
}

fn parse_data(text: &str) -> Result<Value, Failure> {
    let (source, json) = match text.strip_prefix('@') {
        Some(path) => (path, read(path)?),
        None if text == "-" => ("stdin", read("-")?),
        None => ("--data", text.as_bytes().to_vec()),
    };
    serde_json::from_slice(&json)
        .map_err(|error| Failure::usage(format_args!("the data of {source} isn't JSON: {error}")))
}

fn read(path: &str) -> Result<Vec<u8>, Failure> {
    let bytes = match path {
        "-" => {
            let mut bytes = Vec::new();
            io::stdin().read_to_end(&mut bytes).map(|_| bytes)
        }
        path => fs::read(Path::new(path)),
    };
    bytes.map_err(|error| Failure::usage(format_args!("can't read {path}: {error}")))
}

fn request(endpoint: &Endpoint, method: &Method, body: Bytes) -> Request {
    Request {
        method: method.clone(),
        uri: endpoint.uri.clone(),
        headers: endpoint.headers.clone(),
        body,
    }
}

async fn send_one(
    client: &Client,
    endpoint: &Endpoint,
    method: &Method,
    events: &Events,
    output: &Output,
) -> Result<Success, Failure> {
    let body = events.next();
    let (id, event_type) = head(&body);
    let answer = client.send(request(endpoint, method, body)).await;
    let answer = answer.map_err(Failure::unavailable)?;
    let style = if answer.status.is_success() {
        GOOD
    } else {
        BAD
    };
    output.line(format_args!("{method} {}", endpoint.shown));
    if let (Some(id), Some(event_type)) = (&id, &event_type) {
        output.line(format_args!(
            "{} {}",
            styled(STRONG, event_type),
            styled(FAINT, id)
        ));
    }
    let took = styled(FAINT, format_args!("in {}", duration(answer.took)));
    let text = match answer.text() {
        text if text.is_empty() => text,
        text => format!(" {text}"),
    };
    output.line(format_args!(
        "{}{text} {took}",
        styled(style, answer.status)
    ));
    if let Some(hint) = hint(answer.status, endpoint) {
        output.line(styled(FAINT, hint));
    }
    output.json(&json!({
        "url": endpoint.shown,
        "message_id": id,
        "event_type": event_type,
        "status": answer.status.as_u16(),
        "text": answer.text(),
        "took_ms": answer.took.as_secs_f64() * 1e3,
    }));
    Ok(Success::when(answer.status.is_success()))
}

/// Returns the message id and the event type of a body, if it is an envelope.
fn head(body: &[u8]) -> (Option<String>, Option<String>) {
    let envelope: Value = serde_json::from_slice(body).unwrap_or_default();
    let member = |name: &str| {
        envelope
            .get(name)
            .and_then(Value::as_str)
            .map(str::to_owned)
    };
    (member("messageId"), member("eventType"))
}

/// Says what to do after an answer that isn't 2xx.
pub(crate) fn hint(status: StatusCode, endpoint: &Endpoint) -> Option<&'static str> {
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if endpoint.secret.is_none() => Some(
            "The request had no secret: set BOTISIMO_SECRET, or pass --secret-env or --secret-file.",
        ),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Some(
            "The endpoint refused the secret: check its value, --secret-parameter and --secret-header.",
        ),
        StatusCode::NOT_FOUND => Some("Nothing answers at this path: check the path of the URL."),
        status if status.is_redirection() => Some(
            "The sender doesn't follow redirects: register the URL that the endpoint redirects to.",
        ),
        _ => None,
    }
}

async fn send_many(
    client: &Client,
    endpoint: &Endpoint,
    args: &Args,
    events: &Events,
    output: &Output,
) -> Result<Success, Failure> {
    let progress = output.progress(args.times, "events");
    let results = Mutex::new(Results::default());
    let start = Instant::now();
    let next = AtomicU64::new(0);
    let sending = join_all((0..args.concurrency).map(|_| async {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= args.times {
                break;
            }
            if let Some(rate) = args.rate {
                tokio::time::sleep_until(after(start, number as f64 / rate)).await;
            }
            let result = client
                .send(request(endpoint, &args.method, events.next()))
                .await;
            results
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .add(&result);
            progress.inc(1);
        }
    }));
    tokio::select! {
        _ = sending => {}
        _ = tokio::signal::ctrl_c() => output.warning("stopped before all events were sent"),
    }
    let took = start.elapsed();
    progress.finish_and_clear();
    let results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.report(&endpoint.shown, took, output);
    if results.answered() == 0 {
        return Err(Failure::unavailable(
            results.error().unwrap_or("no request was answered"),
        ));
    }
    let per_second = results.sent() as f64 / took.as_secs_f64();
    if let Some(rate) = args.rate
        && per_second < rate * 0.9
    {
        output.warning(format_args!(
            "the rate was {per_second:.0} per second instead of {rate}: raise --concurrency, or the endpoint is slower than that"
        ));
    }
    Ok(Success::when(
        results.all_accepted() && results.sent() == args.times,
    ))
}
