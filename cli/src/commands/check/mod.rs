mod case;
mod cases;
mod checker;

use std::time::Duration;

use botisimo_webhooks::EventType;
use serde_json::json;

use case::{Case, Finding, Level};
use cases::CASES;
use checker::{Checker, SecretVariants};

use crate::connection::{ConnectionArgs, Url};
use crate::failure::{Failure, Success};
use crate::http::Site;
use crate::output::{BAD, FAINT, GOOD, Output, STRONG, WARNING, styled, table};

/// Checks how an endpoint behaves, in any language.
///
/// Sends about 60 requests: valid events, duplicates, malformed bodies, slow bodies and more. Handlers run for the valid
/// events. All their message ids begin with the same prefix, which is printed first.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  botisimo check http://127.0.0.1:3000/webhooks/botisimo
  BOTISIMO_SECRET=… botisimo check https://example.com/webhooks/botisimo --load 1000
  botisimo check https://example.com/hook --only duplicate,unknown-type
  botisimo check --list")]
pub(crate) struct Args {
    /// URL of the endpoint
    #[arg(required_unless_present = "list")]
    url: Option<Url>,
    /// List the cases and why they matter
    #[arg(long)]
    list: bool,
    /// Run only these cases. The cases that all others need run too
    #[arg(long, value_name = "ID", value_delimiter = ',', value_parser = id)]
    only: Vec<String>,
    /// Skip these cases
    #[arg(long, value_name = "ID", value_delimiter = ',', value_parser = id)]
    skip: Vec<String>,
    /// Event type of the valid events
    #[arg(long, value_name = "EVENT_TYPE", default_value = "account.updated")]
    event_type: String,
    /// Time within which an answer is quick. The specification states no number. 3 s is our assumption
    #[arg(long, value_name = "DURATION", default_value = "3s")]
    answer_within: humantime::Duration,
    /// Time within which a request that stalls must end. nginx waits 60 s by default
    #[arg(long, value_name = "DURATION", default_value = "65s")]
    stall_limit: humantime::Duration,
    /// Also send this many events at once
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    load: Option<u32>,
    /// Connections of --load
    #[arg(long, value_name = "C", default_value = "32", value_parser = clap::value_parser!(u16).range(1..=1024), requires = "load")]
    concurrency: u16,
    #[command(flatten)]
    connection: ConnectionArgs,
}

fn id(text: &str) -> Result<String, String> {
    match CASES.iter().any(|case| case.id == text) {
        true => Ok(text.to_owned()),
        false => Err("no case has this id: see `botisimo check --list`".to_owned()),
    }
}

pub(super) async fn run(args: &Args, output: &Output) -> Result<Success, Failure> {
    let Some(url) = args.url.as_ref().filter(|_| !args.list) else {
        list(output);
        return Ok(Success::Good);
    };
    let checker = checker(args, url)?;
    output.line(format_args!(
        "Checking {}\nThe endpoint's handlers run for {}. All message ids begin with {}.\n",
        styled(STRONG, &checker.endpoint.shown),
        checker.event_type,
        styled(STRONG, &checker.prefix),
    ));
    let chosen = |case: &&Case| {
        let is_only =
            args.only.is_empty() || case.is_gate || args.only.iter().any(|id| id == case.id);
        is_only && !args.skip.iter().any(|id| id == case.id)
    };
    let cases: Vec<_> = CASES.iter().filter(chosen).collect();
    let progress = output.progress(cases.len() as u64, "cases");
    let (mut counts, mut closed_gate) = (Counts::default(), None);
    for case in cases {
        let finding = match closed_gate {
            Some(gate) => Finding::Skipped(format!("because `{gate}` failed")),
            None => {
                progress.set_message(case.id);
                (case.run)(&checker).await
            }
        };
        let is_closing = case.is_gate && matches!(finding, Finding::Failed(_));
        counts.add(case, &finding);
        progress.suspend(|| report(case, &finding, closed_gate.is_some(), output));
        progress.inc(1);
        if is_closing {
            closed_gate = Some(case.id);
        }
    }
    progress.finish_and_clear();
    if let Some(gate) = closed_gate {
        output.line(styled(
            FAINT,
            format_args!("The remaining cases are skipped, because `{gate}` failed."),
        ));
    }
    output.line(format_args!("\n{counts}"));
    output.json(&json!({
        "url": checker.endpoint.shown,
        "prefix": checker.prefix,
        "passed": counts.passed,
        "failed_must": counts.failed_must,
        "failed_should": counts.failed_should,
        "skipped": counts.skipped,
    }));
    Ok(Success::when(counts.failed_must == 0))
}

fn checker(args: &Args, url: &Url) -> Result<Checker, Failure> {
    let endpoint = args.connection.endpoint(url)?;
    let settings = args.connection.client_settings()?;
    let site = Site {
        uri: endpoint.uri.clone(),
        tls: settings.tls,
        timeout: settings.timeout.max(Duration::from(args.answer_within)),
    };
    let without_secret = match endpoint.secret {
        Some(_) => Some(SecretVariants {
            none: args.connection.endpoint_with_secret(url, None)?,
            wrong: args
                .connection
                .endpoint_with_secret(url, Some("not-the-secret".to_owned()))?,
        }),
        None => None,
    };
    let mut checker = Checker::new(endpoint, site, EventType::from(args.event_type.as_str()));
    checker.http2 = settings.http2;
    checker.without_secret = without_secret;
    checker.answer_within = *args.answer_within;
    checker.stall_limit = *args.stall_limit;
    checker.load = args.load.map(|load| (load, args.concurrency));
    Ok(checker)
}

fn list(output: &Output) {
    let rows: Vec<_> = CASES
        .iter()
        .flat_map(|case| {
            let why = styled(FAINT, case.why);
            [
                vec![
                    case.id.to_owned(),
                    case.level.name().to_owned(),
                    case.title.to_owned(),
                ],
                vec![String::new(), String::new(), why],
            ]
        })
        .collect();
    output.line(table(&["id", "level", "the endpoint passes if"], &rows));
    for case in CASES {
        output.json(&json!({
            "id": case.id, "level": case.level.name(), "title": case.title, "why": case.why,
        }));
    }
}

fn report(case: &Case, finding: &Finding, is_gate_closed: bool, output: &Output) {
    if !is_gate_closed {
        report_line(case, finding, output);
    }
    output.json(&json!({
        "id": case.id,
        "level": case.level.name(),
        "title": case.title,
        "why": case.why,
        "result": finding.name(),
        "got": finding.got(),
    }));
}

fn report_line(case: &Case, finding: &Finding, output: &Output) {
    let (style, name) = match (finding, case.level) {
        (Finding::Passed(_), _) => (GOOD, "ok"),
        (Finding::Failed(_), Level::Must) => (BAD, "FAILED"),
        (Finding::Failed(_), Level::Should) => (WARNING, "failed"),
        (Finding::Skipped(_), _) => (FAINT, "skipped"),
    };
    let got = match finding {
        Finding::Passed(got) | Finding::Skipped(got) => styled(FAINT, got),
        Finding::Failed(_) => String::new(),
    };
    let line = format!(
        "{style}{name:<8}{style:#} {:<7} {:<23} {got}",
        case.level.name(),
        case.id
    );
    output.line(line.trim_end());
    if let Finding::Failed(got) = finding {
        output.line(format_args!("         expected: {}", case.title));
        output.line(format_args!("         got:      {got}"));
        output.line(format_args!("         why:      {}", case.why));
    }
}

#[derive(Default)]
struct Counts {
    passed: u32,
    failed_must: u32,
    failed_should: u32,
    skipped: u32,
}

impl Counts {
    fn add(&mut self, case: &Case, finding: &Finding) {
        let count = match (finding, case.level) {
            (Finding::Passed(_), _) => &mut self.passed,
            (Finding::Failed(_), Level::Must) => &mut self.failed_must,
            (Finding::Failed(_), Level::Should) => &mut self.failed_should,
            (Finding::Skipped(_), _) => &mut self.skipped,
        };
        *count += 1;
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            passed,
            failed_must,
            failed_should,
            skipped,
        } = self;
        write!(
            f,
            "{passed} passed, {failed_must} failed that must pass, {failed_should} failed that should pass, {skipped} skipped"
        )
    }
}
