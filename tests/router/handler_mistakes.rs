//! The usual mistakes in a handler don't compile, and rustc names the line and says what to do.
//!
//! The whole messages, which are worth reading, are in the `.stderr` files beside the mistakes.
//! They differ from one rustc to the next, so they are compared on one version only; on every
//! version the marked line and the words that matter must be there.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// The rustc that the `.stderr` files were written with, by `TRYBUILD=overwrite cargo test`.
const WRITTEN_WITH: &str = "release: 1.95.";

/// Each mistake, and what the message says of the line that is marked with `//~`.
const MISTAKES: [(&str, &str); 7] = [
    ("borrowed_local", "use the `move` keyword"),
    ("no_argument", "closure is expected to take 1 argument"),
    ("not_async", "`()` is not a future"),
    (
        "rc_across_await",
        "has type `Rc<String>` which is not `Send`",
    ),
    ("untyped_error", "Ok::<(), E>(())"),
    ("wrong_argument", "expected closure signature `fn(Event<_>)"),
    ("wrong_return", "a handler can't return `{integer}`"),
];

#[test]
fn each_mistake_is_explained_at_its_line() {
    let errors = check_all();
    for (name, phrase) in MISTAKES {
        let source = fs::read_to_string(source(name)).expect("a file of this name");
        let marked = source.lines().position(|line| line.ends_with("//~"));
        let line = marked.expect("a line marked with `//~`") as u64 + 1;
        let errors = errors.get(name).map(Vec::as_slice).unwrap_or_default();
        let fits = |error: &&Value| names(error, line) && text(error).contains(phrase);
        assert!(
            errors.iter().any(|error| fits(&error)),
            "no error in {name}.rs says {phrase:?} of line {line}, but these: {:#?}",
            errors.iter().map(text).collect::<Vec<_>>()
        );
    }
}

#[test]
fn the_messages_are_as_written() {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = Command::new(rustc).arg("-vV").output().expect("a rustc");
    let version = String::from_utf8(version.stdout).expect("a text");
    if !version.contains(WRITTEN_WITH) {
        eprintln!("skipped: the messages are those of {WRITTEN_WITH}x, this is\n{version}");
        return;
    }
    let cases = trybuild::TestCases::new();
    for (name, _) in MISTAKES {
        cases.compile_fail(format!("tests/router/handler_mistakes/{name}.rs"));
    }
}

fn source(name: &str) -> String {
    let root = env!("CARGO_MANIFEST_DIR");
    format!("{root}/tests/router/handler_mistakes/{name}.rs")
}

/// Checks a package with a binary for each mistake, and returns the errors of each.
fn check_all() -> BTreeMap<String, Vec<Value>> {
    let root = env!("CARGO_MANIFEST_DIR");
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("handler_mistakes");
    fs::create_dir_all(&dir).expect("a directory to write to");
    let mut manifest = format!(
        "package = {{ name = 'handler-mistakes', edition = '2024' }}\n\
         dependencies.botisimo-webhooks.path = '{root}'\n\
         workspace = {{}}\n"
    );
    for (name, _) in MISTAKES {
        let bin = format!("[[bin]]\nname = '{name}'\npath = '{}'\n", source(name));
        manifest.push_str(&bin);
    }
    fs::write(dir.join("Cargo.toml"), manifest).expect("a file to write to");
    // The versions that were fetched for this test, so that nothing is fetched now.
    let _ = fs::copy(format!("{root}/Cargo.lock"), dir.join("Cargo.lock"));
    let check = Command::new(env!("CARGO"))
        .args([
            "check",
            "--offline",
            "--keep-going",
            "--message-format=json",
        ])
        .current_dir(&dir)
        .env("CARGO_TARGET_DIR", dir.join("target"))
        .env_remove("RUSTFLAGS")
        .output()
        .expect("a cargo");
    let mut errors = BTreeMap::<_, Vec<_>>::new();
    for line in String::from_utf8_lossy(&check.stdout).lines() {
        let mut line: Value = serde_json::from_str(line).expect("cargo writes JSON");
        let message = line["message"].take();
        if message["level"] == "error" {
            let name = line["target"]["name"].as_str().expect("a name").to_owned();
            errors.entry(name).or_default().push(message);
        }
    }
    let log = String::from_utf8_lossy(&check.stderr);
    assert!(
        !errors.is_empty(),
        "the check didn't get to the mistakes: {log}"
    );
    errors
}

/// Returns whether the error, or a note of it, shows this line of the mistake's file.
fn names(error: &Value, line: u64) -> bool {
    let list = |key: &str| error[key].as_array().into_iter().flatten();
    let here = |span: &Value| {
        let file = span["file_name"].as_str().unwrap_or_default();
        file.contains("handler_mistakes") && span["line_start"] == line
    };
    list("spans").any(here) || list("children").any(|note| names(note, line))
}

fn text(error: &Value) -> &str {
    error["rendered"].as_str().unwrap_or_default()
}
