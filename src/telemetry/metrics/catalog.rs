use metrics::{Recorder, Unit};

/// A metric, as the table in the guide lists it.
pub(super) struct Metric {
    pub(super) name: &'static str,
    kind: Kind,
    unit: Option<Unit>,
    description: &'static str,
}

enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// Defines the metrics, and the list of all metrics.
macro_rules! metrics {
    ($($metric:ident = $kind:ident $name:literal, $unit:expr, $description:literal;)*) => {
        $(
            pub(super) static $metric: Metric = Metric {
                name: concat!("botisimo_webhooks_", $name),
                kind: Kind::$kind,
                unit: $unit,
                description: $description,
            };
        )*

        static ALL: &[&Metric] = &[$(&$metric),*];
    };
}

metrics! {
    REQUESTS = Counter "requests_total", Some(Unit::Count), "Webhook requests that the receiver answered";
    RESPONSE = Histogram "response_duration_seconds", Some(Unit::Seconds), "Time from a request's head to its answer";
    RECEIVED = Counter "received_total", Some(Unit::Count), "Events that the inbox accepted, recognized as copies or refused";
    RECOVERED = Counter "recovered_total", Some(Unit::Count), "Unfinished events that a durable inbox found when it was opened";
    REPLAYED = Counter "replayed_total", Some(Unit::Count), "Events that were replayed";
    EVENTS = Counter "events_total", Some(Unit::Count), "Accepted events that ended";
    ATTEMPTS = Counter "attempts_total", Some(Unit::Count), "Runs of a route";
    SKIPPED = Counter "skipped_total", Some(Unit::Count), "Routes that skipped an event";
    RETRIES = Counter "retries_total", Some(Unit::Count), "Attempts that were followed by a retry";
    DELIVERIES = Counter "deliveries_total", Some(Unit::Count), "Events that left a JetStream worker";
    DEAD_LETTERS_DROPPED = Counter "dead_letters_dropped_total", Some(Unit::Count), "Dead letters that the inbox dropped because it had too many";
    IN_FLIGHT = Gauge "in_flight", Some(Unit::Count), "Accepted events that haven't ended";
    IN_FLIGHT_BYTES = Gauge "in_flight_bytes", Some(Unit::Bytes), "Bytes of the bodies of all events in flight";
    DEAD_LETTERS = Gauge "dead_letters", Some(Unit::Count), "Dead letters that the inbox keeps";
    OLDEST_EVENT_AGE = Gauge "oldest_event_age_seconds", Some(Unit::Seconds), "Age of the oldest event in flight";
    LAST_ACCEPTED = Gauge "last_accepted_timestamp_seconds", Some(Unit::Seconds), "Unix time at which the inbox last accepted an event";
    ROUTE_STALLED = Gauge "route_stalled", None, "1 while a route is stalled or always fails, otherwise 0";
    QUEUE = Histogram "queue_duration_seconds", Some(Unit::Seconds), "Time from receiving an event to its first attempt";
    HANDLER = Histogram "handler_duration_seconds", Some(Unit::Seconds), "Time that a route ran in one attempt";
    LAG = Histogram "event_lag_seconds", Some(Unit::Seconds), "Time from the sender's timestamp until the event was handled";
    BATCH = Histogram "commit_batch_events", Some(Unit::Count), "Events that an inbox stored in one transaction";
}

/// Describes every metric to a recorder.
pub(super) fn describe(recorder: &dyn Recorder) {
    for metric in ALL {
        let describe = match metric.kind {
            Kind::Counter => Recorder::describe_counter,
            Kind::Gauge => Recorder::describe_gauge,
            Kind::Histogram => Recorder::describe_histogram,
        };
        describe(
            recorder,
            metric.name.into(),
            metric.unit,
            metric.description.into(),
        );
    }
}
