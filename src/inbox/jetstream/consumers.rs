//! The durable consumers of a group. A worker creates missing consumers at their positions, and compares existing consumers with
//! its settings.

use std::time::Duration;

use async_nats::jetstream::consumer::{self, AckPolicy, DeliverPolicy, Info, PullConsumer, pull};
use async_nats::jetstream::context::ConsumerInfoErrorKind;
use async_nats::jetstream::stream::Stream;

use super::StartAt;
use super::checkpoints::{begin, created_at};
use super::connection::failed;
use super::differences::Differences;
use super::route_consumer::RouteConsumer;
use super::stalls::Operation;
use super::stream::check_events;
use super::worker_inner::WorkerInner;
use crate::error::{Error, ErrorKind};
use crate::telemetry;

/// The maximum number of times that a worker looks up and creates a consumer while others delete or create it.
const MAX_ROUNDS: usize = 4;

/// The delay before a worker recreates a consumer, so that other workers can store their finished events.
const GRACE: Duration = Duration::from_millis(500);

impl WorkerInner {
    /// Returns the stream of events, and records its identity.
    pub(super) async fn events(&self) -> Result<Stream, Error> {
        let stream = self.connection.events().await?;
        self.checkpoints.identify(stream.cached_info());
        Ok(stream)
    }

    /// Opens the consumers of a starting worker. Returns an error if an existing consumer differs from the settings, and leaves
    /// that consumer unchanged.
    pub(super) async fn open_consumers(&self) -> Result<Vec<PullConsumer>, Error> {
        let stream = self.events().await?;
        let records = self.checkpoints.load().await;
        // The last consumer is created last. While it is missing, the group hasn't started before.
        let last = self.routes.last();
        let last = last.expect("every group has the consumer of long names");
        let is_new = self.checkpoints.position(&last.consumer).is_none()
            && look_up(&stream, &last.consumer).await?.is_none();
        let start = match is_new {
            true => self.options.first_start,
            false => self.options.new_routes,
        };
        let mut opened = Vec::with_capacity(self.routes.len());
        for route in &self.routes {
            opened.push(self.ensure_consumer(&stream, route, Some(start)).await?);
        }
        if self.checkpoints.store().await.is_some() {
            self.checkpoints.delete(records).await;
        }
        Ok(opened)
    }

    /// Restores the stream and a consumer for a running worker.
    pub(super) async fn restore_consumer(&self, route: &RouteConsumer) -> Result<(), Error> {
        let stream = self.events().await?;
        self.ensure_consumer(&stream, route, None).await?;
        // A new leader may redeliver events that other workers finished.
        self.checkpoints.load().await;
        Ok(())
    }

    /// Returns a consumer. Creates it if it is missing, and replaces it if it would skip events. A new consumer of a starting worker
    /// begins at `start`, and another setting of an existing consumer is an error. A running worker has no `start`.
    async fn ensure_consumer(
        &self,
        stream: &Stream,
        route: &RouteConsumer,
        start: Option<StartAt>,
    ) -> Result<PullConsumer, Error> {
        let name = &route.consumer;
        let mut reason = "the consumer was missing";
        for _ in 0..MAX_ROUNDS {
            if let Some(info) = look_up(stream, name).await? {
                let (differences, are_harmful) = self.compare_consumer(route, &info.config);
                if start.is_some() {
                    differences?;
                }
                if !are_harmful && !self.skips_events(&info).await {
                    self.checkpoints.observe(&info);
                    let context = self.connection.context.clone();
                    return Ok(PullConsumer::new(
                        self.consumer_config(route),
                        info,
                        context,
                    ));
                }
                reason = "the consumer was changed or replaced and would have skipped events";
                let deleted = stream.delete_consumer(name).await;
                deleted.map_err(|error| {
                    failed(format!("the consumer {name} can't be replaced"), error)
                })?;
            }
            if let Some(created) = self.create_consumer(route, start, reason).await? {
                return Ok(created);
            }
        }
        let text = format!("the consumer {name} keeps being deleted");
        Err(Error::new(ErrorKind::Inbox, text))
    }

    /// Creates a consumer that starts after the last finished event, or at `start` if the group never had the consumer. Returns
    /// `None` if another worker created the consumer first.
    async fn create_consumer(
        &self,
        route: &RouteConsumer,
        start: Option<StartAt>,
        reason: &str,
    ) -> Result<Option<PullConsumer>, Error> {
        let name = &route.consumer;
        if self.checkpoints.position(name).is_some() {
            self.connection.runtime.sleep(GRACE).await;
            self.checkpoints.load().await;
        }
        let stream = self.events().await?;
        let last = stream.cached_info().state.last_sequence;
        let position = self.checkpoints.position(name);
        let finished = match position {
            None if start == Some(StartAt::Now) => last,
            None => 0,
            // If the stream ends below the floor, it was restored from a backup and reuses sequences. The worker acknowledges finished
            // events without running them.
            Some((_, floor)) if floor > last => 0,
            Some((_, floor)) => floor,
        };
        if position.is_some() {
            // Store the position first, because other workers compare the consumer's start with the checkpoints.
            self.checkpoints.store().await;
        }
        let start_sequence = finished + 1;
        let config = pull::Config {
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence },
            ..self.consumer_config(route)
        };
        let created: PullConsumer = match stream.create_consumer_strict(config).await {
            Ok(created) => created,
            // Servers of different versions report an existing consumer with different errors.
            Err(_) if look_up(&stream, name).await?.is_some() => return Ok(None),
            Err(error) => {
                let text = format!("the consumer {name} can't be created");
                return Err(failed(text, error));
            }
        };
        self.checkpoints.observe(created.cached_info());
        if position.is_some() {
            telemetry::consumer_recreated(&route.name, name, start_sequence, reason);
        }
        Ok(Some(created))
    }

    /// Returns whether an operator replaced a consumer with a consumer that skips events of the group.
    async fn skips_events(&self, info: &Info) -> bool {
        let replaced = || {
            let (created, floor) = self.checkpoints.position(&info.name)?;
            let is_known = created == 0 || created == created_at(info);
            (!is_known).then_some(floor)
        };
        if replaced().is_none() {
            return false;
        }
        // If another worker has created the consumer, that worker's checkpoint contains the new position.
        self.checkpoints.load().await;
        replaced().is_some_and(|floor| begin(&info.config).is_none_or(|begin| begin > floor + 1))
    }

    /// Checks the stream and the consumers, because an operator may have changed them.
    pub(super) async fn check(&self) {
        let stream = self.events().await;
        let fits = stream.as_ref().map_err(Clone::clone);
        let fits = fits.and_then(|stream| check_events(stream, &self.connection.settings));
        let stalls = &self.connection.stalls;
        stalls.report(None, Operation::CheckStream, &fits);
        let Ok(stream) = stream else {
            return;
        };
        self.connection.read_clock().await;
        // Store the record again, because an operator may have deleted it.
        self.checkpoints.store().await;
        for route in &self.routes {
            self.check_route(&stream, route).await;
            for operation in [Operation::Acknowledge, Operation::KeepUp] {
                stalls.expire(&route.name, operation);
            }
        }
    }

    /// Restores a consumer that is missing or would skip events, and reports another difference from the settings.
    async fn check_route(&self, stream: &Stream, route: &RouteConsumer) {
        let consumer = self.ensure_consumer(stream, route, None).await;
        let result = consumer.and_then(|consumer| {
            let info = consumer.cached_info();
            route.set_ack_wait(info.config.ack_wait);
            self.check_consumer(route, info)
        });
        let stalls = &self.connection.stalls;
        stalls.report(Some(&route.name), Operation::CheckConsumer, &result);
    }

    fn check_consumer(&self, route: &RouteConsumer, info: &Info) -> Result<(), Error> {
        let most = info.config.max_ack_pending;
        let pending = i64::try_from(info.num_ack_pending).unwrap_or(i64::MAX);
        let text = if info.paused {
            let name = &route.consumer;
            format!("the consumer {name} is paused: resume it with `nats consumer resume`")
        } else if pending >= most && info.num_pending > 0 {
            format!(
                "events are waiting because {most} are running or waiting for a retry: see `max_ack_pending`"
            )
        } else {
            return self.compare_consumer(route, &info.config).0;
        };
        Err(Error::new(ErrorKind::Inbox, text))
    }

    fn consumer_config(&self, route: &RouteConsumer) -> pull::Config {
        pull::Config {
            durable_name: Some(route.consumer.clone()),
            name: Some(route.consumer.clone()),
            filter_subject: route.filter.clone(),
            ack_policy: AckPolicy::Explicit,
            ack_wait: self.options.ack_wait,
            // There is no limit, because the server would drop events that reach a limit. The worker dead-letters them instead.
            max_deliver: -1,
            max_ack_pending: route.max_ack_pending,
            ..pull::Config::default()
        }
    }

    /// Compares everything except the start of a consumer. Returns each difference as an error, and whether the consumer would skip
    /// events, refuse pulls, or deliver events without their bodies.
    fn compare_consumer(
        &self,
        route: &RouteConsumer,
        found: &consumer::Config,
    ) -> (Result<(), Error>, bool) {
        let wanted = self.consumer_config(route);
        let mut all = Differences::default();
        let filters = [&found.filter_subject]
            .into_iter()
            .filter(|one| !one.is_empty());
        let filters: Vec<_> = filters.chain(&found.filter_subjects).collect();
        let inactive = found.inactive_threshold;
        all.compare("filter_subject", filters, vec![&wanted.filter_subject]);
        all.compare("ack_policy", found.ack_policy, wanted.ack_policy);
        all.compare("max_deliver", found.max_deliver, wanted.max_deliver);
        all.compare("deliver_subject", &found.deliver_subject, &None);
        all.compare("backoff", &found.backoff, &Vec::new());
        all.compare("headers_only", found.headers_only, false);
        all.compare("max_batch", found.max_batch, 0);
        all.compare("max_bytes", found.max_bytes, 0);
        all.compare("inactive_threshold", inactive, Duration::ZERO);
        all.compare("priority_groups", &found.priority_groups, &Vec::new());
        let are_harmful = !all.is_empty();
        let (pending, wanted_pending) = (found.max_ack_pending, wanted.max_ack_pending);
        all.compare("ack_wait", found.ack_wait, wanted.ack_wait);
        all.compare("max_ack_pending", pending, wanted_pending);
        all.compare("mem_storage", found.memory_storage, false);
        // 0 means as many replicas as the stream has.
        all.compare("num_replicas", found.num_replicas, 0);
        all.compare("rate_limit", found.rate_limit, 0);
        let name = &route.consumer;
        let result = all.result(|text| {
            format!(
                "the consumer {name} differs from the worker's settings: {text}; change the settings, or the consumer with \
                 `nats consumer edit`"
            )
        });
        (result, are_harmful)
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
