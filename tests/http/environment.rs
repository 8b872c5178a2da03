//! Secrets from an environment variable. A process can't set its own variables safely, so each case runs in a child process.

use std::env;
use std::ffi::OsStr;
use std::process::Command;

use botisimo_webhooks::{ErrorKind, SharedSecret, Verify};
use http::Request;

use crate::support::process::own_binary;

const NAME: &str = "BOTISIMO_SECRET";

/// Prints the error, or whether the secret accepts each query of `CHILD_QUERIES`.
#[test]
#[ignore = "other tests run this test in a child process"]
fn child() {
    let Ok(queries) = env::var("CHILD_QUERIES") else {
        return;
    };
    let secret = match env::var("CHILD_DEVELOPMENT") {
        Ok(_) => {
            let logs = tracing_subscriber::fmt().with_writer(std::io::stderr);
            logs.with_ansi(false).init();
            Ok(SharedSecret::from_env_or_accept_all(NAME))
        }
        Err(_) => SharedSecret::from_env(NAME),
    };
    match secret {
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Secret);
            println!("\nresult {error}");
        }
        Ok(secret) => {
            let accepted = queries.split(' ').map(|query| accepts(&secret, query));
            println!("\nresult {:?}", accepted.collect::<Vec<_>>());
        }
    }
}

fn accepts(secret: &SharedSecret, query: &str) -> bool {
    let request = Request::get(format!("/webhooks/botisimo?{query}")).body(());
    let (parts, ()) = request.unwrap().into_parts();
    secret.verify_head(&parts).is_ok()
}

/// Runs the child with this value of the variable. Returns the result and the log.
fn run(value: Option<&OsStr>, queries: &str, development: bool) -> (String, String) {
    let mut command = Command::new(own_binary());
    command.args(["--ignored", "--exact", "environment::child", "--nocapture"]);
    command.env("CHILD_QUERIES", queries).env_remove(NAME);
    if let Some(value) = value {
        command.env(NAME, value);
    }
    if development {
        command.env("CHILD_DEVELOPMENT", "1");
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let printed = String::from_utf8(output.stdout).unwrap();
    let result = printed
        .lines()
        .find_map(|line| line.strip_prefix("result "));
    let log = String::from_utf8(output.stderr).unwrap();
    (result.unwrap().to_owned(), log)
}

fn strict(value: Option<&str>, queries: &str) -> String {
    run(value.map(OsStr::new), queries, false).0
}

#[test]
fn a_secret_from_the_environment_is_expected_as_the_parameter_token() {
    let queries = "token=s3cret key=s3cret token=other token= ";
    let accepted = strict(Some("s3cret"), queries);
    assert_eq!(accepted, "[true, false, false, false, false]");
}

#[test]
fn each_line_is_a_secret_and_all_other_characters_count() {
    let queries = "token=new token=old token=%0A token=new%0A token=new%0Aold token=old%0D token=";
    for value in ["new\nold", "new\r\nold\r\n", "\n\nnew\n\nold\n"] {
        assert_eq!(
            strict(Some(value), queries),
            "[true, true, false, false, false, false, false]",
            "{value:?}"
        );
    }
    let queries = "token=a%20%26%20b,%20c token=a token=c token=%20d token=d";
    let accepted = strict(Some("a & b, c\n d"), queries);
    assert_eq!(accepted, "[true, false, false, true, false]");
}

#[cfg(unix)]
#[test]
fn a_secret_from_the_environment_need_not_be_utf_8() {
    use std::os::unix::ffi::OsStrExt;

    let value = Some(OsStr::from_bytes(b"\xff\xfe"));
    let (accepted, _) = run(value, "token=%FF%FE token=%FF", false);
    assert_eq!(accepted, "[true, false]");
}

#[test]
fn an_environment_without_a_secret_is_an_error_that_names_the_variable() {
    for (value, problem) in [
        (None, "isn't set"),
        (Some(""), "is empty"),
        (Some("\r\n\n"), "contains only line breaks"),
    ] {
        let error = strict(value, "");
        assert!(error.contains(NAME) && error.contains(problem), "{error}");
    }
}

#[test]
fn in_development_an_environment_without_a_secret_accepts_every_request_and_logs_a_warning() {
    for value in [None, Some(""), Some("\n")] {
        let (accepted, log) = run(value.map(OsStr::new), "token=any ", true);
        assert_eq!(accepted, "[true, true]");
        let warned = log.contains("WARN") && log.contains(NAME);
        assert_eq!(warned, cfg!(feature = "tracing"), "{log}");
    }
    let (accepted, log) = run(Some(OsStr::new("s3cret")), "token=s3cret token=any", true);
    assert_eq!((&*accepted, &*log), ("[true, false]", ""));
}

#[test]
fn the_secrets_of_the_environment_can_be_expected_elsewhere() {
    // A variable that cargo sets.
    let secret = || SharedSecret::from_env("CARGO_PKG_NAME").unwrap();
    let in_parameter = secret().parameter("key");
    assert!(accepts(&in_parameter, "key=botisimo-webhooks"));
    assert!(!accepts(&in_parameter, "token=botisimo-webhooks"));

    let in_header = secret().header("x-token").or("old");
    for (value, accepted) in [("botisimo-webhooks", true), ("old", true), ("any", false)] {
        let request = Request::get("/").header("x-token", value).body(());
        let (parts, ()) = request.unwrap().into_parts();
        assert_eq!(in_header.verify_head(&parts).is_ok(), accepted, "{value}");
    }
}

#[test]
fn a_secret_that_is_added_ends_the_acceptance_of_every_request() {
    let secret = SharedSecret::from_env_or_accept_all("BOTISIMO_SECRET_THAT_IS_NOT_SET");
    assert!(accepts(&secret, "token=any"));
    let secret = secret.or("s3cret");
    assert!(accepts(&secret, "token=s3cret"));
    assert!(!accepts(&secret, "token=any"));
}
