//! Runs the real binary, and the real examples as endpoints.
#![allow(dead_code)] // each test binary uses only some items

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use serde_json::Value;

/// The time after which a test fails instead of waiting longer.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);

/// The exit status and the output of a run of the binary.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    pub(crate) fn code(&self) -> i32 {
        self.status.code().expect("the binary wasn't killed")
    }

    /// Returns each line of stdout as JSON.
    pub(crate) fn json(&self) -> Vec<Value> {
        let lines = self.stdout.lines();
        lines
            .map(|line| serde_json::from_str(line).expect(line))
            .collect()
    }
}

/// Returns the command `botisimo`, without the environment's secret and colors.
pub(crate) fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_botisimo"));
    command.args(args).env("NO_COLOR", "1").stdin(Stdio::null());
    for variable in [
        "BOTISIMO_SECRET",
        "BOTISIMO_PASSWORD",
        "CLICOLOR_FORCE",
        "COLUMNS",
    ] {
        command.env_remove(variable);
    }
    command
}

/// Runs `botisimo` to its end.
#[track_caller]
pub(crate) fn botisimo(args: &[&str]) -> Ran {
    ran(&mut command(args))
}

/// Runs a command to its end.
#[track_caller]
pub(crate) fn ran(command: &mut Command) -> Ran {
    let output = command.output().expect("the command starts");
    Ran {
        status: output.status,
        stdout: String::from_utf8(output.stdout).expect("stdout is UTF-8"),
        stderr: String::from_utf8(output.stderr).expect("stderr is UTF-8"),
    }
}

/// Runs `botisimo` with this input on stdin.
#[track_caller]
pub(crate) fn botisimo_with_input(args: &[&str], input: &[u8]) -> Ran {
    let mut command = command(args);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("the command starts");
    let mut stdin = child.stdin.take().expect("stdin is piped");
    // The command may end before it has read everything.
    let _ = stdin.write_all(input);
    drop(stdin);
    let output = child.wait_with_output().expect("the command ends");
    Ran {
        status: output.status,
        stdout: String::from_utf8(output.stdout).expect("stdout is UTF-8"),
        stderr: String::from_utf8(output.stderr).expect("stderr is UTF-8"),
    }
}

/// An example of the library, as a process on a free port. Dropping it kills the process.
pub(crate) struct Example {
    child: Child,
    address: String,
    stdout: Arc<Mutex<Vec<String>>>,
}

impl Example {
    /// Builds an example and starts it. Waits until the example listens.
    #[track_caller]
    pub(crate) fn start(name: &str, variables: &[(&str, &str)]) -> Self {
        Self::start_with_features(name, "", variables)
    }

    /// Builds an example with these features of the library.
    #[track_caller]
    pub(crate) fn start_with_features(
        name: &str,
        features: &str,
        variables: &[(&str, &str)],
    ) -> Self {
        let mut command = Command::new(built(name, features));
        command.env_remove("BOTISIMO_SECRET").env_remove("INBOX");
        command
            .env("ADDR", "127.0.0.1:0")
            .envs(variables.iter().copied());
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = command.spawn().expect("the example starts");
        let lines = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
        let stdout = Arc::new(Mutex::new(Vec::new()));
        let printed = Arc::clone(&stdout);
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                printed.lock().expect("no reader panics").push(line);
            }
        });
        let mut example = Self {
            child,
            address: String::new(),
            stdout,
        };
        let listening = "listening on http://";
        until("the example listens", || {
            let lines = example.lines();
            lines.iter().any(|line| line.starts_with(listening)) || example.has_ended()
        });
        let lines = example.lines();
        let line = lines.iter().find_map(|line| line.strip_prefix(listening));
        line.unwrap_or_else(|| panic!("{name} doesn't listen: {lines:?}"))
            .clone_into(&mut example.address);
        example
    }

    /// Returns the host and the port.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Returns the URL of the webhook.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/webhooks/botisimo", self.address)
    }

    /// Returns the lines that the example has printed.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.stdout
            .lock()
            .expect("the reader doesn't panic")
            .clone()
    }

    /// Returns the id of the process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills the process, as a crash would.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Builds an example with cargo, once for each test binary, and returns its path.
fn built(name: &str, features: &str) -> PathBuf {
    static BUILT: OnceLock<Mutex<Vec<(String, PathBuf)>>> = OnceLock::new();
    let mut built = BUILT
        .get_or_init(Mutex::default)
        .lock()
        .expect("no build panics");
    let key = format!("{name} {features}");
    if let Some((_, path)) = built.iter().find(|(known, _)| *known == key) {
        return path.clone();
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let cargo = env::var_os("CARGO").expect("cargo runs the tests");
    let mut command = Command::new(cargo);
    command
        .current_dir(&root)
        .args(["build", "--quiet", "--package", "botisimo-webhooks"]);
    command.args([
        "--example",
        name,
        "--features",
        features,
        "--message-format",
        "json",
    ]);
    let output = command.output().expect("cargo starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "the example {name} doesn't compile: {errors}"
    );
    let messages = String::from_utf8_lossy(&output.stdout);
    let mut executables = messages.lines().filter_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        Some(PathBuf::from(message.get("executable")?.as_str()?))
    });
    let path = executables.next_back().expect("cargo names the executable");
    built.push((key, path.clone()));
    path
}

/// Waits until a condition is true. Fails after [`TIMEOUT`].
#[track_caller]
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < TIMEOUT, "never true: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Compares a transcript with the block named `name` in a page of `src/guide/command_line/`.
///
/// The block follows the line `<!-- transcript: NAME -->`. With `UPDATE_TRANSCRIPTS=1`, rewrites the block instead.
#[track_caller]
pub(crate) fn transcript(page: &str, name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../src/guide/command_line")
        .join(page);
    // Several tests may renew blocks of one page.
    static PAGES: Mutex<()> = Mutex::new(());
    let _guard = PAGES
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut document = fs::read_to_string(&path).expect("the page exists");
    let marker = format!("<!-- transcript: {name} -->\n```text\n");
    let start = document
        .find(&marker)
        .unwrap_or_else(|| panic!("{page} has no transcript {name}"));
    let start = start + marker.len();
    let end = start + document[start..].find("```").expect("the block ends");
    let text = format!("{}\n", text.trim_end());
    if env::var_os("UPDATE_TRANSCRIPTS").is_some() {
        document.replace_range(start..end, &text);
        fs::write(&path, document).expect("the page can be written");
    } else {
        let shown = &document[start..end];
        assert_eq!(
            shown, text,
            "{page}: run the tests with UPDATE_TRANSCRIPTS=1"
        );
    }
}

/// Replaces what differs from run to run: the address of an example, UUIDs, and durations.
pub(crate) fn stable(text: &str, example: &Example) -> String {
    let text = text.replace(example.address(), "127.0.0.1:3000");
    let uuid = regex::Regex::new("[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}");
    let duration = regex::Regex::new(r"\b[0-9]+(\.[0-9]+)? (µs|ms|s)\b");
    let text = uuid
        .expect("valid")
        .replace_all(&text, "20612112-0305-46a9-a67a-e3ffc5bb7a18");
    duration
        .expect("valid")
        .replace_all(&text, "1.23 ms")
        .into_owned()
}
