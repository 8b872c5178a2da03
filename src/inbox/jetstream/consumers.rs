//! The durable consumers of a group: created on the first start, and compared from then on.

use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::jetstream::consumer::{
    self, AckPolicy, DeliverPolicy, FromConsumer, PullConsumer, pull,
};
use async_nats::jetstream::context::ConsumerInfoErrorKind;
use async_nats::jetstream::stream::{ConsumerCreateStrictErrorKind, Stream};

use super::StartAt;
use super::plan::{Plan, hash};
use super::stream::failed;
use crate::error::{Error, ErrorKind};

/// What says that a group was founded by all the routes that it has.
const ALL: &str = "*";

/// The most bytes of a description that the server takes.
const MAX_DESCRIPTION: usize = 4096;

/// How the consumers of a group are.
#[derive(Clone, Copy, Debug)]
pub(super) struct ConsumerOptions {
    pub(super) ack_wait: Duration,
    pub(super) first_start: StartAt,
    pub(super) new_routes: StartAt,
}

/// Opens the consumers of a group, each with how many of its events may be pending.
pub(super) async fn open(
    context: &Context,
    stream: &Stream,
    plans: &[(Plan, i64)],
    options: &ConsumerOptions,
) -> Result<Vec<PullConsumer>, Error> {
    let initial_routes = initial_routes(plans);
    let (last, rest) = plans
        .split_last()
        .expect("every group has the consumer of long names");
    let marker = Wanted::new(last, options, options.first_start).described(initial_routes);
    // First, and atomic on the server: whoever comes second reads from it which routes the group began with.
    let marker = open_one(context, stream, marker).await?;
    let initial_routes = marker.cached_info().config.description.clone();
    let initial_routes = initial_routes.unwrap_or_default();
    let mut opened = Vec::with_capacity(plans.len());
    for each in rest {
        let initial =
            initial_routes == ALL || initial_routes.split(' ').any(|one| one == digest(&each.0));
        let start = if initial {
            options.first_start
        } else {
            options.new_routes
        };
        opened.push(open_one(context, stream, Wanted::new(each, options, start)).await?);
    }
    opened.push(marker);
    Ok(opened)
}

/// Returns the text that says which routes a group begins with.
fn initial_routes(plans: &[(Plan, i64)]) -> String {
    let digests: Vec<_> = plans.iter().map(|(plan, _)| digest(plan)).collect();
    let initial_routes = digests.join(" ");
    if initial_routes.len() <= MAX_DESCRIPTION {
        initial_routes
    } else {
        ALL.to_owned()
    }
}

fn digest(plan: &Plan) -> String {
    format!("{:08x}", hash(&plan.consumer) >> 32)
}

struct Wanted {
    name: String,
    config: pull::Config,
}

impl Wanted {
    fn new(
        (plan, max_ack_pending): &(Plan, i64),
        options: &ConsumerOptions,
        start: StartAt,
    ) -> Self {
        Self {
            name: plan.consumer.clone(),
            config: pull::Config {
                durable_name: Some(plan.consumer.clone()),
                name: Some(plan.consumer.clone()),
                filter_subject: plan.filter.clone(),
                deliver_policy: match start {
                    StartAt::Beginning => DeliverPolicy::All,
                    StartAt::Now => DeliverPolicy::New,
                },
                ack_policy: AckPolicy::Explicit,
                ack_wait: options.ack_wait,
                // The worker itself knows when an event is dead, and keeps it.
                max_deliver: -1,
                max_ack_pending: *max_ack_pending,
                ..pull::Config::default()
            },
        }
    }

    fn described(mut self, description: String) -> Self {
        self.config.description = Some(description);
        self
    }
}

async fn open_one(
    context: &Context,
    stream: &Stream,
    wanted: Wanted,
) -> Result<PullConsumer, Error> {
    let name = &wanted.name;
    let look_up = |error| failed(format!("the consumer {name} can't be looked up"), error);
    let info = match stream.consumer_info(name).await {
        Ok(info) => info,
        Err(error) if error.kind() == ConsumerInfoErrorKind::NotFound => {
            let config = wanted.config.clone();
            match stream.create_consumer_strict(config).await {
                Ok(created) => return Ok(created),
                Err(error) if error.kind() == ConsumerCreateStrictErrorKind::AlreadyExists => {}
                Err(error) => {
                    return Err(failed(
                        format!("the consumer {name} can't be created"),
                        error,
                    ));
                }
            }
            // Another worker was faster.
            stream.consumer_info(name).await.map_err(look_up)?
        }
        Err(error) => return Err(look_up(error)),
    };
    let differences = differences(&info.config, &wanted.config);
    if !differences.is_empty() {
        let text = format!(
            "the consumer {name} isn't as this worker would have it: {}; change one or the other, or delete the consumer",
            differences.join("; ")
        );
        return Err(Error::new(ErrorKind::Inbox, text));
    }
    let config = pull::Config::try_from_consumer_config(info.config.clone());
    let config = config.map_err(|error| {
        Error::caused(
            ErrorKind::Inbox,
            format!("the consumer {name} is none to pull from"),
            error,
        )
    })?;
    Ok(PullConsumer::new(config, info, context.clone()))
}

/// Returns what about a consumer isn't as it must be. Where it began is history, and not compared.
fn differences(found: &consumer::Config, wanted: &pull::Config) -> Vec<String> {
    let mut differences = Vec::new();
    let mut compare = |what: &str, found: String, wanted: String| {
        if found != wanted {
            differences.push(format!("{what} is {found}, not {wanted}"));
        }
    };
    let subjects = |one: &str, more: &[String]| {
        let one = [one.to_owned()].into_iter().filter(|one| !one.is_empty());
        format!("{:?}", one.chain(more.iter().cloned()).collect::<Vec<_>>())
    };
    compare(
        "filter_subject",
        subjects(&found.filter_subject, &found.filter_subjects),
        subjects(&wanted.filter_subject, &[]),
    );
    let seconds = |duration: Duration| format!("{duration:?}");
    compare(
        "ack_wait",
        seconds(found.ack_wait),
        seconds(wanted.ack_wait),
    );
    let policy = |policy: AckPolicy| format!("{policy:?}");
    compare(
        "ack_policy",
        policy(found.ack_policy),
        policy(wanted.ack_policy),
    );
    let count = |count: i64| count.to_string();
    compare(
        "max_deliver",
        count(found.max_deliver),
        count(wanted.max_deliver),
    );
    compare(
        "max_ack_pending",
        count(found.max_ack_pending),
        count(wanted.max_ack_pending),
    );
    compare(
        "deliver_subject",
        format!("{:?}", found.deliver_subject),
        format!("{:?}", None::<String>),
    );
    compare("backoff", format!("{:?}", found.backoff), "[]".to_owned());
    compare(
        "headers_only",
        found.headers_only.to_string(),
        "false".to_owned(),
    );
    compare(
        "mem_storage",
        found.memory_storage.to_string(),
        "false".to_owned(),
    );
    // None of its own are those of the stream.
    compare(
        "num_replicas",
        found.num_replicas.to_string(),
        "0".to_owned(),
    );
    compare("max_batch", count(found.max_batch), "0".to_owned());
    compare("max_bytes", count(found.max_bytes), "0".to_owned());
    compare("rate_limit", found.rate_limit.to_string(), "0".to_owned());
    compare(
        "inactive_threshold",
        seconds(found.inactive_threshold),
        seconds(Duration::ZERO),
    );
    compare(
        "priority_groups",
        format!("{:?}", found.priority_groups),
        "[]".to_owned(),
    );
    differences
}
