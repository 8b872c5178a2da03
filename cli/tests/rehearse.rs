//! `botisimo rehearse` against examples that are killed, and against servers that are wrong on purpose.

mod support;

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use serde_json::Value;
use support::{Example, botisimo, command, transcript, until};
use tokio::runtime::Runtime;

const BUILT_IN: [&str; 5] = ["week", "outage", "burst", "flapping", "duplicates"];

/// Returns an address on which a server can be started again.
fn fixed_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    listener.local_addr().expect("it listens").to_string()
}

/// An endpoint in this process, with a function that returns the status for each event.
struct Server {
    url: String,
    events: Arc<Mutex<Vec<Value>>>,
    _runtime: Runtime,
}

type Decide = Arc<dyn Fn(&Value, usize) -> (StatusCode, Duration) + Send + Sync>;

impl Server {
    /// `decide` gets the event and the number of earlier requests with its message id.
    fn start(
        decide: impl Fn(&Value, usize) -> (StatusCode, Duration) + Send + Sync + 'static,
    ) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let events = Arc::new(Mutex::new(Vec::<Value>::new()));
        let decide: Decide = Arc::new(decide);
        let handler = async |State((events, decide)): State<(Arc<Mutex<Vec<Value>>>, Decide)>,
                             Json(event): Json<Value>| {
            let (status, delay) = {
                let mut events = events.lock().expect("no handler panics");
                let earlier = events
                    .iter()
                    .filter(|other| other["messageId"] == event["messageId"]);
                let decision = decide(&event, earlier.count());
                events.push(event);
                decision
            };
            tokio::time::sleep(delay).await;
            status
        };
        let app = Router::new()
            .route("/hook", post(handler))
            .with_state((Arc::clone(&events), decide));
        let listener = runtime
            .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
            .expect("a port is free");
        let url = format!("http://{}/hook", listener.local_addr().expect("it listens"));
        runtime.spawn(async { axum::serve(listener, app).await });
        Self {
            url,
            events,
            _runtime: runtime,
        }
    }

    fn answering(status: StatusCode) -> Self {
        Self::start(move |_, _| (status, Duration::ZERO))
    }

    fn events(&self) -> Vec<Value> {
        self.events.lock().expect("no handler panics").clone()
    }
}

fn summary(args: &[&str]) -> (i32, Value) {
    let ran = botisimo(&[&["--json", "rehearse", "--quiet"], args].concat());
    (
        ran.code(),
        ran.json().pop().unwrap_or_else(|| panic!("{ran:?}")),
    )
}

fn count(summary: &Value, name: &str) -> u64 {
    summary[name]
        .as_u64()
        .unwrap_or_else(|| panic!("{name}: {summary}"))
}

#[test]
fn every_built_in_scenario_loses_nothing_at_a_good_endpoint() {
    let example = Example::start("quickstart", &[]);
    for name in BUILT_IN {
        let (code, summary) = summary(&[name, "--to", &example.url()]);
        assert_eq!(code, 0, "{name}: {summary}");
        assert_eq!(count(&summary, "lost"), 0, "{name}: {summary}");
        assert_eq!(
            count(&summary, "made"),
            count(&summary, "delivered"),
            "{name}: {summary}"
        );
        assert!(count(&summary, "made") > 10, "{name}: {summary}");
    }
}

#[test]
fn the_transcript_repeats_with_the_seed() {
    let run = |server: &Server, seed: &str, scenario: &str| {
        let ran = botisimo(&["rehearse", scenario, "--to", &server.url, "--seed", seed]);
        assert!(ran.stdout.lines().count() > 20, "{ran:?}");
        ran.stdout
    };
    // Some requests fail, depending on the event and the attempt only.
    let server = || {
        Server::start(|event, earlier| {
            let number = event["messageId"]
                .as_str()
                .and_then(|id| id.rsplit('-').next()?.parse::<usize>().ok());
            let is_bad = (number.expect("a number") * 7 + earlier * 3) % 5 == 0;
            (
                if is_bad {
                    StatusCode::BAD_GATEWAY
                } else {
                    StatusCode::OK
                },
                Duration::ZERO,
            )
        })
    };
    for scenario in ["week", "duplicates", "burst"] {
        let first = run(&server(), "7", scenario);
        assert_eq!(first, run(&server(), "7", scenario), "{scenario}");
        assert!(
            first.contains("502") && first.contains("retry in"),
            "{first}"
        );
    }
    assert_ne!(run(&server(), "7", "week"), run(&server(), "8", "week"));
}

/// Starts a rehearsal with a restart in the middle, kills the example and starts it again. Returns stdout.
fn rehearse_with_restart(
    scenario: &str,
    example: &mut Example,
    restart: impl FnOnce() -> Example,
) -> (String, Example) {
    let args = [
        "rehearse",
        scenario,
        "--to",
        &example.url(),
        "--restart-at",
        "30m",
        "--id-prefix",
        "r",
    ];
    let mut child = command(&args)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    let mut stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
    let mut text = String::new();
    while !text.contains("Restart the endpoint now.") {
        assert!(stdout.read_line(&mut text).expect("UTF-8") > 0, "{text}");
    }
    example.kill();
    let restarted = restart();
    stdout.read_to_string(&mut text).expect("UTF-8");
    let status = child.wait().expect("it ends");
    assert!(status.success(), "{text}");
    (text, restarted)
}

const HOUR: &str = r#"
description = "An hour of events, for a restart in the middle."
lasts = "1h"
[[events]]
type = "connection.stream.started"
every = "20s"
data = { title = "t-{n}" }
[[events]]
type = "account.updated"
every = "30s"
data = { name = "a-{n}" }
"#;

#[test]
fn no_event_is_lost_through_a_kill_and_a_restart() {
    for name in ["axum", "durable"] {
        let folder = tempfile::tempdir().expect("a folder");
        let (address, inbox, scenario) = (
            fixed_address(),
            folder.path().join("inbox.db"),
            folder.path().join("hour.toml"),
        );
        fs::write(&scenario, HOUR).expect("the file can be written");
        let variables = [
            ("ADDR", address.as_str()),
            ("INBOX", inbox.to_str().expect("UTF-8")),
        ];
        let mut example = Example::start(name, &variables);
        let restart = || Example::start(name, &variables);
        let (text, restarted) =
            rehearse_with_restart(scenario.to_str().expect("UTF-8"), &mut example, restart);
        assert!(
            text.contains("300 events made, 300 delivered, 0 lost, with 300 requests"),
            "{text}"
        );
        if name == "axum" {
            // The memory inbox loses the events that wait in the process.
            continue;
        }
        let ran = |example: &Example| {
            let lines = example.lines();
            lines
                .iter()
                .filter_map(|line| {
                    line.split(' ')
                        .find(|word| word.starts_with("r-"))
                        .map(str::to_owned)
                })
                .collect::<Vec<_>>()
        };
        let before = ran(&example);
        until("every accepted event runs", || {
            let all: HashSet<_> = before.iter().cloned().chain(ran(&restarted)).collect();
            all.len() == 300
        });
    }
}

#[test]
fn an_endpoint_that_always_fails_loses_everything_and_is_disabled() {
    let server = Server::answering(StatusCode::INTERNAL_SERVER_ERROR);
    let (code, summary) = summary(&["week", "--to", &server.url]);
    assert_eq!(code, 1);
    assert_eq!(count(&summary, "delivered"), 0, "{summary}");
    assert_eq!(
        count(&summary, "made"),
        count(&summary, "lost"),
        "{summary}"
    );
    let (emailed, disabled) = (
        &summary["emailed_at_seconds"],
        &summary["disabled_at_seconds"],
    );
    let (emailed, disabled) = (
        emailed.as_f64().expect("an e-mail"),
        disabled.as_f64().expect("disabled"),
    );
    assert!(emailed >= 3.0 * 86400.0 && disabled > emailed, "{summary}");
    let requests = server.events().len() as u64;
    assert_eq!(
        requests,
        count(&summary, "attempts"),
        "no request follows after the endpoint is disabled"
    );
    assert!(
        summary["losses"]["the endpoint is disabled"].as_u64() > Some(0),
        "{summary}"
    );
}

#[test]
fn an_endpoint_that_answers_late_loses_events_unless_the_sender_retries_timeouts() {
    let folder = tempfile::tempdir().expect("a folder");
    let scenario = folder.path().join("late.toml");
    let text = "description = \"late\"\nlasts = \"1h\"\n[sender]\nquick = \"150ms\"\n\
        [[events]]\ntype = \"account.updated\"\nat = [\"0s\", \"1m\", \"2m\", \"3m\"]\n";
    fs::write(&scenario, text).expect("the file can be written");
    let scenario = scenario.to_str().expect("UTF-8");
    let late = || {
        Server::start(|_, earlier| {
            let delay = if earlier == 0 {
                Duration::from_secs(5)
            } else {
                Duration::ZERO
            };
            (StatusCode::OK, delay)
        })
    };
    let (code, dropped) = summary(&[scenario, "--to", &late().url]);
    assert_eq!(code, 1);
    assert_eq!(count(&dropped, "lost"), 4, "{dropped}");
    assert_eq!(dropped["losses"]["no quick answer"], 4, "{dropped}");
    let (code, retried) = summary(&[scenario, "--to", &late().url, "--timeouts", "retry"]);
    assert_eq!(code, 0, "{retried}");
    assert_eq!(
        (count(&retried, "lost"), count(&retried, "attempts")),
        (0, 8),
        "{retried}"
    );
}

#[test]
fn what_the_sender_counts_agrees_with_what_the_endpoint_saw() {
    // The status depends on the event and the attempt. Some events never succeed.
    let server = Server::start(|event, earlier| {
        let number = event["messageId"]
            .as_str()
            .and_then(|id| id.rsplit('-').next()?.parse::<usize>().ok());
        let status = match (number.expect("a number") * 31 + earlier * 17) % 11 {
            0..=3 => StatusCode::OK,
            4 => StatusCode::NO_CONTENT,
            5 => StatusCode::FOUND,
            6 => StatusCode::TOO_MANY_REQUESTS,
            _ if number.is_some_and(|number| number % 9 == 0) => StatusCode::GONE,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        (status, Duration::ZERO)
    });
    for (round, scenario) in BUILT_IN.iter().enumerate() {
        server.events.lock().expect("no handler panics").clear();
        let seed = format!("{}", round * 100);
        let ran = botisimo(&[
            "--json",
            "rehearse",
            scenario,
            "--to",
            &server.url,
            "--seed",
            &seed,
        ]);
        let mut lines = ran.json();
        let summary = lines.pop().expect("a summary");
        assert_eq!(
            count(&summary, "made"),
            count(&summary, "delivered") + count(&summary, "lost"),
            "{summary}"
        );
        let mut accepted = HashMap::<u64, usize>::new();
        for line in lines.iter().filter(|line| {
            line["answer"]
                .as_str()
                .is_some_and(|answer| answer.starts_with('2'))
        }) {
            *accepted.entry(count(line, "event")).or_default() += 1;
        }
        assert_eq!(
            accepted.len() as u64,
            count(&summary, "delivered"),
            "{scenario}: {summary}"
        );
        let again = accepted.values().filter(|times| **times > 1).count() as u64;
        assert_eq!(
            again,
            count(&summary, "delivered_again"),
            "{scenario}: {summary}"
        );
        let through_outage = lines.iter().filter(|line| line["answer"] == "503").count();
        assert!(
            server.events().len() as u64 <= count(&summary, "attempts"),
            "{scenario}: {summary}"
        );
        assert!(
            server.events().len() + through_outage >= lines.len() / 2,
            "{scenario}: {summary}"
        );
    }
}

#[test]
fn a_late_event_shows_its_virtual_age_or_a_fixed_time() {
    let server = Server::answering(StatusCode::OK);
    let (_, summary) = summary(&["outage", "--to", &server.url]);
    assert!(count(&summary, "late") > 0, "{summary}");
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970")
        .as_millis();
    let ages = |server: &Server| -> Vec<i128> {
        let events = server.events();
        let times = events
            .iter()
            .map(|event| event["timestamp"].as_i64().expect("a number"));
        times.map(|time| now as i128 - i128::from(time)).collect()
    };
    let oldest = ages(&server).into_iter().max().expect("an event");
    let latest = summary["latest_seconds"].as_f64().expect("a number") * 1000.0;
    assert!(
        (oldest as f64 - latest).abs() < 60_000.0,
        "{oldest} ms, {latest} ms"
    );
    let server = Server::answering(StatusCode::OK);
    botisimo(&[
        "rehearse",
        "outage",
        "--to",
        &server.url,
        "--start",
        "2023-01-23T00:00:00Z",
    ]);
    let first = server.events()[0]["timestamp"].as_i64().expect("a number");
    assert!(
        (1_674_432_000_000..1_674_432_000_000 + 86_400_000).contains(&first),
        "{first}"
    );
}

#[test]
fn siblings_share_their_data_and_copies_share_their_id() {
    let server = Server::answering(StatusCode::OK);
    botisimo(&["rehearse", "duplicates", "--to", &server.url]);
    let mut by_id = HashMap::<String, Vec<Value>>::new();
    for event in server.events() {
        let id = event["messageId"].as_str().expect("a string").to_owned();
        by_id.entry(id).or_default().push(event);
    }
    let starts: Vec<_> = by_id
        .values()
        .filter(|copies| copies[0]["eventType"] == "connection.stream.started")
        .collect();
    assert!(
        starts.iter().any(|copies| copies.len() == 3),
        "two copies follow"
    );
    let first_stream = by_id
        .values()
        .filter(|copies| copies[0]["data"]["stream"] == "stream-1");
    let types: HashSet<_> = first_stream
        .map(|copies| copies[0]["eventType"].to_string())
        .collect();
    assert_eq!(types.len(), 3, "{types:?}");
}

#[test]
fn a_wrong_scenario_says_where() {
    let folder = tempfile::tempdir().expect("a folder");
    let scenario = folder.path().join("mine.toml");
    fs::write(
        &scenario,
        "description = \"x\"\nlasts = \"1h\"\n[[events]]\nkind = \"a.b\"\n",
    )
    .expect("the file can be written");
    let wrong = botisimo(&["rehearse", scenario.to_str().expect("UTF-8")]);
    assert_eq!(wrong.code(), 2);
    assert!(
        wrong.stderr.contains("line 4") && wrong.stderr.contains("kind"),
        "{wrong:?}"
    );
    let unknown = botisimo(&["rehearse", "weak"]);
    assert_eq!(unknown.code(), 2);
    assert!(
        unknown.stderr.contains("week, outage, burst"),
        "{unknown:?}"
    );
    let shown = botisimo(&["rehearse", "--show", "outage"]);
    assert!(shown.stdout.contains("[[outages]]"), "{shown:?}");
    let nothing = botisimo(&["rehearse", "week", "--to", "http://127.0.0.1:1/hook"]);
    assert_eq!(nothing.code(), 3, "{nothing:?}");
}

/// Returns the announcements that the example `going_live` has printed, once it has handled every event.
fn announcements(scenarios: &[&str]) -> Vec<String> {
    let folder = tempfile::tempdir().expect("a folder");
    let inbox = folder.path().join("inbox.db");
    let inbox = inbox.to_str().expect("a path in UTF-8");
    let example = Example::start("going_live", &[("INBOX", inbox)]);
    for scenario in scenarios {
        let (_, summary) = summary(&[scenario, "--to", &example.url()]);
        assert_eq!(count(&summary, "lost"), 0, "{scenario}: {summary}");
    }
    let is_idle = || {
        let counts = botisimo(&["--json", "inbox", inbox, "stats"])
            .json()
            .remove(0);
        count(&counts, "in_flight") == 0
    };
    until("the example is idle", is_idle);
    let lines = example.lines().into_iter();
    lines.filter(|line| line.starts_with("announce ")).collect()
}

#[test]
fn a_flapping_connection_is_announced_once_per_stream() {
    let expected = ["announce ada Unstable", "announce ada Stable again"];
    assert_eq!(announcements(&["flapping"]), expected);
}

#[test]
fn a_stream_that_starts_during_an_outage_is_not_announced_late() {
    // The second stream starts during the outage of two hours.
    let expected = ["announce ada Stream 1", "announce ada Stream 3"];
    assert_eq!(announcements(&["outage"]), expected);
}

#[test]
fn duplicates_of_a_start_are_announced_once_per_stream() {
    let expected: Vec<_> = (1..=6)
        .map(|n| format!("announce ada Stream {n}"))
        .collect();
    assert_eq!(announcements(&["duplicates"]), expected);
}

#[test]
fn the_transcript_of_the_guide_is_true() {
    let example = Example::start("quickstart", &[]);
    let ran = botisimo(&["rehearse", "outage", "--to", &example.url()]);
    let lines: Vec<_> = ran.stdout.lines().collect();
    let shown = |range: std::ops::Range<usize>| lines[range].join("\n");
    let start = lines
        .iter()
        .position(|line| line.contains("retry"))
        .expect("a retry");
    let text = format!(
        "$ botisimo rehearse outage\n…\n{}\n…\n{}",
        shown(start - 1..start + 6),
        shown(lines.len() - 5..lines.len()),
    );
    transcript("rehearse.md", "outage", &text);
}

#[test]
fn a_host_without_an_address_is_explained() {
    let ran = botisimo(&["rehearse", "burst", "--to", "http://nowhere.invalid/"]);
    assert_eq!(ran.code(), 3, "{ran:?}");
    assert!(
        ran.stderr.contains("nowhere.invalid:80 has no address"),
        "{ran:?}"
    );
}

#[test]
fn a_restart_after_the_last_delivery_is_a_warning() {
    let server = Server::answering(StatusCode::OK);
    let args = [
        "rehearse",
        "burst",
        "--to",
        &server.url,
        "--restart-at",
        "300d",
    ];
    let ran = botisimo(&args);
    assert_eq!(ran.code(), 0, "{ran:?}");
    assert!(ran.stderr.contains("a restart was skipped"), "{ran:?}");
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_the_wait_for_a_restart() {
    let server = Server::answering(StatusCode::OK);
    let args = [
        "rehearse",
        "outage",
        "--to",
        &server.url,
        "--restart-at",
        "6h",
        "--restart-within",
        "1h",
    ];
    let mut child = command(&args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command starts");
    let mut lines = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
    let is_restart = |line: std::io::Result<String>| line.expect("a line").contains("Restart the");
    assert!(lines.any(is_restart), "the rehearsal asks for a restart");
    let killed = std::process::Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(killed.expect("kill runs").success());
    until("the command has ended", || {
        child.try_wait().expect("a child").is_some()
    });
    let status = child.wait().expect("a child");
    assert_eq!(status.code(), Some(3), "{status:?}");
}
