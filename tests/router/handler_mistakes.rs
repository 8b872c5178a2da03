//! Common mistakes in a handler don't compile, and rustc names the line and the fix.
//!
//! The `.stderr` files next to the mistakes contain the whole messages. The messages differ between rustc versions, so the tests
//! compare them on one version only. On every version, the error must show the marked line and the listed phrase.
//!
//! The tests call rustc on the library that cargo has just built. A tool such as trybuild, which creates its own package, would
//! compile all dependencies a second time. Compiling the dependencies takes longer than compiling all tests.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The rustc version of the `.stderr` files. `HANDLER_MISTAKES=overwrite cargo test --test router` rewrites the files.
const WRITTEN_WITH: &str = "release: 1.95.";

/// Each mistake, and a phrase of the error at the line marked with `//~`.
const MISTAKES: [(&str, &str); 10] = [
    ("borrowed_local", "use the `move` keyword"),
    ("missing_await", "add `.await` to it"),
    ("no_argument", "closure is expected to take 1 argument"),
    ("not_async", "`()` is not a future"),
    (
        "rc_across_await",
        "has type `Rc<String>` which is not `Send`",
    ),
    ("untyped_argument", "|event: Event<T>|"),
    ("untyped_error", "Ok::<(), E>(())"),
    ("untyped_ignored_argument", "|_: Event<T>|"),
    ("wrong_argument", "expected closure signature `fn(Event<_>)"),
    ("wrong_return", "a handler can't return `{integer}`"),
];

#[test]
fn each_mistake_is_explained_at_its_line() {
    for (name, phrase) in MISTAKES {
        let source = fs::read_to_string(Path::new(ROOT).join(source(name))).unwrap();
        let marked = source.lines().position(|line| line.ends_with("//~"));
        let line = marked.expect("a line marked with `//~`") as u64 + 1;
        let errors = errors(name);
        let fits = |error: &Value| names(error, line) && text(error).contains(phrase);
        assert!(
            errors.iter().any(fits),
            "no error in {name}.rs contains {phrase:?} at line {line}. The errors are: {:#?}",
            errors.iter().map(text).collect::<Vec<_>>()
        );
    }
}

#[test]
fn the_messages_match_the_stderr_files() {
    let version = Command::new(rustc()).arg("-vV").output().unwrap();
    let version = String::from_utf8(version.stdout).unwrap();
    if !version.contains(WRITTEN_WITH) {
        eprintln!("skipped: the messages are from {WRITTEN_WITH}x, this is\n{version}");
        return;
    }
    for (name, _) in MISTAKES {
        let file = Path::new(ROOT).join(source(name)).with_extension("stderr");
        let message: String = errors(name).iter().map(text).collect();
        if env::var_os("HANDLER_MISTAKES").is_some_and(|value| value == "overwrite") {
            fs::write(&file, &message).unwrap();
        }
        let written = fs::read_to_string(&file).unwrap();
        let (written, message) = (normalized(&written), normalized(&message));
        assert_eq!(message, written, "{}", file.display());
    }
}

/// Removes the library's line numbers and the indentation that depends on them.
fn normalized(message: &str) -> Vec<String> {
    let lines = message.lines().map(|line| {
        let line = line
            .trim_start()
            .trim_start_matches(|c: char| c.is_ascii_digit());
        let line = line.trim();
        match line.strip_prefix("--> src/") {
            Some(place) => format!("--> src/{}", place.split(':').next().unwrap_or_default()),
            None => line.to_owned(),
        }
    });
    let ends = ["error: aborting", "For more information"];
    lines
        .filter(|line| !line.is_empty() && !ends.iter().any(|end| line.starts_with(end)))
        .collect()
}

/// Returns a mistake's path within the package.
fn source(name: &str) -> String {
    format!("tests/router/handler_mistakes/{name}.rs")
}

fn rustc() -> OsString {
    env::var_os("RUSTC").unwrap_or_else(|| "rustc".into())
}

/// Compiles a mistake and returns its errors.
fn errors(name: &str) -> Vec<Value> {
    let library = library();
    let compiled = Command::new(rustc())
        .args([
            "--edition=2024",
            "--crate-type=bin",
            "--emit=metadata",
            "--error-format=json",
        ])
        .arg(format!("--extern=botisimo_webhooks={library}"))
        .arg(format!(
            "-Ldependency={}",
            Path::new(library).parent().unwrap().display()
        ))
        .arg(format!("--out-dir={}", env!("CARGO_TARGET_TMPDIR")))
        .arg(source(name))
        .current_dir(ROOT)
        .output()
        .unwrap();
    let log = String::from_utf8(compiled.stderr).unwrap();
    let lines = log.lines().map(|line| serde_json::from_str(line).unwrap());
    let errors: Vec<Value> = lines
        .filter(|line: &Value| line["level"] == "error")
        .collect();
    assert!(!errors.is_empty(), "{name} compiles: {log}");
    errors
}

/// Returns the library that this test is linked with. The cargo arguments match this test's build, so cargo builds
/// nothing and only prints the path.
fn library() -> &'static str {
    static LIBRARY: OnceLock<String> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args([
            "test",
            "--offline",
            "--no-run",
            "--test=router",
            "--message-format=json",
        ]);
        if !cfg!(debug_assertions) {
            cargo.arg("--release");
        }
        for (feature, is_on) in [
            ("jetstream", cfg!(feature = "jetstream")),
            ("tracing", cfg!(feature = "tracing")),
        ] {
            if is_on {
                cargo.args(["--features", feature]);
            }
        }
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
        let built = cargo
            .current_dir(ROOT)
            .env("CARGO_TARGET_DIR", target)
            .output()
            .unwrap();
        let log = String::from_utf8(built.stdout).unwrap();
        let files = log.lines().filter_map(|line| {
            let line: Value = serde_json::from_str(line).unwrap();
            let is_library = line["target"]["name"] == "botisimo_webhooks";
            let files = line["filenames"].as_array()?.clone();
            is_library.then_some(files)
        });
        let mut files = files.flatten();
        let found = files.find_map(|file| {
            Some(file.as_str()?.to_owned()).filter(|file| file.ends_with(".rlib"))
        });
        found.unwrap_or_else(|| {
            panic!(
                "cargo printed no library: {log}{}",
                String::from_utf8_lossy(&built.stderr)
            )
        })
    })
}

/// Returns whether the error or one of its notes points to this line of the mistake.
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
