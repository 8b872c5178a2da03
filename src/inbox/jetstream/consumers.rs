//! The durable consumers of a group. A worker creates missing consumers at their positions, and compares existing consumers with
//! its settings.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_nats::jetstream::Context;
use async_nats::jetstream::consumer::{
    self, AckPolicy, DeliverPolicy, FromConsumer, Info, PullConsumer, pull,
};
use async_nats::jetstream::context::ConsumerInfoErrorKind;
use async_nats::jetstream::stream::Stream;

use super::checkpoints::{Checkpoints, begin, created_at};
use super::plan::{Plan, RouteSelection, digest};
use super::stalls::{Operation, Stalls};
use super::stream::{self, describe, failed};
use super::{StartAt, StreamSettings};
use crate::error::{Error, ErrorKind};
use crate::runtime::Runtime;
use crate::telemetry;

/// Stands for the list of initial routes, if the list is too long.
const ALL: &str = "*";

/// The maximum size of a consumer's description, in bytes.
const MAX_DESCRIPTION: usize = 4096;

/// The maximum number of times that a worker looks up and creates a consumer while others delete or create it.
const MAX_ROUNDS: usize = 4;

/// The delay before a worker recreates a consumer, so that other workers can store their finished events.
const GRACE: Duration = Duration::from_millis(500);

/// The user's settings of the consumers.
#[derive(Clone, Copy, Debug)]
pub(super) struct ConsumerOptions {
    pub(super) ack_wait: Duration,
    pub(super) first_start: StartAt,
    pub(super) new_routes: StartAt,
}

/// Opens, compares and creates the consumers of a group.
pub(super) struct Consumers {
    pub(super) context: Context,
    pub(super) settings: StreamSettings,
    pub(super) options: ConsumerOptions,
    pub(super) checkpoints: Arc<Checkpoints>,
    pub(super) stalls: Arc<Stalls>,
    pub(super) runtime: Arc<dyn Runtime>,
    /// When the checkpoints were last read.
    pub(super) loaded: Mutex<Option<Instant>>,
    /// The names of the consumers that this worker has.
    pub(super) names: Vec<String>,
}

impl Consumers {
    /// Opens the consumers of a starting worker. Returns an error if an existing consumer differs from the settings, and leaves
    /// that consumer unchanged.
    pub(super) async fn open(
        &self,
        stream: &Stream,
        plans: &[Plan],
    ) -> Result<Vec<PullConsumer>, Error> {
        self.checkpoints.identify(stream.cached_info());
        let loaded = self.load_checkpoints().await;
        let (last, rest) = plans
            .split_last()
            .expect("every group has the consumer of long names");
        // Create the last consumer first, because its description lists the initial routes of the group.
        let first_start = self.options.first_start;
        let last = self.ensure(stream, last, first_start, false).await?;
        let initial = last.cached_info().config.description.clone();
        let initial = initial.unwrap_or_default();
        let mut opened = Vec::with_capacity(plans.len());
        for plan in rest {
            let digest = digest(&plan.consumer);
            let start = match initial == ALL || initial.split(' ').any(|one| one == digest) {
                true => first_start,
                false => self.options.new_routes,
            };
            opened.push(self.ensure(stream, plan, start, false).await?);
        }
        opened.push(last);
        if self.store_checkpoints().await.is_some() {
            self.checkpoints.delete(loaded).await;
        }
        Ok(opened)
    }

    /// Restores the stream and a consumer for a running worker.
    pub(super) async fn restore(&self, plan: &Plan) -> Result<(), Error> {
        let stream = stream::find(&self.context, &self.settings).await?;
        self.checkpoints.identify(stream.cached_info());
        // The start has no effect here: the group has already had this consumer, so the consumer's position is known.
        let start = self.options.first_start;
        self.ensure(&stream, plan, start, true).await?;
        // A new leader may redeliver events that other workers finished.
        self.load_checkpoints().await;
        Ok(())
    }

    /// Reads the checkpoints, unless they were read within half of `ack_wait`. That is recent enough: if another worker finished an
    /// event but got no answer to its acknowledgement, the server redelivers the event only after `ack_wait`.
    pub(super) async fn refresh_checkpoints(&self) {
        let now = self.runtime.now();
        let loaded = *self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let age = loaded.map(|loaded| now.saturating_duration_since(loaded));
        if age.is_none_or(|age| age >= self.options.ack_wait / 2) {
            self.load_checkpoints().await;
        }
    }

    async fn ensure(
        &self,
        stream: &Stream,
        plan: &Plan,
        start: StartAt,
        is_running: bool,
    ) -> Result<PullConsumer, Error> {
        let wanted = self.config(plan, DeliverPolicy::All);
        let mut reason = "the consumer was missing";
        for _ in 0..MAX_ROUNDS {
            if let Some(info) = look_up(stream, &plan.consumer).await? {
                let differences = Differences::between(&info.config, &wanted);
                if !is_running && let Some(text) = differences.describe(&plan.consumer) {
                    return Err(Error::new(ErrorKind::Inbox, text));
                }
                let skips = self.skips_events(&info).await;
                if !skips && !differences.are_harmful {
                    self.checkpoints.observe(&info);
                    return to_pull(&self.context, info);
                }
                reason = match skips {
                    true => "the consumer was replaced and would have skipped events",
                    false => "the consumer was changed and would have skipped events",
                };
                let deleted = stream.delete_consumer(&plan.consumer).await;
                deleted.map_err(|error| {
                    let name = &plan.consumer;
                    failed(format!("the consumer {name} can't be replaced"), error)
                })?;
            }
            if let Some(created) = self.create(stream, plan, start, reason).await? {
                return Ok(created);
            }
        }
        let text = format!("the consumer {} keeps being deleted", plan.consumer);
        Err(Error::new(ErrorKind::Inbox, text))
    }

    /// Creates a consumer that starts after the last finished event, or at `start` if the group never had the consumer. Returns
    /// `None` if another worker created the consumer first.
    async fn create(
        &self,
        stream: &Stream,
        plan: &Plan,
        start: StartAt,
        reason: &str,
    ) -> Result<Option<PullConsumer>, Error> {
        let name = &plan.consumer;
        let cannot = |error| failed(format!("the consumer {name} can't be created"), error);
        if self.checkpoints.position(name).is_some() {
            self.runtime.sleep(GRACE).await;
            self.load_checkpoints().await;
        }
        let info = stream.get_info().await;
        let info = info.map_err(|error| failed("the stream can't be looked up", error))?;
        self.checkpoints.identify(&info);
        let position = self.checkpoints.position(name);
        let policy = match &position {
            None if start == StartAt::Beginning => DeliverPolicy::All,
            None => DeliverPolicy::ByStartSequence {
                start_sequence: info.state.last_sequence + 1,
            },
            Some(position) => {
                let floor = position.finished.floor();
                // If the stream ends below the floor, it was restored from a backup and reuses sequences.
                let is_behind = floor > info.state.last_sequence;
                if is_behind {
                    self.checkpoints.reset(name);
                }
                DeliverPolicy::ByStartSequence {
                    start_sequence: if is_behind { 1 } else { floor + 1 },
                }
            }
        };
        if position.is_some() {
            // Store the position first, because other workers compare the consumer's start with the checkpoints.
            self.store_checkpoints().await;
        }
        let config = self.config(plan, policy);
        match stream.create_consumer_strict(config).await {
            Ok(created) => {
                let created: PullConsumer = created;
                self.checkpoints.observe(created.cached_info());
                if position.is_some() {
                    let sequence = begin(&created.cached_info().config);
                    telemetry::consumer_recreated(&plan.name, name, sequence, reason);
                }
                Ok(Some(created))
            }
            // Servers of different versions report an existing consumer with different errors.
            Err(error) => match look_up(stream, name).await {
                Ok(Some(_)) => Ok(None),
                _ => Err(cannot(error)),
            },
        }
    }

    /// Returns whether an operator replaced a consumer with a consumer that skips events of the group.
    async fn skips_events(&self, info: &Info) -> bool {
        let replaced = || {
            let position = self.checkpoints.position(&info.name)?;
            let is_known = position.created == 0 || position.created == created_at(info);
            (!is_known).then(|| position.finished.floor() + 1)
        };
        if replaced().is_none() {
            return false;
        }
        // If another worker has created the consumer, that worker's checkpoint contains the new position.
        self.load_checkpoints().await;
        replaced().is_some_and(|next| match info.config.deliver_policy {
            DeliverPolicy::All => false,
            DeliverPolicy::ByStartSequence { start_sequence } => start_sequence > next,
            _ => true,
        })
    }

    /// Reports a consumer that differs from the settings, and replaces a consumer that would skip events. Returns the consumer's
    /// `ack_wait`.
    pub(super) async fn check(&self, stream: &Stream, plan: &Plan) -> Option<Duration> {
        let (route, operation) = (Some(&plan.name), Operation::CheckConsumer);
        let info = match look_up(stream, &plan.consumer).await {
            Ok(info) => info?,
            Err(error) => {
                self.stalls.raise(route, operation, describe(&error));
                return None;
            }
        };
        let wanted = self.config(plan, DeliverPolicy::All);
        let differences = Differences::between(&info.config, &wanted);
        let cause = if differences.are_harmful || self.skips_events(&info).await {
            let restored = self.restore(plan).await;
            restored.err().map(|error| describe(&error))
        } else {
            self.checkpoints.observe(&info);
            let full = i64::try_from(info.num_ack_pending).unwrap_or(i64::MAX);
            if info.paused {
                Some(format!(
                    "the consumer {0} is paused: resume it with `nats consumer resume`",
                    plan.consumer
                ))
            } else if full >= info.config.max_ack_pending && info.num_pending > 0 {
                Some(format!(
                    "events are waiting because {full} are running or waiting for a retry: see `max_ack_pending`"
                ))
            } else {
                differences.describe(&plan.consumer)
            }
        };
        self.stalls.update(route, operation, cause);
        Some(info.config.ack_wait)
    }

    /// Reads the checkpoints. If that fails, the worker warns and continues.
    async fn load_checkpoints(&self) -> Vec<u64> {
        let now = self.runtime.now();
        *self.loaded.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
        match self.checkpoints.load().await {
            Ok(loaded) => loaded,
            Err(error) => {
                let cause = describe(&error);
                self.stalls.raise(None, Operation::StoreCheckpoint, cause);
                Vec::new()
            }
        }
    }

    /// Stores the checkpoints and returns their size. If that fails, the worker warns and continues.
    pub(super) async fn store_checkpoints(&self) -> Option<usize> {
        let operation = Operation::StoreCheckpoint;
        match self.checkpoints.store().await {
            Ok(bytes) => {
                self.stalls.clear(None, operation);
                Some(bytes)
            }
            Err(error) => {
                self.stalls.raise(None, operation, describe(&error));
                None
            }
        }
    }

    fn config(&self, plan: &Plan, deliver_policy: DeliverPolicy) -> pull::Config {
        pull::Config {
            durable_name: Some(plan.consumer.clone()),
            name: Some(plan.consumer.clone()),
            description: matches!(plan.selection, RouteSelection::Rest(_))
                .then(|| self.initial_routes()),
            filter_subject: plan.filter.clone(),
            deliver_policy,
            ack_policy: AckPolicy::Explicit,
            ack_wait: self.options.ack_wait,
            // There is no limit, because the server would drop events that reach a limit. The worker dead-letters them instead.
            max_deliver: -1,
            max_ack_pending: plan.max_ack_pending,
            ..pull::Config::default()
        }
    }

    /// Returns the list of the group's initial routes.
    fn initial_routes(&self) -> String {
        let known = self.checkpoints.consumers();
        let names = if known.is_empty() {
            &self.names
        } else {
            &known
        };
        let digests: Vec<_> = names.iter().map(|name| digest(name)).collect();
        let initial = digests.join(" ");
        match initial.len() <= MAX_DESCRIPTION {
            true => initial,
            false => ALL.to_owned(),
        }
    }
}

async fn look_up(stream: &Stream, name: &str) -> Result<Option<Info>, Error> {
    match stream.consumer_info(name).await {
        Ok(info) => Ok(Some(info)),
        Err(error) if error.kind() == ConsumerInfoErrorKind::NotFound => Ok(None),
        Err(error) => {
            let text = format!("the consumer {name} can't be looked up");
            Err(failed(text, error))
        }
    }
}

fn to_pull(context: &Context, info: Info) -> Result<PullConsumer, Error> {
    let config = pull::Config::try_from_consumer_config(info.config.clone());
    let config = config.map_err(|error| {
        let text = format!("the consumer {} isn't a pull consumer", info.name);
        Error::caused(ErrorKind::Inbox, text, error)
    })?;
    Ok(PullConsumer::new(config, info, context.clone()))
}

/// The differences between a consumer and the worker's settings.
#[derive(Default)]
struct Differences {
    texts: Vec<String>,
    /// Whether the consumer would skip events, refuse pulls, or deliver events without their bodies.
    are_harmful: bool,
}

impl Differences {
    /// Compares everything except the start of the consumer.
    fn between(found: &consumer::Config, wanted: &pull::Config) -> Self {
        let mut all = Self::default();
        let filters = [&found.filter_subject]
            .into_iter()
            .filter(|one| !one.is_empty());
        let filters: Vec<_> = filters.chain(&found.filter_subjects).collect();
        all.harmful("filter_subject", filters, vec![&wanted.filter_subject]);
        all.harmful("ack_policy", found.ack_policy, wanted.ack_policy);
        all.harmful("max_deliver", found.max_deliver, wanted.max_deliver);
        all.harmful("deliver_subject", &found.deliver_subject, &None);
        all.harmful("backoff", &found.backoff, &Vec::new());
        all.harmful("headers_only", found.headers_only, false);
        all.harmful("max_batch", found.max_batch, 0);
        all.harmful("max_bytes", found.max_bytes, 0);
        all.harmful(
            "inactive_threshold",
            found.inactive_threshold,
            Duration::ZERO,
        );
        all.harmful("priority_groups", &found.priority_groups, &Vec::new());
        all.harmless("ack_wait", found.ack_wait, wanted.ack_wait);
        all.harmless(
            "max_ack_pending",
            found.max_ack_pending,
            wanted.max_ack_pending,
        );
        all.harmless("mem_storage", found.memory_storage, false);
        // 0 means as many replicas as the stream has.
        all.harmless("num_replicas", found.num_replicas, 0);
        all.harmless("rate_limit", found.rate_limit, 0);
        all
    }

    fn harmful<T: PartialEq + std::fmt::Debug>(&mut self, name: &str, found: T, wanted: T) {
        self.are_harmful |= found != wanted;
        self.harmless(name, found, wanted);
    }

    #[allow(clippy::needless_pass_by_value)] // callers pass each setting by value
    fn harmless<T: PartialEq + std::fmt::Debug>(&mut self, name: &str, found: T, wanted: T) {
        if found != wanted {
            self.texts
                .push(format!("{name} is {found:?}, not {wanted:?}"));
        }
    }

    fn describe(&self, consumer: &str) -> Option<String> {
        let texts = self.texts.join("; ");
        (!texts.is_empty()).then(|| {
            format!(
                "the consumer {consumer} differs from the worker's settings: {texts}; change the settings, or the \
                 consumer with `nats consumer edit`"
            )
        })
    }
}
