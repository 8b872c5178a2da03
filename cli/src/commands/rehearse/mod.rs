mod model;
mod plan;
mod rehearsal;
mod report;
mod restart;
mod scenario;

use crate::connection::{ConnectionArgs, DEFAULT_URL, Endpoint, Url};
use crate::failure::{Failure, Success};
use crate::output::Output;
use plan::plan;
use rehearsal::{Line, Rehearsal, Target};
use report::Summary;
use restart::Watch;
use scenario::{BUILT_IN, Reaction, Scenario, Time};

/// Plays the sender over days of virtual time against a real endpoint.
///
/// The sender retries after 3xx, 4xx and 5xx, drops events that time out, and disables an endpoint that fails for days.
/// Waits are virtual, so a week takes seconds. Handlers that look at the age of an event see the virtual age.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  botisimo rehearse week
  botisimo rehearse outage --to https://example.com/webhooks/botisimo --seed 7
  botisimo rehearse --show outage > mine.toml && botisimo rehearse mine.toml
  botisimo rehearse week --restart-at 3d")]
pub(crate) struct Args {
    /// Built-in scenario, or the path of a TOML file
    #[arg(required_unless_present_any = ["list", "show"])]
    scenario: Option<String>,
    /// List the built-in scenarios
    #[arg(long)]
    list: bool,
    /// Print a built-in scenario as TOML
    #[arg(long, value_name = "NAME")]
    show: Option<String>,
    /// URL of the endpoint
    #[arg(long, value_name = "URL", default_value = DEFAULT_URL)]
    to: Url,
    /// Seed of all random choices. The same seed makes the same events and delays
    #[arg(long, default_value = "1")]
    seed: u64,
    /// Beginning of all message ids [default: a new one for each run, so that no event is a duplicate of an event in an earlier run]
    #[arg(long, value_name = "PREFIX")]
    id_prefix: Option<String>,
    /// Time of the scenario's start, as RFC 3339. By default, the timestamps show each event's virtual age
    #[arg(long, value_name = "TIME", value_parser = super::send::timestamp)]
    start: Option<i64>,
    /// Reaction of the sender to an answer that isn't quick [default: drop, as the specification says]
    #[arg(long, value_name = "REACTION")]
    timeouts: Option<Reaction>,
    /// Reaction of the sender to a connection that fails [default: drop]
    #[arg(long, value_name = "REACTION")]
    unreachable: Option<Reaction>,
    /// Wait at this virtual time until the endpoint was restarted
    #[arg(long, value_name = "DURATION")]
    restart_at: Vec<humantime::Duration>,
    /// Real time in which a restart must happen
    #[arg(long, value_name = "DURATION", default_value = "60s")]
    restart_within: humantime::Duration,
    /// Print only the summary and the warnings
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    connection: ConnectionArgs,
}

pub(super) async fn run(args: &Args, output: &Output) -> Result<Success, Failure> {
    if args.list {
        return list(output);
    }
    if let Some(name) = &args.show {
        return show(name, output);
    }
    let mut scenario = Scenario::load(args.scenario.as_deref().unwrap_or_default())?;
    scenario.sender.timeout = args.timeouts.unwrap_or(scenario.sender.timeout);
    scenario.sender.unreachable = args.unreachable.unwrap_or(scenario.sender.unreachable);
    scenario
        .restarts
        .extend(args.restart_at.iter().map(|at| Time(**at)));
    let endpoint = args.connection.endpoint(&args.to)?;
    let client = args.connection.client()?;
    reachable(&endpoint).await?;
    let prefix = match &args.id_prefix {
        Some(prefix) => prefix.clone(),
        None => format!("rehearse-{:08x}", fastrand::u32(..)),
    };
    output.note(format_args!("All message ids begin with {prefix}."));
    let mut random = fastrand::Rng::with_seed(args.seed);
    let events = plan(&scenario, &mut random);
    let target = Target {
        client: &client,
        endpoint: &endpoint,
        prefix: &prefix,
        start: args.start,
    };
    let mut rehearsal = Rehearsal::new(&scenario, &events, &target, random);
    play(&mut rehearsal, args, &endpoint, output).await?;
    if rehearsal.remaining_restarts() > 0 {
        output.warning("a restart was skipped, because no delivery was due after it: choose an earlier --restart-at");
    }
    let summary = Summary::new(&rehearsal);
    summary.print(output);
    Ok(Success::when(summary.is_good()))
}

/// Fails if nothing listens at the start, because then the URL is probably wrong.
async fn reachable(endpoint: &Endpoint) -> Result<(), Failure> {
    let connected = crate::http::connect(&endpoint.uri).await;
    connected.map(drop).map_err(Failure::unavailable)
}

async fn play(
    rehearsal: &mut Rehearsal<'_>,
    args: &Args,
    endpoint: &Endpoint,
    output: &Output,
) -> Result<(), Failure> {
    let progress = output.progress(rehearsal.remaining() as u64, "deliveries");
    let stopped = || Failure::unavailable("stopped before the end of the scenario");
    // One listener for the whole rehearsal, so that it also hears Ctrl-C between the steps.
    let mut ctrl_c = std::pin::pin!(tokio::signal::ctrl_c());
    loop {
        let watch = match rehearsal.is_restart_next() {
            true => Some(Watch::start(&endpoint.uri).await),
            false => None,
        };
        let lines = tokio::select! {
            lines = rehearsal.step() => lines,
            _ = &mut ctrl_c => {
                progress.finish_and_clear();
                return Err(stopped());
            }
        };
        let Some(lines) = lines else { break };
        progress.suspend(|| {
            for line in &lines {
                report::line(line, rehearsal, args.quiet, output);
            }
        });
        if let Some(watch) = watch {
            tokio::select! {
                restarted = watch.wait(*args.restart_within) => restarted?,
                _ = &mut ctrl_c => return Err(stopped()),
            }
        }
        let done = lines
            .iter()
            .filter(|line| matches!(line, Line::Attempt { .. }))
            .count() as u64;
        progress.inc(done);
        progress.set_length(progress.position() + rehearsal.remaining() as u64);
    }
    progress.finish_and_clear();
    Ok(())
}

fn list(output: &Output) -> Result<Success, Failure> {
    let mut rows = Vec::new();
    for (name, _) in BUILT_IN {
        let scenario = Scenario::load(name)?;
        output.json(&serde_json::json!({ "name": name, "description": scenario.description }));
        rows.push(vec![name.to_owned(), scenario.description]);
    }
    output.line(crate::output::table(&[], &rows));
    Ok(Success::Good)
}

fn show(name: &str, output: &Output) -> Result<Success, Failure> {
    Scenario::load(name)?;
    let text = BUILT_IN
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, text)| *text);
    let text = text
        .ok_or_else(|| Failure::usage(format_args!("{name} is a file, not a built-in scenario")))?;
    output.line(text.trim_end());
    output.json(&serde_json::json!({ "name": name, "toml": text }));
    Ok(Success::Good)
}
