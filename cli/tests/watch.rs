//! `botisimo watch`, against the inspector of the example `operate` and against servers that are wrong on purpose.

mod support;

use std::io::{BufRead, BufReader};
#[cfg(target_os = "linux")]
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use serde_json::{Value, json};
use tempfile::TempDir;

use support::{Example, Ran, botisimo, command, ran, stable, transcript, until};

const PASSWORD: &str = "correct horse";

/// The example `operate` with an inbox of its own.
struct Operate {
    example: Example,
    folder: TempDir,
}

impl Operate {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let example = Self::example(&folder, "127.0.0.1:0");
        Self { example, folder }
    }

    fn example(folder: &TempDir, address: &str) -> Example {
        let inbox = folder.path().join("inbox.db");
        let inbox = inbox.to_str().expect("the path is UTF-8");
        let variables = [
            ("ADMIN_PASSWORD", PASSWORD),
            ("INBOX", inbox),
            ("ADDR", address),
        ];
        Example::start_with_features("operate", "inspector,metrics,signal,sqlite", &variables)
    }

    fn url(&self) -> String {
        format!("http://{}/admin/webhooks", self.example.address())
    }

    /// Sends an event with sample data, which its route handles.
    fn send(&self, id: &str) {
        self.send_event(&["account.updated", "--id", id]);
    }

    /// Sends an event whose data doesn't fit its route, so it becomes a dead letter.
    fn send_dead(&self, id: &str) {
        self.send_event(&["poll.created", "--id", id, "--data", "{\"question\":1}"]);
    }

    fn send_event(&self, args: &[&str]) {
        let url = self.example.url();
        let mut all = vec!["send", "--to", &url];
        all.extend(args);
        let sent = botisimo(&all);
        assert_eq!(sent.code(), 0, "{sent:?}");
    }

    /// Returns the command as the user `admin`.
    fn watch(&self, args: &[&str]) -> Command {
        let url = self.url();
        let mut command = command(&["watch", &url, "--user", "admin"]);
        command.args(args).env("BOTISIMO_PASSWORD", PASSWORD);
        command
    }

    fn once(&self, args: &[&str]) -> Ran {
        let mut all = vec!["--once"];
        all.extend(args);
        ran(&mut self.watch(&all))
    }

    /// Waits until no event is in flight.
    fn idle(&self, events: usize) {
        until("the events have ended", || {
            let listed = self.once(&["--json"]).json();
            let ended = |line: &&Value| {
                matches!(
                    line["event"]["state"].as_str(),
                    Some("handled" | "unhandled" | "dead")
                )
            };
            listed.iter().filter(ended).count() == events
        });
    }
}

/// A running command, whose lines are read as they arrive.
struct Running {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Running {
    fn start(command: &mut Command) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the command starts");
        let lines = Arc::new(Mutex::new(Vec::new()));
        let stdout = child.stdout.take().expect("stdout is piped");
        let stderr = child.stderr.take().expect("stderr is piped");
        read(BufReader::new(stdout), Arc::clone(&lines));
        read(BufReader::new(stderr), Arc::clone(&lines));
        Self { child, lines }
    }

    fn lines(&self) -> Vec<String> {
        self.lines.lock().expect("no reader panics").clone()
    }

    #[track_caller]
    fn until_line(&self, text: &str) {
        until(text, || self.lines().iter().any(|line| line.contains(text)));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read(reader: impl BufRead + Send + 'static, lines: Arc<Mutex<Vec<String>>>) {
    thread::spawn(move || {
        for line in reader.lines().map_while(Result::ok) {
            lines.lock().expect("no reader panics").push(line);
        }
    });
}

/// Starts a server in this process, which answers every request alike.
fn server<R: IntoResponse + Clone + Send + Sync + 'static>(answer: R) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.set_nonblocking(true).expect("a socket");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
            let app = Router::new().fallback(move || {
                let answer = answer.clone();
                async move { answer }
            });
            axum::serve(listener, app).await.expect("the server runs");
        });
    });
    format!("http://{address}/admin")
}

#[test]
fn a_list_has_each_event_with_its_result() {
    let operate = Operate::start();
    operate.send("20612112-0305-46a9-a67a-e3ffc5bb7a18");
    operate.send_dead("20612112-0305-46a9-a67a-e3ffc5bb7a19");
    operate.idle(2);

    let listed = operate.once(&[]);
    assert_eq!(listed.code(), 0, "{listed:?}");
    let time = regex::Regex::new(r"[0-9-]{10}T[0-9:]{8}Z").expect("valid");
    let shown = stable(&listed.stdout, &operate.example);
    let shown = time.replace_all(&shown, "2026-11-27T12:20:00Z");
    let text = format!(
        "$ botisimo watch http://127.0.0.1:3000/admin/webhooks --user admin --once\n{shown}"
    );
    transcript("watch.md", "once", &text);

    let dead = operate.once(&["--state", "dead", "--json"]).json();
    assert_eq!(dead.len(), 1);
    assert_eq!(
        dead[0]["event"]["message_id"],
        "20612112-0305-46a9-a67a-e3ffc5bb7a19"
    );
    assert_eq!(
        dead[0]["event"]["history"].as_array().map(Vec::len),
        Some(1)
    );
    let page = format!("{}?page=dead-letters", operate.url());
    let mut of_page = command(&["watch", &page, "--user", "admin", "--once", "--json"]);
    let of_page = ran(of_page.env("BOTISIMO_PASSWORD", PASSWORD)).json();
    assert_eq!(of_page, dead, "the filter in the URL of a page");
    assert_eq!(operate.once(&["--type", "chat.*"]).stdout, "");
    let wrong = operate.once(&["--since", "yesterday"]);
    assert_eq!(wrong.code(), 2);
    assert!(wrong.stderr.contains("write 1h, 7d or"), "{wrong:?}");
}

#[test]
fn a_script_waits_for_the_next_dead_letter() {
    let operate = Operate::start();
    operate.send_dead("old");
    operate.idle(1);
    let args = ["--new", "--state", "dead", "--count", "1", "--json"];
    let mut waiting = Running::start(&mut operate.watch(&args));
    // The command may still be loading the first list, so several letters are sent.
    let mut number = 0;
    until("the command ends", || {
        number += 1;
        operate.send_dead(&format!("new-{number}"));
        matches!(waiting.child.try_wait(), Ok(Some(status)) if status.success())
    });
    until("the line is read", || !waiting.lines().is_empty());
    let lines = waiting.lines();
    assert_eq!(lines.len(), 1, "{lines:?}");
    let line: Value = serde_json::from_str(&lines[0]).expect("JSON");
    let id = line["event"]["message_id"].as_str().expect("an id");
    assert!(id.starts_with("new-"), "{lines:?}");
}

#[test]
fn the_command_ends_after_its_time() {
    let operate = Operate::start();
    let ended = ran(&mut operate.watch(&["--for", "100ms"]));
    assert_eq!((ended.code(), ended.stdout.as_str()), (0, ""));
}

#[test]
fn after_a_restart_of_the_server_the_command_connects_again() {
    let mut operate = Operate::start();
    let watching = Running::start(&mut operate.watch(&[]));
    operate.send("before");
    watching.until_line(" before ");
    let address = operate.example.address().to_owned();
    operate.example.kill();
    watching.until_line("warning: disconnected: ");
    operate.example = Operate::example(&operate.folder, &address);
    watching.until_line("connected again");
    operate.send_dead("after");
    watching.until_line(" dead      poll.created after ");
    let lines = watching.lines();
    let before = lines
        .iter()
        .filter(|line| line.contains(" handled ") && line.contains(" before "));
    assert_eq!(
        before.count(),
        1,
        "a known event isn't printed again: {lines:?}"
    );
}

#[test]
fn a_refused_user_is_told_what_to_do() {
    let operate = Operate::start();
    let url = operate.url();
    let nobody = botisimo(&["watch", &url]);
    assert_eq!(nobody.code(), 2);
    assert!(
        nobody
            .stderr
            .contains("pass --user NAME, and set BOTISIMO_PASSWORD"),
        "{nobody:?}"
    );
    let mut wrong = command(&["watch", &url, "--user", "admin"]);
    let wrong = ran(wrong.env("BOTISIMO_PASSWORD", "battery staple"));
    assert_eq!(wrong.code(), 2);
    assert!(
        wrong.stderr.contains("refuses the user admin: check"),
        "{wrong:?}"
    );
    assert!(!wrong.stderr.contains("battery"), "{wrong:?}");
    let unset = botisimo(&["watch", &url, "--user", "admin"]);
    assert!(
        unset
            .stderr
            .contains("set the environment variable BOTISIMO_PASSWORD"),
        "{unset:?}"
    );

    let file = operate.folder.path().join("password");
    std::fs::write(&file, format!("{PASSWORD}\n")).expect("the file is written");
    let file = file.to_str().expect("UTF-8");
    let good = botisimo(&[
        "watch",
        &url,
        "--user",
        "admin",
        "--password-file",
        file,
        "--once",
    ]);
    assert_eq!(good.code(), 0, "{good:?}");
    let mut other = command(&[
        "watch",
        &url,
        "--user",
        "admin",
        "--password-env",
        "OTHER",
        "--once",
    ]);
    assert_eq!(ran(other.env("OTHER", PASSWORD)).code(), 0);
}

#[test]
fn a_wrong_url_is_explained() {
    let closed = botisimo(&["watch", "http://127.0.0.1:1/admin"]);
    assert_eq!(closed.code(), 3);
    assert!(
        closed.stderr.contains("nothing listens on 127.0.0.1:1"),
        "{closed:?}"
    );
    let page = server(([(header::CONTENT_TYPE, "text/html")], "<p>hello"));
    let redirect = server((StatusCode::FOUND, [(header::LOCATION, "/login")], ""));
    for (url, text) in [
        (page, "isn't the URL of an inspector"),
        (
            server(StatusCode::NOT_FOUND),
            "isn't the URL of an inspector",
        ),
        (
            server(([(header::CONTENT_TYPE, "application/json")], "[1]")),
            "isn't the URL of an inspector",
        ),
        (redirect, "pass the URL of the inspector"),
        (
            "http://ana:secret@127.0.0.1/admin".to_owned(),
            "pass --user NAME",
        ),
    ] {
        let refused = botisimo(&["watch", &url]);
        assert_eq!(refused.code(), 2, "{refused:?}");
        assert!(refused.stderr.contains(text), "{refused:?}");
        assert!(!refused.stderr.contains("secret"), "{refused:?}");
    }
    let overloaded = botisimo(&["watch", &server(StatusCode::SERVICE_UNAVAILABLE)]);
    assert_eq!(overloaded.code(), 3);
}

#[test]
fn hostile_text_never_reaches_the_terminal() {
    let hostile = "x\u{1b}[2J\u{9b}1m\u{7}\r\n\u{202e}y";
    let is_raw =
        |text: &str| text.contains(|c: char| (c.is_control() && c != '\n') || c == '\u{202e}');
    let event = json!({
        "id": 1, "message_id": hostile, "event_type": hostile, "state": hostile, "cause": hostile, "attempts": 1,
        "routes": [{ "route": hostile, "reason": hostile }], "history": [], "received_at": 0, "ended_at": null
    });
    let list = json!({ "events": [event] }).to_string();
    let url = server(([(header::CONTENT_TYPE, "application/json")], list));
    let lines = botisimo(&["watch", &url, "--once"]);
    // The feed of this server isn't one, but the list arrives first.
    assert!(
        !is_raw(&lines.stdout) && !is_raw(&lines.stderr),
        "{lines:?}"
    );
    let json = botisimo(&["watch", &url, "--once", "--json"]);
    assert!(!is_raw(&json.stdout), "{json:?}");
    for status in [
        StatusCode::BAD_REQUEST,
        StatusCode::FORBIDDEN,
        StatusCode::NOT_FOUND,
        StatusCode::BAD_GATEWAY,
    ] {
        let url = server((status, hostile));
        let refused = botisimo(&["watch", &url]);
        assert!(
            refused.stderr.contains("x\\u{1b}[2J\\u{9b}1m"),
            "{refused:?}"
        );
        assert!(!is_raw(&refused.stderr), "{refused:?}");
    }
}

#[test]
fn the_reader_of_a_pipe_may_leave() {
    let operate = Operate::start();
    operate.send("1");
    let mut watching = operate.watch(&[]);
    watching.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = watching.spawn().expect("the command starts");
    let mut first = String::new();
    let mut stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
    stdout.read_line(&mut first).expect("a line");
    assert!(first.contains("account.updated"), "{first}");
    drop(stdout);
    let mut number = 1;
    until("the command ends", || {
        number += 1;
        operate.send(&number.to_string());
        matches!(child.try_wait(), Ok(Some(_)))
    });
}

/// The command in a terminal of the tool `script`, which is part of every Linux distribution.
#[cfg(target_os = "linux")]
struct InTerminal {
    child: Child,
    screen: Arc<Mutex<Vec<u8>>>,
}

#[cfg(target_os = "linux")]
impl InTerminal {
    fn start(operate: &Operate) -> Self {
        let line = format!(
            "stty rows 24 cols 80; echo \"pid $$.\"; exec {} watch {} --user admin",
            env!("CARGO_BIN_EXE_botisimo"),
            operate.url()
        );
        let mut command = Command::new("script");
        command.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
        command.env("BOTISIMO_PASSWORD", PASSWORD);
        command.env("TERM", "xterm").env("SHELL", "/bin/sh");
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("`script` is installed");
        let screen = Arc::new(Mutex::new(Vec::new()));
        let mut stdout = child.stdout.take().expect("stdout is piped");
        let bytes = Arc::clone(&screen);
        thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(length @ 1..) = stdout.read(&mut chunk) {
                let mut bytes = bytes.lock().expect("no reader panics");
                bytes.extend_from_slice(&chunk[..length]);
            }
        });
        Self { child, screen }
    }

    fn text(&self) -> String {
        let bytes = self.screen.lock().expect("no reader panics");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    #[track_caller]
    fn until_text(&self, text: &str) {
        until(text, || self.text().contains(text));
    }

    fn press(&mut self, keys: &str) {
        let stdin = self.child.stdin.as_mut().expect("stdin is piped");
        stdin
            .write_all(keys.as_bytes())
            .expect("the terminal reads");
        stdin.flush().expect("the terminal reads");
    }

    fn pid(&self) -> String {
        let text = self.text();
        let (_, rest) = text.split_once("pid ").expect("the shell prints it");
        rest.split_once('.').expect("it ends").0.to_owned()
    }
}

#[cfg(target_os = "linux")]
impl Drop for InTerminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(target_os = "linux")]
#[test]
fn the_view_opens_an_event_replays_it_and_restores_the_terminal() {
    let operate = Operate::start();
    operate.send_dead("m-1");
    operate.idle(1);
    let (enter, leave) = ("\u{1b}[?1049h", "\u{1b}[?1049l");
    for ending in ["q", "\u{3}", "SIGTERM"] {
        let mut view = InTerminal::start(&operate);
        view.until_text("poll.created");
        assert!(view.text().contains(enter));
        if ending == "q" {
            view.press("\r");
            view.until_text("Payload");
            view.press("r");
            view.until_text("Replay event 1");
            view.press("y");
            view.until_text("is replayed");
        }
        assert!(!view.text().contains(leave));
        match ending {
            "SIGTERM" => {
                let killed = Command::new("kill").arg(view.pid()).status();
                assert!(killed.expect("`kill` is installed").success());
            }
            keys => view.press(keys),
        }
        until("the command ends", || {
            matches!(view.child.try_wait(), Ok(Some(_)))
        });
        let status = view.child.wait().expect("the command has ended");
        assert_eq!(status.code(), Some(0), "{ending:?}: {}", view.text());
        view.until_text(leave);
    }
    operate.idle(1);
    let listed = operate.once(&["--json"]).json();
    let history = listed[0]["event"]["history"].as_array();
    assert_eq!(history.map(Vec::len), Some(2), "{listed:?}");
}
