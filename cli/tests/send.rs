//! `botisimo send` and `botisimo types` against the quickstart.

mod support;

use std::collections::HashSet;
use std::io::Read;
use std::net::TcpListener;
use std::process::Stdio;
use std::{fs, thread};

use serde_json::{Value, json};
use support::{Example, botisimo, botisimo_with_input, command, ran, stable, transcript, until};

/// A server that answers every request with this answer, and returns the requests.
fn server(answer: &'static str) -> (String, std::sync::mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let url = format!("http://{}/hook", listener.local_addr().expect("it listens"));
    let (sender, receiver) = std::sync::mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a client connects");
            let mut request = Vec::new();
            let mut byte = [0];
            while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|n| n > 0) {
                request.push(byte[0]);
            }
            let head = String::from_utf8_lossy(&request).to_lowercase();
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.map_or(0, |length| length.parse().expect("a number"));
            let mut body = vec![0; length];
            stream.read_exact(&mut body).expect("the body is complete");
            let request = format!("{head}{}", String::from_utf8_lossy(&body));
            let _ = sender.send(request);
            let _ = std::io::Write::write_all(&mut stream, answer.as_bytes());
        }
    });
    (url, receiver)
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

fn body(request: &str) -> Value {
    let (_, body) = request.split_once("\r\n\r\n").expect("the head ends");
    serde_json::from_str(body).expect("the body is JSON")
}

#[test]
fn an_event_reaches_its_handler() {
    let example = Example::start("quickstart", &[]);
    let sent = botisimo(&["send", "connection.stream.started", "--to", &example.url()]);
    assert_eq!(sent.code(), 0, "{sent:?}");
    transcript(
        "send.md",
        "send",
        &format!(
            "$ botisimo send connection.stream.started\n{}",
            stable(&sent.stdout, &example)
        ),
    );
    until("the handler runs", || {
        let lines = example.lines();
        lines.iter().any(|line| {
            line.contains("connection.stream.started") && line.contains("Any% speedrun")
        })
    });
}

#[test]
fn the_data_comes_from_an_argument_a_file_or_stdin() {
    let (url, requests) = server(OK);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("data.json");
    fs::write(&file, r#"{"n": 2}"#).expect("the file can be written");
    let file = format!("@{}", file.display());
    assert_eq!(
        botisimo(&["send", "a.b", "--to", &url, "--data", r#"{"n": 1}"#]).code(),
        0
    );
    assert_eq!(
        botisimo(&["send", "a.b", "--to", &url, "--data", &file]).code(),
        0
    );
    assert_eq!(
        botisimo_with_input(
            &["send", "a.b", "--to", &url, "--data", "-"],
            br#"{"n": 3}"#
        )
        .code(),
        0
    );
    for n in 1..=3 {
        assert_eq!(
            body(&requests.recv().expect("a request"))["data"],
            json!({ "n": n })
        );
    }
}

#[test]
fn members_can_be_set() {
    let (url, requests) = server(OK);
    let args = [
        "send",
        "account.updated",
        "--to",
        &url,
        "--id",
        "m-1",
        "--timestamp",
        "2023-01-23T16:06:39.154Z",
    ];
    let sets = [
        "--set",
        "data.name=grace",
        "--set",
        "data.level=7",
        "--set",
        "data.a.b=[1]",
        "--set",
        "extra=true",
    ];
    assert_eq!(botisimo(&[&args[..], &sets[..]].concat()).code(), 0);
    let event = body(&requests.recv().expect("a request"));
    assert_eq!(event["messageId"], "m-1");
    assert_eq!(event["timestamp"], 1_674_489_999_154_i64);
    assert_eq!(event["data"]["name"], "grace");
    assert_eq!(event["data"]["level"], 7);
    assert_eq!(event["data"]["a"]["b"], json!([1]));
    assert_eq!(
        event["data"]["account"], "acc_ada",
        "the sample's other members stay"
    );
    assert_eq!(event["extra"], true);
}

#[test]
fn a_raw_body_keeps_its_bytes_and_headers_can_be_set_and_removed() {
    let (url, requests) = server(OK);
    let args = [
        "send",
        "--to",
        &url,
        "--raw",
        "-",
        "--method",
        "PUT",
        "-H",
        "x-one: 1",
        "-H",
        "x-one: 2",
        "-H",
        "content-type:",
    ];
    assert_eq!(botisimo_with_input(&args, b"{ broken").code(), 0);
    let request = requests.recv().expect("a request");
    assert!(request.starts_with("put /hook http/1.1\r\n"), "{request}");
    assert!(
        request.contains("x-one: 1\r\nx-one: 2\r\n") && !request.contains("content-type"),
        "{request}"
    );
    assert!(request.ends_with("\r\n\r\n{ broken"), "{request}");
}

#[test]
fn the_secret_comes_from_the_environment_or_a_file_and_is_never_shown() {
    let example = Example::start("quickstart", &[("BOTISIMO_SECRET", "s3cret+1")]);
    let url = example.url();
    let refused = botisimo(&["send", "account.updated", "--to", &url]);
    assert_eq!(refused.code(), 1);
    assert!(
        refused.stdout.contains("401") && refused.stdout.contains("BOTISIMO_SECRET"),
        "{refused:?}"
    );
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("secret");
    fs::write(&file, "s3cret+1\n").expect("the file can be written");
    let file = file.to_str().expect("UTF-8");
    for ran in [
        ran(command(&["send", "account.updated", "--to", &url]).env("BOTISIMO_SECRET", "s3cret+1")),
        ran(command(&[
            "send",
            "account.updated",
            "--to",
            &url,
            "--secret-env",
            "MINE",
        ])
        .env("MINE", "s3cret+1")),
        botisimo(&[
            "send",
            "account.updated",
            "--to",
            &url,
            "--secret-file",
            file,
        ]),
        botisimo(&[
            "--json",
            "send",
            "account.updated",
            "--to",
            &url,
            "--secret-file",
            file,
        ]),
        botisimo(&[
            "send",
            "account.updated",
            "--to",
            &format!("{url}?token=s3cret%2B1"),
        ]),
    ] {
        assert_eq!(ran.code(), 0, "{ran:?}");
        assert!(!format!("{ran:?}").contains("s3cret"), "{ran:?}");
    }
    let (url, requests) = server(OK);
    botisimo(&[
        "send",
        "a.b",
        "--to",
        &url,
        "--secret-file",
        file,
        "--secret-header",
        "x-token",
    ]);
    assert!(
        requests
            .recv()
            .expect("a request")
            .contains("x-token: s3cret+1\r\n")
    );
}

#[test]
fn many_events_have_new_ids_and_end_in_a_table() {
    let example = Example::start("quickstart", &[]);
    let many = [
        "send",
        "account.updated",
        "--to",
        &example.url(),
        "--times",
        "200",
        "--concurrency",
        "8",
    ];
    let sent = botisimo(&many);
    assert_eq!(sent.code(), 0, "{sent:?}");
    assert!(
        sent.stdout.starts_with("200 requests to http://"),
        "{sent:?}"
    );
    assert!(sent.stdout.contains("p99"), "{sent:?}");
    let ids = |example: &Example| {
        let lines = example.lines();
        let ran = lines
            .iter()
            .filter(|line| line.starts_with("account.updated "));
        ran.filter_map(|line| Some(line.split(' ').nth(1)?.to_owned()))
            .collect::<HashSet<_>>()
    };
    until("every handler runs", || ids(&example).len() >= 200);
    let sent = botisimo(&[&["--json"], &many[..]].concat());
    let [result] = &sent.json()[..] else {
        panic!("{sent:?}")
    };
    assert_eq!(result["sent"], 200);
    assert_eq!(
        result["answers"],
        json!([{ "status": 200, "text": "", "count": 200 }])
    );
    assert!(
        result["latency"]["p50_ms"]
            .as_f64()
            .is_some_and(|millis| millis > 0.0),
        "{result}"
    );
}

#[test]
fn duplicates_of_one_id_run_once() {
    let example = Example::start("quickstart", &[]);
    let sent = botisimo(&[
        "send",
        "account.updated",
        "--to",
        &example.url(),
        "--times",
        "5",
        "--id",
        "same",
    ]);
    assert_eq!(sent.code(), 0, "{sent:?}");
    botisimo(&[
        "send",
        "account.updated",
        "--to",
        &example.url(),
        "--id",
        "last",
    ]);
    let runs = |id: &str| {
        example
            .lines()
            .iter()
            .filter(|line| line.starts_with(&format!("account.updated {id} ")))
            .count()
    };
    until("the last event runs", || runs("last") == 1);
    assert_eq!(runs("same"), 1);
}

#[test]
fn an_answer_that_is_not_2xx_is_shown_with_its_text() {
    let (url, _requests) =
        server("HTTP/1.1 503 Busy\r\ncontent-length: 8\r\nconnection: close\r\n\r\ntry\nlate");
    let sent = botisimo(&["send", "account.updated", "--to", &url]);
    assert_eq!(sent.code(), 1);
    assert!(
        sent.stdout.contains("503 Service Unavailable try late"),
        "{sent:?}"
    );
    let many = botisimo(&["send", "account.updated", "--to", &url, "--times", "3"]);
    assert_eq!(many.code(), 1);
    assert!(many.stdout.contains("503     3      try late"), "{many:?}");
    let (url, _requests) = server(
        "HTTP/1.1 308 Moved\r\nlocation: /x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
    );
    let sent = botisimo(&["send", "account.updated", "--to", &url]);
    assert_eq!(sent.code(), 1);
    assert!(sent.stdout.contains("doesn't follow redirects"), "{sent:?}");
}

#[test]
fn a_hostile_answer_cannot_change_the_terminal() {
    let (url, _requests) = server(
        "HTTP/1.1 400 X\r\ncontent-length: 12\r\nconnection: close\r\n\r\n\x1b[31mred\x07\r\nX",
    );
    let sent = botisimo(&["send", "account.updated", "--to", &url]);
    assert!(
        sent.stdout.contains("400") && !sent.stdout.contains(['\x1b', '\x07']),
        "{sent:?}"
    );
}

#[test]
fn an_endpoint_that_does_not_answer_is_explained() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it listens").to_string();
    let silent = botisimo(&[
        "send",
        "a.b",
        "--to",
        &format!("http://{address}/"),
        "--timeout",
        "100ms",
    ]);
    assert_eq!(silent.code(), 3);
    assert!(
        silent.stderr.contains("no complete answer within 100ms"),
        "{silent:?}"
    );
    drop(listener);
    let closed = botisimo(&["send", "a.b", "--to", &format!("http://{address}/")]);
    assert_eq!(closed.code(), 3);
    assert!(
        closed
            .stderr
            .contains(&format!("nothing listens on {address}")),
        "{closed:?}"
    );
    let (url, _requests) = server("SSH-2.0-OpenSSH_9.2\r\n");
    let other = botisimo(&["send", "a.b", "--to", &url]);
    assert!(other.stderr.contains("isn't HTTP"), "{other:?}");
    let example = Example::start("quickstart", &[]);
    let tls = botisimo(&[
        "send",
        "a.b",
        "--to",
        &example.url().replace("http:", "https:"),
    ]);
    assert!(tls.stderr.contains("doesn't speak TLS"), "{tls:?}");
    let unknown = botisimo(&["send", "a.b", "--to", "http://nothing.invalid/"]);
    assert!(
        unknown.stderr.contains("nothing.invalid:80 has no address"),
        "{unknown:?}"
    );
    let many = botisimo(&[
        "send",
        "a.b",
        "--to",
        "http://nothing.invalid/",
        "--times",
        "2",
    ]);
    assert_eq!(many.code(), 3, "{many:?}");
}

#[test]
fn wrong_arguments_say_what_to_do() {
    let cases: [(&[&str], &str); 9] = [
        (&["send"], "<EVENT_TYPE>"),
        (
            &["send", "a.b", "--to", "localhost:3000"],
            "http://localhost:3000",
        ),
        (
            &["send", "a.b", "--to", "http://ada:pass@localhost/"],
            "authorization: Basic",
        ),
        (
            &["send", "a.b", "--data", "{"],
            "the data of --data isn't JSON",
        ),
        (
            &["send", "a.b", "--data", "@/missing"],
            "can't read /missing",
        ),
        (
            &["send", "a.b", "--set", "data.x"],
            "--set data.x needs a value",
        ),
        (
            &["send", "a.b", "--set", "messageId.x=1"],
            "is not an object",
        ),
        (&["send", "a.b", "-H", "x"], "a header needs a colon"),
        (
            &["send", "a.b", "--secret-env", "UNSET_VARIABLE"],
            "UNSET_VARIABLE isn't set",
        ),
    ];
    for (args, expected) in cases {
        let ran = botisimo(args);
        assert_eq!(ran.code(), 2, "{ran:?}");
        assert!(ran.stderr.contains(expected), "{expected}: {ran:?}");
        assert!(!ran.stderr.contains("ada:pass"), "{ran:?}");
    }
}

#[test]
fn a_misspelt_type_is_sent_with_a_suggestion() {
    let (url, requests) = server(OK);
    let sent = botisimo(&["send", "acount.updated", "--to", &url]);
    assert_eq!(sent.code(), 0);
    assert!(
        sent.stderr.contains("did you mean account.updated?"),
        "{sent:?}"
    );
    assert_eq!(
        body(&requests.recv().expect("a request"))["eventType"],
        "acount.updated"
    );
}

#[test]
fn the_types_are_listed_and_filtered() {
    assert_eq!(botisimo(&["types"]).stdout.lines().count(), 91);
    let started = botisimo(&["types", "connection.stream.started[.*]"]);
    assert_eq!(started.stdout.lines().count(), 8, "{started:?}");
    let json = botisimo(&["--json", "types", "poll.created"]).json();
    assert_eq!(json[0]["event_type"], "poll.created");
    assert!(json[0]["sample"]["question"].is_string(), "{json:?}");
    let none = botisimo(&["types", "pol.created"]);
    assert_eq!(none.code(), 2);
    assert!(
        none.stderr.contains("did you mean poll.created?"),
        "{none:?}"
    );
    let prefix = botisimo(&["types", "poll"]);
    assert!(
        prefix.stderr.contains("did you mean 'poll.*'?"),
        "{prefix:?}"
    );
}

#[test]
fn a_reader_that_leaves_early_ends_the_command_quietly() {
    let mut child = command(&["types", "--data"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("the command ends");
    assert!(output.stderr.is_empty(), "{output:?}");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn every_command_has_an_example_a_page_and_completions() {
    let help = botisimo(&["--help"]).stdout;
    let commands: Vec<_> = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| {
            line.strip_prefix("  ")?
                .split(' ')
                .next()
                .filter(|name| !name.is_empty() && *name != "help")
        })
        .collect();
    assert!(commands.len() >= 4, "{help}");
    let folder = tempfile::tempdir().expect("a folder");
    let to = folder.path().to_str().expect("UTF-8");
    assert_eq!(botisimo(&["man", "--to", to]).code(), 0);
    let bash = botisimo(&["completions", "bash"]).stdout;
    for name in commands {
        let help = botisimo(&[name, "--help"]).stdout;
        assert!(
            help.contains(&format!("  botisimo {name}")),
            "{name} has no example: {help}"
        );
        let page = folder.path().join(format!("botisimo-{name}.1"));
        assert!(
            fs::read_to_string(&page).is_ok_and(|page| page.contains(".TH")),
            "{}",
            page.display()
        );
        assert!(
            bash.contains(&format!("botisimo__{name}"))
                || bash.contains(&format!("botisimo,{name}")),
            "{name}"
        );
    }
}

#[test]
fn a_server_that_does_not_speak_http2_is_explained() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let url = format!("http://{}/", listener.local_addr().expect("it listens"));
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client connects");
        // The beginning of HTTP/2, which every client sends first.
        stream.read_exact(&mut [0; 24]).expect("24 bytes");
        let answer = "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
        let _ = std::io::Write::write_all(&mut stream, answer.as_bytes());
        // The client closes the connection first.
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let sent = botisimo(&["send", "a.b", "--to", &url, "--http2"]);
    assert_eq!(sent.code(), 3, "{sent:?}");
    assert!(
        sent.stderr.contains("does the server speak HTTP/2?"),
        "{sent:?}"
    );
}
