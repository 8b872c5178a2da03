//! `botisimo record` and `botisimo replay`, in front of real examples.

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::{Value, json};
use support::{Example, Ran, botisimo, command, ran, stable, transcript, until};
use tempfile::TempDir;

/// A running `botisimo record`.
struct Recorder {
    child: Child,
    stdout: BufReader<ChildStdout>,
    url: String,
    folder: TempDir,
}

impl Recorder {
    fn start(args: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        Self::start_in(folder, args, |_| ())
    }

    fn start_in(folder: TempDir, args: &[&str], prepare: impl FnOnce(&mut Command)) -> Self {
        let to = folder.path().join("deliveries");
        let fixed = [
            "--json",
            "record",
            "--listen",
            "127.0.0.1:0",
            "--to",
            to.to_str().expect("UTF-8"),
        ];
        let mut command = command(&[&fixed, args].concat());
        prepare(&mut command);
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("UTF-8");
        let line: Value = serde_json::from_str(&line).expect("JSON");
        let url = format!(
            "{}/webhooks/botisimo",
            line["listening"].as_str().expect("an address")
        );
        Self {
            child,
            stdout,
            url,
            folder,
        }
    }

    fn folder(&self) -> PathBuf {
        self.folder.path().join("deliveries")
    }

    /// Waits for the end of a recorder with --count, and returns its lines and the folder.
    fn end(mut self) -> (Vec<Value>, String, TempDir) {
        let mut text = String::new();
        self.stdout.read_to_string(&mut text).expect("UTF-8");
        let mut errors = String::new();
        self.child
            .stderr
            .take()
            .expect("piped")
            .read_to_string(&mut errors)
            .expect("UTF-8");
        self.child.wait().expect("it ends");
        (
            text.lines()
                .map(|line| serde_json::from_str(line).expect("JSON"))
                .collect(),
            errors,
            self.folder,
        )
    }
}

fn send(url: &str, args: &[&str]) -> Ran {
    botisimo(&[&["send", "--to", url], args].concat())
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    files.sort();
    files
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).expect("a file")).expect("JSON")
}

#[test]
fn a_delivery_is_stored_with_its_answer_and_forwarded() {
    let example = Example::start("quickstart", &[("BOTISIMO_SECRET", "s3cret")]);
    let recorder = Recorder::start(&["--forward", &example.url(), "--count", "3"]);
    let with_secret = format!("{}?token=s3cret", recorder.url);
    let data = r#"{"name":"ada"}"#;
    assert_eq!(
        send(
            &with_secret,
            &[
                "account.updated",
                "--id",
                "r-1",
                "--data",
                data,
                "-H",
                "authorization: Bearer abc"
            ]
        )
        .code(),
        0
    );
    let refused = send(&recorder.url, &["account.updated", "--id", "r-2"]);
    assert!(
        refused.stdout.contains("401"),
        "the endpoint's answer comes back: {refused:?}"
    );
    let broken = botisimo_raw(&with_secret, b"{\xff");
    assert!(broken.stdout.contains("400"), "{broken:?}");
    let (lines, _, folder) = recorder.end();
    assert_eq!(lines.len(), 3, "{lines:?}");
    let files = files(&folder.path().join("deliveries"));
    let names: Vec<_> = files
        .iter()
        .map(|path| path.file_name().expect("a name").to_str().expect("UTF-8"))
        .collect();
    assert_eq!(
        names,
        [
            "000001-account.updated.json",
            "000002-account.updated.json",
            "000003-unknown.json"
        ]
    );
    let first = read(&files[0]);
    assert_eq!(first["path"], "/webhooks/botisimo");
    assert_eq!(first["method"], "POST");
    assert_eq!(first["answer"]["status"], 200);
    let body: Value = serde_json::from_str(first["body"].as_str().expect("text")).expect("JSON");
    assert_eq!(
        (&body["messageId"], &body["data"]),
        (&json!("r-1"), &json!({ "name": "ada" }))
    );
    let all = files
        .iter()
        .map(|path| fs::read_to_string(path).expect("UTF-8"))
        .collect::<String>();
    assert!(!all.contains("s3cret") && !all.contains("Bearer"), "{all}");
    assert_eq!(read(&files[1])["answer"]["status"], 401);
    assert_eq!(read(&files[2])["body_hex"], "7bff");
    until("the handler runs", || {
        example
            .lines()
            .iter()
            .any(|line| line == "account.updated r-1 ada")
    });
}

fn botisimo_raw(url: &str, body: &[u8]) -> Ran {
    support::botisimo_with_input(&["send", "--raw", "-", "--to", url], body)
}

#[test]
fn an_endpoint_that_gives_no_answer_is_recorded_as_502() {
    let recorder = Recorder::start(&["--forward", "http://127.0.0.1:1/hook", "--count", "1"]);
    let sent = send(&recorder.url, &["account.updated"]);
    assert!(
        sent.stdout.contains("502") && sent.stdout.contains("nothing listens"),
        "{sent:?}"
    );
    let (_, errors, folder) = recorder.end();
    assert!(errors.contains("gave no answer"), "{errors}");
    let recording = read(&files(&folder.path().join("deliveries"))[0]);
    assert_eq!(recording["answer"]["status"], 502);
    assert!(
        recording["answer"]["error"]
            .as_str()
            .is_some_and(|error| error.contains("nothing listens")),
        "{recording}"
    );
}

#[test]
fn planted_secrets_and_names_are_nowhere_in_the_folder() {
    let folder = tempfile::tempdir().expect("a folder");
    let secret = folder.path().join("secret");
    let rules = folder.path().join("rules.toml");
    fs::write(&secret, "s3cr/et+x").expect("written");
    let mut text = botisimo(&["record", "--show-rules"]).stdout;
    text.push_str(
        "\n[[rules]]\nkind = \"name\"\nheaders = [\"x-streamer\"]\nmembers = [\"data.owner\"]\n",
    );
    fs::write(&rules, text).expect("written");
    let args = [
        "--count",
        "6",
        "--scrub",
        rules.to_str().expect("UTF-8"),
        "--secret-file",
        secret.to_str().expect("UTF-8"),
    ];
    let recorder = Recorder::start(&args);
    let url = format!(
        "{}/ada.lovelace?token=s3cr%2Fet%2Bx&user=ada.lovelace",
        recorder.url
    );
    let data = json!({
        "title": "ada.lovelace plays, write to ada@example.org or ADA@example.org",
        "name": "ada.lovelace", "owner": "Gräce \"H\"", "note": "Gräce \"H\" and s3cr/et+x", "id": 7_654_321,
        "list": [{ "login": "ada.lovelace" }, "7654321", 7_654_321], "token": "tok-1234567",
        "nested": { "email": ["x.y@example.net"], "text": "token tok-1234567" },
        "ada.lovelace": "as a key",
    });
    let plain = [
        "connection.stream.started",
        "--data",
        &data.to_string(),
        "-H",
        "x-streamer: Marie Curie",
        "-H",
        "x-note: Marie Curie and tok-1234567",
        "-H",
        "cookie: session=ada.lovelace",
        "-H",
        "x-forwarded-for: 203.0.113.77",
    ];
    assert_eq!(send(&url, &plain).code(), 0);
    // A later delivery mentions an earlier name in another member.
    assert_eq!(
        send(
            &url,
            &[
                "account.updated",
                "--data",
                r#"{"comment":"hi ada.lovelace (7654321)"}"#
            ]
        )
        .code(),
        0
    );
    // The event type and the id contain a name.
    assert_eq!(
        send(&url, &["ada.lovelace.updated", "--id", "ada.lovelace-1"]).code(),
        0
    );
    // Escapes in the JSON text.
    let escaped = br#"{"messageId":"m","timestamp":1,"eventType":"a.b","data":{"x":"\u0061da.lovelace","name":"\u0041lan Turing","y":"Alan\u0020Turing"}}"#;
    assert_eq!(botisimo_raw(&url, escaped).code(), 0);
    // Bodies that the rules can't read.
    botisimo_raw(&url, b"ada.lovelace isn't JSON");
    botisimo_raw(&url, b"\xffada.lovelace");
    let (lines, errors, recorded) = recorder.end();
    assert!(errors.contains("isn't JSON"), "{errors}");
    let planted = [
        "ada.lovelace",
        "ADA@example.org",
        "ada@example.org",
        "x.y@example.net",
        "Gräce",
        "Gr\\u00e4ce",
        "s3cr/et+x",
        "s3cr%2Fet%2Bx",
        "tok-1234567",
        "7654321",
        "Marie Curie",
        "Marie+Curie",
        "Alan",
        "\\u0041lan",
        "session=",
        "203.0.113.77",
    ];
    let mut everything = format!("{lines:?}{errors}").into_bytes();
    for path in files(&recorded.path().join("deliveries")) {
        everything.extend(path.to_str().expect("UTF-8").bytes());
        everything.extend(fs::read(path).expect("a file"));
    }
    for planted in planted {
        let found = everything
            .windows(planted.len())
            .any(|window| window == planted.as_bytes());
        assert!(
            !found,
            "{planted} is stored: {}",
            String::from_utf8_lossy(&everything)
        );
    }
    // The structure stays, so the recording still works as a test.
    let files = files(&recorded.path().join("deliveries"));
    let body: Value =
        serde_json::from_str(read(&files[0])["body"].as_str().expect("text")).expect("JSON");
    let name = body["data"]["name"].as_str().expect("a name");
    assert!(
        name.starts_with("name-")
            && body["data"]["title"]
                .as_str()
                .is_some_and(|title| title.starts_with(name)),
        "{body}"
    );
    assert!(body["data"]["id"].is_u64(), "{body}");
    assert!(read(&files[4])["body_omitted"].is_string());
}

#[test]
fn a_secret_that_the_answer_repeats_is_not_stored() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let endpoint = format!("http://{}/hook", listener.local_addr().expect("it listens"));
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut head = [0; 4096];
        let _ = std::io::Read::read(&mut stream, &mut head);
        let answer = "HTTP/1.1 308 Permanent Redirect\r\nlocation: https://example.com/hook?token=s3cr%2Fet-1\r\n\
            content-length: 10\r\nconnection: close\r\n\r\ns3cr/et-1\n";
        std::io::Write::write_all(&mut stream, answer.as_bytes()).expect("written");
    });
    let recorder = Recorder::start(&["--count", "1", "--forward", &endpoint]);
    // The recorder doesn't know the secret, because it is only in the sender's URL.
    let url = format!("{}/hook?token=s3cr%2Fet-1", recorder.url);
    assert_eq!(send(&url, &["account.updated"]).code(), 1);
    let (_, _, folder) = recorder.end();
    let stored = files(&folder.path().join("deliveries"));
    let answer = read(&stored[0])["answer"].clone();
    assert_eq!(answer["status"], 308);
    assert!(!answer.to_string().contains("s3cr"), "{answer}");
    assert!(
        answer
            .to_string()
            .contains("https://example.com/hook?token=scrubbed"),
        "{answer}"
    );
}

#[test]
fn a_key_makes_the_same_stand_ins_in_every_run() {
    let folder = tempfile::tempdir().expect("a folder");
    let key = folder.path().join("key");
    fs::write(&key, "0123456789abcdef0123456789abcdef").expect("written");
    let body = |args: &[&str]| {
        let recorder = Recorder::start(&[&["--scrub", "default", "--count", "1"], args].concat());
        send(
            &recorder.url,
            &["account.updated", "--id", "m", "--timestamp", "1"],
        );
        let (_, _, folder) = recorder.end();
        read(&files(&folder.path().join("deliveries"))[0])["body"].clone()
    };
    let with_key = ["--scrub-key-file", key.to_str().expect("UTF-8")];
    assert_eq!(body(&with_key), body(&with_key));
    assert_ne!(body(&[]), body(&[]));
    fs::write(&key, "short").expect("written");
    let short = botisimo(
        &[
            &["record", "--to", "x", "--scrub", "default"],
            &with_key[..],
        ]
        .concat(),
    );
    assert_eq!(short.code(), 2);
    assert!(short.stderr.contains("shorter than 16 bytes"), "{short:?}");
}

#[test]
fn a_replay_sends_the_same_bytes() {
    let recorder = Recorder::start(&["--count", "3"]);
    let bodies: [&[u8]; 3] = [
        b"{\"messageId\":\"m-1\", \"timestamp\":1,  \"eventType\":\"account.updated\",\"data\":{\"name\":\"\xc3\xa9\"}}",
        b"\xff\x00 not JSON",
        b"",
    ];
    for body in bodies {
        assert_eq!(botisimo_raw(&recorder.url, body).code(), 0);
    }
    let (_, _, first) = recorder.end();
    let recorder = Recorder::start(&["--count", "3"]);
    let folder = first.path().join("deliveries");
    let replayed = botisimo(&[
        "replay",
        folder.to_str().expect("UTF-8"),
        "--to",
        &recorder.url,
        "--speed",
        "max",
    ]);
    assert_eq!(replayed.code(), 0, "{replayed:?}");
    assert!(replayed.stdout.contains("3 requests to"), "{replayed:?}");
    let (_, _, second) = recorder.end();
    for (first, second) in files(&folder)
        .iter()
        .zip(files(&second.path().join("deliveries")))
    {
        let (first, second) = (read(first), read(&second));
        for member in ["body", "body_hex", "method", "path"] {
            assert_eq!(first[member], second[member]);
        }
    }
}

#[test]
fn a_replay_can_make_new_ids_and_move_the_time() {
    let recorder = Recorder::start(&["--count", "1"]);
    send(
        &recorder.url,
        &["account.updated", "--id", "m-1", "--timestamp", "1000"],
    );
    let (_, _, first) = recorder.end();
    let path = files(&first.path().join("deliveries"))[0].clone();
    let mut old = read(&path);
    old["received_at"] = json!("2020-01-01T00:00:00.000Z");
    fs::write(&path, old.to_string()).expect("written");
    let recorder = Recorder::start(&["--count", "2"]);
    let replay = |args: &[&str]| {
        let replayed = botisimo(
            &[
                &[
                    "replay",
                    path.to_str().expect("UTF-8"),
                    "--to",
                    &recorder.url,
                ],
                args,
            ]
            .concat(),
        );
        assert_eq!(replayed.code(), 0, "{replayed:?}");
    };
    replay(&["--new-ids"]);
    replay(&["--now"]);
    let (_, _, second) = recorder.end();
    let bodies: Vec<Value> = files(&second.path().join("deliveries"))
        .iter()
        .map(|path| serde_json::from_str(read(path)["body"].as_str().expect("text")).expect("JSON"))
        .collect();
    assert_ne!(bodies[0]["messageId"], "m-1");
    assert_eq!(bodies[0]["timestamp"], 1000);
    assert_eq!(bodies[1]["messageId"], "m-1");
    assert!(
        bodies[1]["timestamp"].as_i64() > Some(5 * 365 * 86_400_000),
        "{}",
        bodies[1]
    );
}

#[test]
fn a_folder_that_cannot_be_written_gets_503_and_the_delivery_is_not_lost() {
    let recorder = Recorder::start(&["--count", "2"]);
    fs::remove_dir_all(recorder.folder()).expect("removed");
    let refused = send(&recorder.url, &["account.updated"]);
    assert!(refused.stdout.contains("503"), "{refused:?}");
    fs::create_dir(recorder.folder()).expect("created");
    assert_eq!(send(&recorder.url, &["account.updated"]).code(), 0);
    let (_, errors, folder) = recorder.end();
    assert!(errors.contains("isn't stored"), "{errors}");
    assert_eq!(files(&folder.path().join("deliveries")).len(), 1);
}

#[test]
fn a_kill_leaves_only_complete_files() {
    for _ in 0..5 {
        let mut recorder = Recorder::start(&[]);
        let url = recorder.url.clone();
        let sender = std::thread::spawn(move || {
            botisimo(&[
                "send",
                "account.updated",
                "--to",
                &url,
                "--times",
                "400",
                "--concurrency",
                "8",
            ])
        });
        let mut line = String::new();
        while fs::read_dir(recorder.folder()).map_or(0, Iterator::count) < 20 {
            recorder.stdout.read_line(&mut line).expect("UTF-8");
        }
        recorder.child.kill().expect("killed");
        recorder.child.wait().expect("it ends");
        sender.join().expect("the sender ends");
        let paths = files(&recorder.folder());
        let complete = paths.iter().filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "json")
        });
        let mut count = 0;
        for path in complete {
            assert_eq!(read(path)["answer"]["status"], 200);
            count += 1;
        }
        assert!(count >= 10, "{paths:?}");
        // A second run continues the numbers.
        let folder =
            std::mem::replace(&mut recorder.folder, tempfile::tempdir().expect("a folder"));
        let again = Recorder::start_in(folder, &["--count", "1"], |_| ());
        assert_eq!(send(&again.url, &["account.updated"]).code(), 0);
        let (_, _, folder) = again.end();
        let names = files(&folder.path().join("deliveries"));
        let names = names.iter().filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "json")
        });
        assert_eq!(names.count(), count + 1);
    }
}

#[test]
fn a_body_that_never_ends_stores_nothing() {
    let recorder = Recorder::start(&["--count", "1"]);
    let address = recorder
        .url
        .strip_prefix("http://")
        .expect("a URL")
        .split('/')
        .next()
        .expect("a host")
        .to_owned();
    let mut stream = TcpStream::connect(address).expect("connected");
    stream
        .write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n{")
        .expect("written");
    drop(stream);
    assert_eq!(send(&recorder.url, &["account.updated"]).code(), 0);
    let (lines, _, folder) = recorder.end();
    assert_eq!(lines.len(), 1);
    assert_eq!(files(&folder.path().join("deliveries")).len(), 1);
}

#[test]
fn wrong_recordings_and_wrong_arguments_say_what_to_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().to_str().expect("UTF-8");
    let empty = botisimo(&["replay", path]);
    assert_eq!(empty.code(), 2);
    assert!(empty.stderr.contains("contains no recording"), "{empty:?}");
    for (text, expected) in [
        ("{", "is not a recording"),
        (
            r#"{"version":9}"#,
            "version 9 of the format is not supported",
        ),
        (
            r#"{"version":1,"method":"POST","path":"/","headers":[]}"#,
            "missing field `received_at`",
        ),
    ] {
        fs::write(folder.path().join("a.json"), text).expect("written");
        let wrong = botisimo(&["replay", path]);
        assert_eq!(wrong.code(), 2, "{wrong:?}");
        assert!(
            wrong.stderr.contains(expected) && wrong.stderr.contains("a.json"),
            "{wrong:?}"
        );
    }
    let rules = botisimo(&["record", "--to", path, "--scrub", "/missing.toml"]);
    assert!(rules.stderr.contains("or `default`"), "{rules:?}");
    let taken = TcpStream::connect("127.0.0.1:1");
    assert!(taken.is_err());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("it listens").to_string();
    let taken = botisimo(&["record", "--to", path, "--listen", &address]);
    assert_eq!(taken.code(), 3);
    assert!(taken.stderr.contains("--listen"), "{taken:?}");
    assert_eq!(botisimo(&["replay", path, "--speed", "0"]).code(), 2);
}

#[test]
fn the_transcript_of_the_guide_is_true() {
    let example = Example::start("quickstart", &[]);
    let folder = tempfile::tempdir().expect("a folder");
    let to = folder.path().join("deliveries");
    let to = to.to_str().expect("UTF-8");
    let args = [
        "record",
        "--to",
        to,
        "--listen",
        "127.0.0.1:0",
        "--scrub",
        "default",
        "--count",
        "1",
        "--forward",
        &example.url(),
    ];
    let mut child = command(&args)
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
    let mut text = String::new();
    stdout.read_line(&mut text).expect("UTF-8");
    let address = text
        .split(' ')
        .find_map(|word| word.strip_prefix("http://"))
        .expect("an address");
    let address = address.trim_end_matches('.').to_owned();
    send(&format!("http://{address}/"), &["account.updated"]);
    stdout.read_to_string(&mut text).expect("UTF-8");
    child.wait().expect("it ends");
    let text = stable(
        &text
            .replace(&address, "127.0.0.1:3001")
            .replace(to, "deliveries"),
        &example,
    );
    let call = "botisimo record --to deliveries --scrub default --forward http://127.0.0.1:3000/webhooks/botisimo --count 1";
    transcript("record.md", "record", &format!("$ {call}\n{text}"));
    let replayed = ran(&mut command(&["replay", to, "--to", &example.url()]));
    let lines: Vec<_> = replayed.stdout.lines().take(4).collect();
    assert!(lines[0].starts_with("1 requests to"), "{replayed:?}");
}

/// Starts an endpoint that repeats the headers, the path and the body of each request in a text.
fn repeating_endpoint() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let url = format!("http://{}/hook", listener.local_addr().expect("it listens"));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a client connects");
            let mut request = vec![0; 64 << 10];
            let length = stream.read(&mut request).expect("a request");
            let text = String::from_utf8_lossy(&request[..length]).into_owned();
            let head = format!(
                "HTTP/1.1 400 X\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
                text.len()
            );
            let _ = stream.write_all(head.as_bytes());
            let _ = stream.write_all(text.as_bytes());
        }
    });
    url
}

#[test]
fn secrets_that_an_answer_repeats_and_a_secret_in_other_bytes_are_not_stored() {
    let folder = tempfile::tempdir().expect("a folder");
    let secret = folder.path().join("secret");
    fs::write(&secret, "s3cret-of-mine").expect("written");
    let forward = repeating_endpoint();
    let args = [
        "--forward",
        &forward,
        "--count",
        "2",
        "--secret-file",
        secret.to_str().expect("UTF-8"),
    ];
    let recorder = Recorder::start(&args);
    let url = format!("{}?token-without-value", recorder.url);
    send(
        &url,
        &[
            "account.updated",
            "-H",
            "authorization: Bearer abcdef123",
            "-H",
            "cookie: sid=cookie-value",
        ],
    );
    botisimo_raw(&url, b"\xff s3cret-of-mine");
    let (_, _, folder) = recorder.end();
    let paths = files(&folder.path().join("deliveries"));
    let all = paths
        .iter()
        .map(|path| fs::read_to_string(path).expect("UTF-8"))
        .collect::<String>();
    let hex = "s3cret-of-mine"
        .bytes()
        .map(|byte| format!("{byte:02x}"))
        .collect::<String>();
    for planted in [
        "abcdef123",
        "cookie-value",
        "token-without-value",
        "s3cret-of-mine",
        &hex,
    ] {
        assert!(!all.contains(planted), "{planted}: {all}");
    }
    let replayed = botisimo(&[
        "replay",
        folder.path().join("deliveries").to_str().expect("UTF-8"),
        "--to",
        &forward,
    ]);
    assert!(
        replayed
            .stderr
            .contains("is skipped: the body contains the secret"),
        "{replayed:?}"
    );
    assert!(replayed.stdout.starts_with("1 requests"), "{replayed:?}");
}

#[test]
fn names_in_the_path_and_in_answers_that_are_no_json_are_not_stored() {
    let folder = tempfile::tempdir().expect("a folder");
    let rules = folder.path().join("rules.toml");
    fs::write(
        &rules,
        "[[rules]]\nkind = \"name\"\nheaders = [\"x-streamer\"]\n",
    )
    .expect("written");
    let forward = repeating_endpoint();
    let recorder = Recorder::start(&[
        "--forward",
        &forward,
        "--count",
        "1",
        "--scrub",
        rules.to_str().expect("UTF-8"),
    ]);
    let url = format!("{}/Marie%20Curie", recorder.url);
    send(
        &url,
        &[
            "account.updated",
            "--data",
            r#"{"note":"unknown to the rules"}"#,
            "-H",
            "x-streamer: Marie Curie",
        ],
    );
    let (_, _, folder) = recorder.end();
    let recording = read(&files(&folder.path().join("deliveries"))[0]);
    assert!(!recording.to_string().contains("Marie"), "{recording}");
    let answer = recording["answer"]["body"].as_str().expect("a text");
    assert!(answer.starts_with("(not stored"), "{answer}");
}

#[test]
fn a_delivery_is_stored_even_if_the_client_leaves_before_the_answer() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let forward = format!("http://{}/hook", listener.local_addr().expect("it listens"));
    let recorder = Recorder::start(&["--forward", &forward, "--count", "1"]);
    let left = botisimo(&[
        "send",
        "account.updated",
        "--to",
        &recorder.url,
        "--timeout",
        "300ms",
    ]);
    assert_eq!(left.code(), 3, "{left:?}");
    let (mut stream, _) = listener.accept().expect("the delivery is forwarded");
    stream
        .write_all(b"HTTP/1.1 204 X\r\nconnection: close\r\n\r\n")
        .expect("written");
    drop(stream);
    let (lines, _, folder) = recorder.end();
    assert_eq!(lines.len(), 1, "{lines:?}");
    let recording = read(&files(&folder.path().join("deliveries"))[0]);
    assert_eq!(recording["answer"]["status"], 204);
}
