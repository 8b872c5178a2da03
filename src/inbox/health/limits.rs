use std::time::Duration;

/// The limits above which an inbox reports a problem. See [`Handle::set_health_limits`](crate::Handle::set_health_limits).
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use botisimo_webhooks::{EventRouter, HealthLimits, WebhookLayer};
///
/// let webhooks = WebhookLayer::new("/webhooks/botisimo", EventRouter::new());
/// let limits = HealthLimits::new().max_silence(Duration::from_secs(6 * 60 * 60));
/// webhooks.handle().set_health_limits(limits);
/// ```
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct HealthLimits {
    pub(crate) rejections: Streak,
    pub(crate) route_failures: Streak,
    pub(crate) max_event_age: Option<Duration>,
    pub(crate) dead_letters: Growth,
    pub(crate) max_silence: Option<Duration>,
}

/// An unbroken series, which is a problem once it has at least this length.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Streak {
    pub(crate) count: u32,
    pub(crate) time: Duration,
}

/// A number within a time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Growth {
    pub(crate) count: u32,
    pub(crate) within: Duration,
}

impl HealthLimits {
    /// Returns the default limits.
    pub fn new() -> Self {
        const MINUTE: Duration = Duration::from_secs(60);
        Self {
            rejections: Streak {
                count: 3,
                time: MINUTE,
            },
            route_failures: Streak {
                count: 5,
                time: MINUTE,
            },
            max_event_age: None,
            dead_letters: Growth {
                count: 10,
                within: 10 * MINUTE,
            },
            max_silence: None,
        }
    }

    /// Sets how many requests the receiver must reject in a row, and over what time, before they are a problem. The default is
    /// 3 requests over 1 minute. An accepted event ends the series. The same limit applies to refusals of a full inbox.
    pub fn rejections(mut self, requests: u32, time: Duration) -> Self {
        self.rejections = Streak {
            count: requests.max(1),
            time,
        };
        self
    }

    /// Sets how many runs of a route must fail in a row, and over what time, before they are a problem. The default is 5 runs
    /// over 1 minute. A run that handles its event ends the series.
    pub fn route_failures(mut self, runs: u32, time: Duration) -> Self {
        self.route_failures = Streak {
            count: runs.max(1),
            time,
        };
        self
    }

    /// Sets how long an event may be in the inbox. The default is 15 minutes plus all delays of the
    /// [`RetryPolicy`](crate::RetryPolicy).
    ///
    /// On JetStream this limit has no effect: a worker warns about events that wait longer than half of the stream's `max_age`.
    pub fn max_event_age(mut self, age: Duration) -> Self {
        self.max_event_age = Some(age);
        self
    }

    /// Sets how many events must become dead letters, and within what time, before they are a problem. The default is 10 events
    /// within 10 minutes.
    pub fn dead_letters(mut self, letters: u32, within: Duration) -> Self {
        self.dead_letters = Growth {
            count: letters.max(1),
            within,
        };
        self
    }

    /// Sets how long the inbox may accept no event and no copy. By default there is no limit.
    ///
    /// If the sender uses another URL or has disabled the endpoint, the receiver sees no requests. Only this limit detects this.
    /// Set a time that is longer than your quietest night. The time starts when the inbox is created or opened.
    pub fn max_silence(mut self, silence: Duration) -> Self {
        self.max_silence = Some(silence);
        self
    }
}

impl Default for HealthLimits {
    fn default() -> Self {
        Self::new()
    }
}

impl Streak {
    /// Returns whether a series is a problem.
    pub(crate) fn is_reached(self, count: u64, lasted: Duration) -> bool {
        count >= u64::from(self.count) && lasted >= self.time
    }
}
