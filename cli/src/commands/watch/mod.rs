mod event;
mod filter;
mod follow;
mod inspector;
mod list;
mod plain;
mod sse;
mod view;

use std::env;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, HOST, USER_AGENT};
use http::{HeaderMap, HeaderValue, Uri};
use tokio::sync::{mpsc, watch};

use filter::Filter;
use inspector::Inspector;

use crate::connection::{TransportArgs, Url, read_secret, user_agent};
use crate::failure::{Failure, Success};
use crate::http::Client;
use crate::output::Output;

const PASSWORD_VARIABLE: &str = "BOTISIMO_PASSWORD";

/// Shows the events of a running inspector, live
///
/// On a terminal, shows a list: filter it, open an event, replay an event. Otherwise, prints one line for each change. The
/// inspector of the library must have JSON: see the guide.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  BOTISIMO_PASSWORD=… botisimo watch http://127.0.0.1:3000/admin/webhooks --user admin
  botisimo watch https://admin.example.com/webhooks --user admin --password-file password.txt --state dead
  botisimo watch 'http://127.0.0.1:3000/admin/webhooks?page=events&type=poll.*' --user admin
Scripts:
  botisimo watch URL --once --state dead --json        lists the dead letters
  botisimo watch URL --new --state dead --count 1      waits for the next dead letter
  botisimo watch URL --plain --for 1h >> events.log    logs for an hour")]
pub(crate) struct Args {
    /// URL of the inspector. A filter in the URL of a page is the first filter
    url: Url,
    /// User of the inspector
    #[arg(long, value_name = "NAME", help_heading = "Connection")]
    user: Option<String>,
    /// Environment variable that contains the password
    #[arg(long, value_name = "NAME", default_value = PASSWORD_VARIABLE, help_heading = "Connection")]
    password_env: String,
    /// File that contains the password
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with = "password_env",
        help_heading = "Connection"
    )]
    password_file: Option<PathBuf>,
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    lines: LineArgs,
    #[command(flatten)]
    transport: TransportArgs,
}

#[derive(clap::Args)]
#[command(next_help_heading = "Filter")]
struct FilterArgs {
    /// waiting, running, retrying, in-flight, handled, unhandled or dead
    #[arg(long)]
    state: Option<String>,
    /// Event type, such as `account.updated` or `poll.*`
    #[arg(long = "type", value_name = "PATTERN")]
    event_type: Option<String>,
    /// Route that ran
    #[arg(long, value_name = "NAME")]
    route: Option<String>,
    /// handled, failed, panicked, mismatched, timed out, dropped or skipped
    #[arg(long)]
    outcome: Option<String>,
    /// Text in the reason of a failed route
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Message id of the sender
    #[arg(long = "message-id", value_name = "ID")]
    id: Option<String>,
    /// Received after this time: `1h`, `7d` or `2026-11-27T12:20` (UTC)
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Received before this time
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
}

#[derive(clap::Args)]
#[command(next_help_heading = "Lines instead of the view")]
struct LineArgs {
    /// Print one line for each change, even on a terminal
    #[arg(long)]
    plain: bool,
    /// Print the newest 50 events that match, and end
    #[arg(long)]
    once: bool,
    /// Skip the events that the inbox has at the start
    #[arg(long, conflicts_with = "once")]
    new: bool,
    /// End after N events
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// End after this time
    #[arg(long = "for", value_name = "DURATION")]
    time: Option<humantime::Duration>,
}

impl LineArgs {
    /// Returns whether an argument selects lines.
    fn is_used(&self) -> bool {
        self.plain || self.once || self.new || self.count.is_some() || self.time.is_some()
    }
}

pub(super) async fn run(args: &Args, output: &Output) -> Result<Success, Failure> {
    let filter = args.filter()?;
    let inspector = args.inspector()?;
    if inspector.user.is_some() && is_exposed(&inspector.uri) {
        output.warning("the URL begins with http://, so the network can read the password");
    }
    let shows_view = !output.is_json()
        && !args.lines.is_used()
        && std::io::stdout().is_terminal()
        && std::io::stdin().is_terminal();
    // The filter's sender must live while the command follows the feed.
    let (filters, filter) = watch::channel(filter);
    let (sender, updates) = mpsc::channel(16);
    let following = tokio::spawn(follow::follow(inspector.clone(), filter, sender));
    let result = if shows_view {
        view::run(inspector, updates, &filters).await
    } else {
        let limits = plain::Limits {
            count: args.lines.count,
            end: args.lines.time.map(|time| Instant::now() + *time),
            once: args.lines.once,
            only_new: args.lines.new,
        };
        plain::run(updates, &limits, output).await
    };
    following.abort();
    result
}

impl Args {
    fn filter(&self) -> Result<Filter, Failure> {
        let mut filter = Filter::of_page(self.url.uri().query().unwrap_or_default());
        let given = &self.filter;
        for (name, value) in [
            ("state", &given.state),
            ("type", &given.event_type),
            ("route", &given.route),
            ("outcome", &given.outcome),
            ("reason", &given.reason),
            ("id", &given.id),
            ("since", &given.since),
            ("until", &given.until),
        ] {
            if let Some(value) = value {
                filter.set(name, value).map_err(Failure::usage)?;
            }
        }
        Ok(filter)
    }

    fn inspector(&self) -> Result<Inspector, Failure> {
        let uri = self.url.uri();
        if uri
            .authority()
            .is_some_and(|each| each.as_str().contains('@'))
        {
            let text = "the URL contains a user: pass --user NAME, and set BOTISIMO_PASSWORD or pass --password-file FILE";
            return Err(Failure::usage(text));
        }
        let mut headers = HeaderMap::new();
        headers.insert(USER_AGENT, user_agent());
        if let Some(user) = &self.user {
            headers.insert(AUTHORIZATION, authorization(user, &self.password()?)?);
        }
        self.transport.apply_headers(&mut headers);
        // The client derives the host from the URL.
        headers.remove(HOST);
        let text = uri.to_string();
        let text = text.split('?').next().unwrap_or_default();
        let uri: Uri = text
            .parse()
            .map_err(|error| Failure::usage(format_args!("{error}")))?;
        Ok(Inspector {
            client: Client::new(self.transport.client_settings()?),
            shown: text.to_owned(),
            uri,
            headers,
            user: self.user.clone(),
        })
    }

    fn password(&self) -> Result<String, Failure> {
        let password = match &self.password_file {
            Some(path) => read_secret(path)?,
            None => env::var(&self.password_env).map_err(|_| {
                Failure::usage(format_args!(
                    "--user needs a password: set the environment variable {}, or pass --password-file FILE",
                    self.password_env
                ))
            })?,
        };
        match password.is_empty() {
            true => Err(Failure::usage("the password is empty")),
            false => Ok(password),
        }
    }
}

fn authorization(user: &str, password: &str) -> Result<HeaderValue, Failure> {
    if user.contains(':') {
        return Err(Failure::usage("the user contains a colon"));
    }
    let encoded = STANDARD.encode(format!("{user}:{password}"));
    let mut value = HeaderValue::try_from(format!("Basic {encoded}")).expect("base64 is ASCII");
    value.set_sensitive(true);
    Ok(value)
}

/// Returns whether the network can read the requests: plain HTTP to another machine.
fn is_exposed(uri: &Uri) -> bool {
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let is_local = host == "localhost"
        || host.ends_with(".localhost")
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback());
    uri.scheme_str() == Some("http") && !is_local
}
