//! The sender's model: the decision about an event after each answer, and about the endpoint.

use std::time::Duration;

use super::scenario::{Reaction, Sender};

/// The answer to an attempt, as the sender sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Status(u16),
    /// No answer came within the time that counts as quick.
    Timeout,
    /// No connection, or the connection closed before the answer.
    Unreachable,
}

impl Answer {
    pub(super) fn is_success(self) -> bool {
        matches!(self, Self::Status(200..=299))
    }
}

/// The sender's decision after an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NextStep {
    Delivered,
    RetryAt(Duration),
    Dropped(Loss),
}

/// Why an event is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Loss {
    Timeout,
    Unreachable,
    /// The sender stopped to retry.
    RetriesEnded,
    /// The endpoint is disabled.
    Disabled,
}

impl Loss {
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Timeout => "no quick answer",
            Self::Unreachable => "no connection",
            Self::RetriesEnded => "the sender stopped to retry",
            Self::Disabled => "the endpoint is disabled",
        }
    }
}

impl Sender {
    /// Decides about an event that was made at `made_at`, after its attempt number `attempt`.
    pub(super) fn decide(
        &self,
        answer: Answer,
        now: Duration,
        made_at: Duration,
        attempt: u32,
    ) -> NextStep {
        let (reaction, loss) = match answer {
            Answer::Status(200..=299) => return NextStep::Delivered,
            Answer::Status(_) => (Reaction::Retry, Loss::RetriesEnded),
            Answer::Timeout => (self.timeout, Loss::Timeout),
            Answer::Unreachable => (self.unreachable, Loss::Unreachable),
        };
        if reaction == Reaction::Drop {
            return NextStep::Dropped(loss);
        }
        let exponent = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
        let delay = self.first_retry.0.as_secs_f64() * self.factor.powi(exponent);
        let max = self.max_retry.0.max(self.first_retry.0);
        let delay = match delay.is_finite() && delay < max.as_secs_f64() {
            true => Duration::from_secs_f64(delay),
            false => max,
        };
        let at = now + delay;
        match at.saturating_sub(made_at) > self.retry_for.0 {
            true => NextStep::Dropped(Loss::RetriesEnded),
            false => NextStep::RetryAt(at),
        }
    }
}

/// The time since which no attempt has succeeded.
#[derive(Clone, Debug, Default)]
pub(super) struct Standing {
    failing_since: Option<Duration>,
    pub(super) emailed_at: Option<Duration>,
    pub(super) disabled_at: Option<Duration>,
}

/// A step of the sender against the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Warning {
    Emailed,
    Disabled,
}

impl Standing {
    /// Records an attempt. Returns the steps that follow from it.
    pub(super) fn record(
        &mut self,
        sender: &Sender,
        answer: Answer,
        now: Duration,
    ) -> Vec<Warning> {
        if answer.is_success() {
            self.failing_since = None;
            return Vec::new();
        }
        let since = *self.failing_since.get_or_insert(now);
        let failing = now.saturating_sub(since);
        let mut warnings = Vec::new();
        if self.emailed_at.is_none() && failing >= sender.email_after.0 {
            self.emailed_at = Some(now);
            warnings.push(Warning::Emailed);
        }
        if self.disabled_at.is_none() && failing >= sender.disable_after.0 {
            self.disabled_at = Some(now);
            warnings.push(Warning::Disabled);
        }
        warnings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86400);
    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn errors_are_retried_with_growing_delays_until_the_event_is_too_old() {
        let sender = Sender::default();
        let (mut now, mut attempt, mut delays) = (Duration::ZERO, 1, Vec::new());
        while let NextStep::RetryAt(at) =
            sender.decide(Answer::Status(500), now, Duration::ZERO, attempt)
        {
            delays.push(at - now);
            (now, attempt) = (at, attempt + 1);
        }
        assert_eq!(delays[..4], [MINUTE, MINUTE * 3, MINUTE * 9, MINUTE * 27]);
        assert!(
            delays.iter().all(|delay| *delay <= sender.max_retry.0),
            "{delays:?}"
        );
        assert!(
            now <= sender.retry_for.0 && now + sender.max_retry.0 > sender.retry_for.0,
            "{now:?}"
        );
        assert_eq!(
            sender.decide(Answer::Status(500), now, Duration::ZERO, attempt),
            NextStep::Dropped(Loss::RetriesEnded)
        );
    }

    #[test]
    fn a_timeout_drops_the_event_as_the_specification_reads() {
        let mut sender = Sender::default();
        let decide = |sender: &Sender, answer| sender.decide(answer, MINUTE, Duration::ZERO, 1);
        assert_eq!(
            decide(&sender, Answer::Timeout),
            NextStep::Dropped(Loss::Timeout)
        );
        assert_eq!(
            decide(&sender, Answer::Unreachable),
            NextStep::Dropped(Loss::Unreachable)
        );
        sender.timeout = Reaction::Retry;
        assert_eq!(
            decide(&sender, Answer::Timeout),
            NextStep::RetryAt(MINUTE * 2)
        );
        assert_eq!(decide(&sender, Answer::Status(204)), NextStep::Delivered);
        assert_eq!(
            decide(&sender, Answer::Status(308)),
            NextStep::RetryAt(MINUTE * 2)
        );
    }

    #[test]
    fn days_of_failure_bring_an_email_and_disable_the_endpoint_and_one_success_ends_them() {
        let sender = Sender::default();
        let mut standing = Standing::default();
        assert!(
            standing
                .record(&sender, Answer::Status(500), DAY)
                .is_empty()
        );
        assert!(
            standing
                .record(&sender, Answer::Status(200), DAY * 3)
                .is_empty()
        );
        assert!(
            standing
                .record(&sender, Answer::Timeout, DAY * 4)
                .is_empty()
        );
        assert_eq!(
            standing.record(&sender, Answer::Status(404), DAY * 7),
            [Warning::Emailed]
        );
        assert_eq!(
            standing.record(&sender, Answer::Unreachable, DAY * 8),
            [Warning::Disabled]
        );
        assert_eq!(standing.disabled_at, Some(DAY * 8));
    }
}
