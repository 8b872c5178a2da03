use std::marker::PhantomData;
use std::sync::Arc;
#[cfg(feature = "metrics")]
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

#[cfg(feature = "metrics")]
use ::metrics::{Key, Recorder};

#[cfg(feature = "metrics")]
use super::InFlight;
use super::type_label::{Counted, CountedType, TypeLabel};
use super::{Sample, Stopwatch};
#[cfg(feature = "metrics")]
use super::{catalog, keys, keys::RequestKeys, keys::RouterKeys, recorder};
#[cfg(feature = "metrics")]
use crate::catch_panic::catch_panic;
use crate::event::EventType;

/// The metrics of an inbox or a receiver. All clones update the same metrics.
///
/// The recorder is the user's code. So no method is called while a lock is held, and if the recorder panics, only the count is
/// lost.
#[derive(Clone, Default)]
pub(crate) struct Metrics {
    #[cfg(feature = "metrics")]
    shared: Arc<Shared>,
}

#[cfg(feature = "metrics")]
#[derive(Default)]
pub(super) struct Shared {
    keys: RouterKeys,
    /// The address of the recorder that has the descriptions.
    described: AtomicUsize,
}

impl Metrics {
    /// Returns the metrics of an inbox with these routes. `types` are the event types that a route matches exactly.
    pub(crate) fn new<'a>(
        routes: impl Iterator<Item = Arc<str>>,
        types: impl Iterator<Item = &'a str>,
    ) -> Self {
        #[cfg(feature = "metrics")]
        let metrics = Self {
            shared: Arc::new(Shared {
                keys: RouterKeys::new(routes, types),
                described: AtomicUsize::new(0),
            }),
        };
        #[cfg(not(feature = "metrics"))]
        let metrics = Self {};
        // If a recorder is already installed, it gets the descriptions before the first event.
        metrics.describe();
        metrics
    }

    /// Returns the metrics of a receiver, or of an inbox without a router.
    pub(crate) fn without_router() -> Self {
        Self::new(std::iter::empty(), std::iter::empty())
    }

    /// Describes the metrics to the recorder, if one is installed.
    pub(crate) fn describe(&self) {
        #[cfg(feature = "metrics")]
        self.record(|_, _| {});
    }

    /// Returns the label of an event type.
    #[inline]
    pub(crate) fn label(&self, event_type: &EventType) -> TypeLabel<'_> {
        TypeLabel {
            #[cfg(feature = "metrics")]
            keys: recorder::is_installed().then(|| self.shared.keys.of_type(event_type)),
            metrics: PhantomData,
        }
    }

    /// Returns the label of an event type.
    #[inline]
    pub(crate) fn counted_label(&self, counted_type: &CountedType) -> TypeLabel<'_> {
        #[cfg(feature = "metrics")]
        return self.label(&counted_type.event_type);
        #[cfg(not(feature = "metrics"))]
        TypeLabel {
            metrics: PhantomData,
        }
    }

    /// Returns the label of an event that can't be decoded.
    #[inline]
    pub(crate) fn unknown() -> TypeLabel<'static> {
        TypeLabel {
            #[cfg(feature = "metrics")]
            keys: recorder::is_installed().then(RouterKeys::other),
            metrics: PhantomData,
        }
    }

    /// Counts an event.
    #[inline]
    pub(crate) fn event(&self, label: TypeLabel<'_>, counted: Counted) {
        #[cfg(feature = "metrics")]
        if let Some((keys, name)) = label.keys {
            self.record(|_, recorder| recorder::count(recorder, keys.get(name, counted), 1));
        }
    }

    /// Counts a request that the receiver answered.
    #[inline]
    pub(crate) fn request(&self, reason: &'static str, since: Stopwatch) {
        #[cfg(feature = "metrics")]
        self.record(|_, recorder| {
            let Some(keys) = RequestKeys::get(reason) else {
                return;
            };
            recorder::count(recorder, &keys.count, 1);
            if let Some(elapsed) = since.elapsed() {
                recorder::observe(recorder, &keys.duration, elapsed.as_secs_f64());
            }
        });
    }

    /// Records how long an event waited for its first attempt.
    #[inline]
    pub(crate) fn first_attempt(&self, received_at: SystemTime, now: impl FnOnce() -> SystemTime) {
        #[cfg(feature = "metrics")]
        self.record(|_, recorder| {
            let waited = now().duration_since(received_at).unwrap_or_default();
            recorder::observe(recorder, &keys::QUEUE, waited.as_secs_f64());
        });
    }

    /// Counts the run of a route.
    #[inline]
    pub(crate) fn route(&self, route: &str, outcome: &'static str, since: Stopwatch) {
        #[cfg(feature = "metrics")]
        self.record(|shared, recorder| {
            let write = |(count, duration): &(Key, Key)| {
                recorder::count(recorder, count, 1);
                if let Some(elapsed) = since.elapsed() {
                    recorder::observe(recorder, duration, elapsed.as_secs_f64());
                }
            };
            shared.keys.with_route(route, outcome, write);
        });
    }

    /// Counts a route that skipped an event. `reason` is one of a fixed set of names.
    pub(crate) fn skipped(&self, route: &str, reason: &'static str) {
        #[cfg(feature = "metrics")]
        self.record(|_, recorder| {
            let labels = [
                ("route", Arc::<str>::from(route).into()),
                ("reason", reason.into()),
            ];
            recorder::count(recorder, &keys::key(&catalog::SKIPPED, labels), 1);
        });
    }

    /// Records the time from the sender's timestamp until the event was handled.
    #[inline]
    pub(crate) fn handled(
        &self,
        sent_at: impl FnOnce() -> Option<SystemTime>,
        now: impl FnOnce() -> SystemTime,
    ) {
        #[cfg(feature = "metrics")]
        self.record(|_, recorder| {
            if let Some(sent_at) = sent_at() {
                let lag = now().duration_since(sent_at).unwrap_or_default();
                recorder::observe(recorder, &keys::LAG, lag.as_secs_f64());
            }
        });
    }

    /// Counts an attempt that a retry follows.
    #[inline]
    pub(crate) fn retried(&self) {
        #[cfg(feature = "metrics")]
        self.record(|_, recorder| recorder::count(recorder, &keys::RETRIES, 1));
    }

    /// Counts an event that was replayed.
    #[inline]
    pub(crate) fn replayed(&self) {
        #[cfg(feature = "metrics")]
        self.record(|_, recorder| recorder::count(recorder, &keys::REPLAYED, 1));
    }

    /// Counts dead letters that the inbox dropped.
    #[inline]
    pub(crate) fn dead_letters_dropped(&self, letters: u64) {
        #[cfg(feature = "metrics")]
        if letters > 0 {
            self.record(|_, recorder| {
                recorder::count(recorder, &keys::DEAD_LETTERS_DROPPED, letters);
            });
        }
    }

    /// Records the number of events of a transaction. `inbox` is one of a fixed set of names.
    #[inline]
    pub(crate) fn batch(&self, inbox: &'static str, events: usize) {
        #[cfg(feature = "metrics")]
        self.record(|_, recorder| {
            let key = keys::key(&catalog::BATCH, [("inbox", inbox.into())]);
            recorder::observe(recorder, &key, events as f64);
        });
    }

    /// Counts an event that left a worker of JetStream. `outcome` is one of a fixed set of names.
    #[cfg(feature = "jetstream")]
    #[inline]
    pub(crate) fn delivery(&self, route: &str, outcome: &'static str) {
        #[cfg(feature = "metrics")]
        self.record(|_, recorder| {
            let labels = [
                ("route", Arc::<str>::from(route).into()),
                ("outcome", outcome.into()),
            ];
            recorder::count(recorder, &keys::key(&catalog::DELIVERIES, labels), 1);
        });
    }

    /// Sets the gauges of an inbox. `stalled` returns whether the route with this name is stalled.
    #[inline]
    pub(crate) fn sample(&self, sample: impl FnOnce() -> Sample, stalled: impl Fn(&str) -> bool) {
        #[cfg(feature = "metrics")]
        self.record(|shared, recorder| {
            let sample = sample();
            if let Some(in_flight) = sample.in_flight {
                let InFlight {
                    waiting,
                    running,
                    retrying,
                    bytes,
                } = in_flight;
                for (key, count) in keys::in_flight().iter().zip([waiting, running, retrying]) {
                    recorder::set(recorder, key, count as f64);
                }
                recorder::set(recorder, &keys::IN_FLIGHT_BYTES, bytes as f64);
            }
            if let Some(letters) = sample.dead_letters {
                recorder::set(recorder, &keys::DEAD_LETTERS, letters as f64);
            }
            if let Some(age) = sample.oldest_event_age {
                recorder::set(recorder, &keys::OLDEST_EVENT_AGE, age.as_secs_f64());
            }
            if let Some(at) = sample.last_accepted {
                let since_epoch = at.duration_since(SystemTime::UNIX_EPOCH);
                let seconds = since_epoch.unwrap_or_default().as_secs_f64();
                recorder::set(recorder, &keys::LAST_ACCEPTED, seconds);
            }
            shared.keys.each_route(|route, key| {
                let stalled = if stalled(route) { 1.0 } else { 0.0 };
                recorder::set(recorder, key, stalled);
            });
        });
    }

    /// Calls `write` with the current recorder. If no recorder is installed, does nothing.
    #[cfg(feature = "metrics")]
    #[inline]
    pub(super) fn record(&self, write: impl FnOnce(&Shared, &dyn Recorder)) {
        ::metrics::with_recorder(|recorder| {
            if !recorder::is_noop(recorder) {
                self.shared.record(recorder, write);
            }
        });
    }
}

#[cfg(feature = "metrics")]
impl Shared {
    fn record(&self, recorder: &dyn Recorder, write: impl FnOnce(&Self, &dyn Recorder)) {
        let _ = catch_panic(|| {
            let address = std::ptr::from_ref(recorder).cast::<()>().addr();
            if self.described.load(Ordering::Relaxed) != address {
                // Set before the call, so that a recorder that panics here doesn't lose every count.
                self.described.store(address, Ordering::Relaxed);
                catalog::describe(recorder);
            }
            write(self, recorder);
        });
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}
