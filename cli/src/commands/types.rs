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
    #[arg(default_value = "*")]
    pattern: String,
    /// Print the sample data of each type. All samples are invented
    #[arg(long)]
    data: bool,
}

pub(super) fn run(args: &Args, output: &Output) -> Result<Success, Failure> {
    let pattern = Pattern::new(&args.pattern).map_err(Failure::usage)?;
    let mut count = 0;
    for known in EventType::ALL
        .iter()
        .filter(|known| pattern.matches(known.as_str()))
    {
        count += 1;
        match args.data {
            true => output.line(format_args!("{known} {}", styled(FAINT, sample(known)))),
            false => output.line(known),
        }
        output.json(&json!({ "event_type": known.as_str(), "sample": sample(known) }));
    }
    if count == 0 {
        let hint = similar(&args.pattern).map(|name| format!(": did you mean {name}?"));
        return Err(Failure::usage(format_args!(
            "no documented event type matches {}{}",
            args.pattern,
            hint.unwrap_or_default()
        )));
    }
    Ok(Success::Good)
}
