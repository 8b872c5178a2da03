use std::path::PathBuf;
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use std::{fs, str};

use botisimo_webhooks::testing::MockRequest;
use bytes::Bytes;
use serde_json::{Value, json};

use crate::connection::{ConnectionArgs, DEFAULT_URL, Endpoint, Url};
use crate::envelope::random_id;
use crate::failure::{Failure, Success};
use crate::http::Request;
use crate::output::Output;
use crate::pace::after;
use crate::recording::{Recording, files};
use crate::results::Results;

/// Sends recorded deliveries again, in the order of their arrival.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  botisimo replay deliveries
  botisimo replay deliveries --to https://example.com/webhooks/botisimo --speed 10
  botisimo replay deliveries --speed max --new-ids --now")]
pub(crate) struct Args {
    /// Folder of `botisimo record`, or one file
    path: PathBuf,
    /// URL of the endpoint
    #[arg(long, value_name = "URL", default_value = DEFAULT_URL)]
    to: Url,
    /// Factor of the old pace, or `max` for no pauses
    #[arg(long, value_name = "FACTOR", default_value = "1", value_parser = speed)]
    speed: Speed,
    /// Give each event a new message id, so that no inbox takes it for a duplicate
    #[arg(long)]
    new_ids: bool,
    /// Move the timestamps, so that each event is as old as it was when it arrived
    #[arg(long)]
    now: bool,
    #[command(flatten)]
    connection: ConnectionArgs,
}

#[derive(Clone, Copy, Debug)]
enum Speed {
    Factor(f64),
    Max,
}

fn speed(text: &str) -> Result<Speed, String> {
    match (text, text.parse::<f64>()) {
        ("max", _) => Ok(Speed::Max),
        (_, Ok(factor)) if factor.is_finite() && factor > 0.0 => Ok(Speed::Factor(factor)),
        _ => Err("a speed is a number above 0, or `max`".to_owned()),
    }
}

#[derive(serde::Deserialize)]
struct RecordingHead {
    version: u32,
}

/// A recording, and its request.
struct RecordedDelivery {
    request: MockRequest,
    received_at: SystemTime,
    status: u16,
}

pub(super) async fn run(args: &Args, output: &Output) -> Result<Success, Failure> {
    let endpoint = args.connection.endpoint(&args.to)?;
    let client = args.connection.client()?;
    // All files are read first, so that nothing is sent if one of them is broken.
    let deliveries = deliveries(&args.path, output)?;
    let first = deliveries.iter().map(|delivery| delivery.received_at).min();
    let first = first.unwrap_or(UNIX_EPOCH);
    let mut random = fastrand::Rng::new();
    let progress = output.progress(deliveries.len() as u64, "deliveries");
    let (mut results, mut differing) = (Results::default(), 0);
    let start = Instant::now();
    let sending = async {
        for delivery in &deliveries {
            if let Speed::Factor(factor) = args.speed {
                let offset = delivery
                    .received_at
                    .duration_since(first)
                    .unwrap_or_default();
                tokio::time::sleep_until(after(start, offset.as_secs_f64() / factor)).await;
            }
            let body = body(delivery, args, &mut random);
            let answer = client.send(request(delivery, &endpoint, body)).await;
            differing += u64::from(
                answer
                    .as_ref()
                    .is_ok_and(|answer| answer.status != delivery.status),
            );
            results.add(&answer);
            progress.inc(1);
        }
    };
    tokio::select! {
        () = sending => {}
        _ = tokio::signal::ctrl_c() => output.warning("stopped before all deliveries were sent"),
    }
    progress.finish_and_clear();
    if results.answered() == 0 {
        return Err(Failure::unavailable(
            results.error().unwrap_or("no request was answered"),
        ));
    }
    results.report(&endpoint.shown, start.elapsed(), output);
    if differing > 0 {
        output.line(format_args!(
            "\n{differing} answers have another status than the recorded answer"
        ));
    }
    let all_sent = results.sent() == deliveries.len() as u64;
    Ok(Success::when(results.all_accepted() && all_sent))
}

fn deliveries(path: &std::path::Path, output: &Output) -> Result<Vec<RecordedDelivery>, Failure> {
    let paths = match path.is_file() {
        true => vec![path.to_owned()],
        false => files(path)?,
    };
    if paths.is_empty() {
        return Err(Failure::usage(format_args!(
            "{} contains no recording",
            path.display()
        )));
    }
    let mut deliveries = Vec::new();
    for path in paths {
        let recording = recording(&path)?;
        match &recording.body_omitted {
            Some(reason) => output.warning(format_args!("{} is skipped: {reason}", path.display())),
            None => deliveries.push(delivery(&path, &recording)?),
        }
    }
    match deliveries.is_empty() {
        true => Err(Failure::usage("no recording has a body")),
        false => Ok(deliveries),
    }
}

fn recording(path: &std::path::Path) -> Result<Recording, Failure> {
    let wrong = |error: &dyn std::fmt::Display| {
        Failure::usage(format_args!(
            "{} is not a recording: {error}",
            path.display()
        ))
    };
    let text = fs::read(path)
        .map_err(|error| Failure::usage(format_args!("can't read {}: {error}", path.display())))?;
    let head: RecordingHead = serde_json::from_slice(&text).map_err(|error| wrong(&error))?;
    if head.version != Recording::VERSION {
        let version = head.version;
        return Err(wrong(&format_args!(
            "version {version} of the format is not supported: update this command"
        )));
    }
    serde_json::from_slice(&text).map_err(|error| wrong(&error))
}

fn delivery(path: &std::path::Path, recording: &Recording) -> Result<RecordedDelivery, Failure> {
    let request = MockRequest::from_recording(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::InvalidData => Failure::usage(error),
        _ => Failure::usage(format_args!("can't read {}: {error}", path.display())),
    })?;
    let wrong = |error: &dyn std::fmt::Display| {
        Failure::usage(format_args!(
            "{} is not a recording: {error}",
            path.display()
        ))
    };
    Ok(RecordedDelivery {
        request,
        received_at: recording
            .received_at()
            .ok_or_else(|| wrong(&"`received_at` is not a time"))?,
        status: recording.answer.status,
    })
}

/// Returns the recorded body, or the body with a new id or a new time.
fn body(delivery: &RecordedDelivery, args: &Args, random: &mut fastrand::Rng) -> Bytes {
    let body = delivery.request.body_bytes();
    if !args.new_ids && !args.now {
        return body;
    }
    let Ok(Value::Object(mut members)) = serde_json::from_slice(&body) else {
        return body;
    };
    if args.new_ids {
        members.insert("messageId".to_owned(), json!(random_id(random)));
    }
    if args.now
        && let Some(timestamp) = members.get("timestamp").and_then(Value::as_i64)
    {
        let since = SystemTime::now()
            .duration_since(delivery.received_at)
            .unwrap_or_default();
        let since = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
        members.insert(
            "timestamp".to_owned(),
            json!(timestamp.saturating_add(since)),
        );
    }
    Bytes::from(Value::Object(members).to_string())
}

fn request(delivery: &RecordedDelivery, endpoint: &Endpoint, body: Bytes) -> Request {
    let recorded: http::Request<Bytes> = delivery.request.build();
    let mut headers = recorded.headers().clone();
    for (name, value) in &endpoint.headers {
        // The recorded content type is a part of the delivery.
        if name != http::header::CONTENT_TYPE {
            headers.insert(name, value.clone());
        }
    }
    Request {
        method: recorded.method().clone(),
        uri: endpoint.uri.clone(),
        headers,
        body,
    }
}
