use botisimo_webhooks::{EventType, Pattern};
use serde_json::json;

use crate::failure::{Failure, Success};
use crate::output::{FAINT, Output, styled};
use crate::samples::{sample, similar};

/// Lists the documented event types.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  botisimo types
  botisimo types 'connection.stream.*'
  botisimo types poll.created --data")]
pub(crate) struct Args {
    /// Event type or pattern, as a route has it: `poll.*`, `giveaway[.*]`
    pattern: Option<String>,
    /// Print the sample data of each type. All samples are invented
    #[arg(long)]
    data: bool,
}

pub(super) fn run(args: &Args, output: &Output) -> Result<Success, Failure> {
    let pattern = args.pattern.as_deref().map(Pattern::new);
    let pattern = pattern.transpose().map_err(Failure::usage)?;
    let matches = |name: &str| pattern.as_ref().is_none_or(|pattern| pattern.matches(name));
    let mut count = 0;
    for known in EventType::ALL
        .iter()
        .filter(|known| matches(known.as_str()))
    {
        count += 1;
        match args.data {
            true => output.line(format_args!("{known} {}", styled(FAINT, sample(known)))),
            false => output.line(known),
        }
        output.json(&json!({ "event_type": known.as_str(), "sample": sample(known) }));
    }
    if let Some(pattern) = &args.pattern
        && count == 0
    {
        let is_prefix = EventType::ALL.iter().any(|known| {
            let rest = known.as_str().strip_prefix(pattern.as_str());
            rest.is_some_and(|rest| rest.starts_with('.'))
        });
        let hint = match is_prefix {
            true => Some(format!(": did you mean '{pattern}.*'?")),
            false => similar(pattern).map(|name| format!(": did you mean {name}?")),
        };
        return Err(Failure::usage(format_args!(
            "no documented event type matches {}{}",
            pattern,
            hint.unwrap_or_default()
        )));
    }
    Ok(Success::Good)
}
