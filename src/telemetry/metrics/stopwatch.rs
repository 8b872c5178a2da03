#[cfg(feature = "inspector")]
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
#[cfg(any(feature = "inspector", feature = "metrics"))]
use std::time::Instant;

#[cfg(feature = "metrics")]
use super::recorder;

/// Whether an inspector of this process shows durations.
#[cfg(feature = "inspector")]
static IS_SHOWN: AtomicBool = AtomicBool::new(false);

/// Measures a duration by the machine's monotonic clock. Doesn't read the clock if there is neither a recorder nor an inspector at
/// the start.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stopwatch {
    #[cfg(any(feature = "inspector", feature = "metrics"))]
    state: State,
}

#[cfg(any(feature = "inspector", feature = "metrics"))]
#[derive(Clone, Copy, Debug, Default)]
enum State {
    #[default]
    Off,
    Running(Instant),
    Stopped(Duration),
}

impl Stopwatch {
    /// Makes all stopwatches of this process run from now on.
    #[cfg(feature = "inspector")]
    pub(crate) fn run_always() {
        IS_SHOWN.store(true, Ordering::Relaxed);
    }

    /// Starts a stopwatch if a recorder is installed or an inspector exists.
    #[inline]
    pub(crate) fn start() -> Self {
        Self {
            #[cfg(any(feature = "inspector", feature = "metrics"))]
            state: match is_needed() {
                true => State::Running(Instant::now()),
                false => State::Off,
            },
        }
    }

    /// Starts another stopwatch if this one was started.
    #[inline]
    pub(crate) fn restart(self) -> Self {
        Self {
            #[cfg(any(feature = "inspector", feature = "metrics"))]
            state: match self.state {
                State::Off => State::Off,
                State::Running(_) | State::Stopped(_) => State::Running(Instant::now()),
            },
        }
    }

    /// Returns whether the stopwatch was started.
    #[inline]
    pub(crate) fn is_on(self) -> bool {
        #[cfg(any(feature = "inspector", feature = "metrics"))]
        return !matches!(self.state, State::Off);
        #[cfg(not(any(feature = "inspector", feature = "metrics")))]
        false
    }

    /// Stops the stopwatch at its current duration.
    #[inline]
    pub(crate) fn stop(&mut self) {
        #[cfg(any(feature = "inspector", feature = "metrics"))]
        if let State::Running(started) = self.state {
            self.state = State::Stopped(started.elapsed());
        }
    }

    /// Returns the duration until the stop, or until now. Returns `None` if the stopwatch was never started.
    pub(crate) fn elapsed(self) -> Option<Duration> {
        #[cfg(any(feature = "inspector", feature = "metrics"))]
        return match self.state {
            State::Off => None,
            State::Running(started) => Some(started.elapsed()),
            State::Stopped(elapsed) => Some(elapsed),
        };
        #[cfg(not(any(feature = "inspector", feature = "metrics")))]
        None
    }
}

#[cfg(any(feature = "inspector", feature = "metrics"))]
#[inline]
fn is_needed() -> bool {
    #[cfg(feature = "inspector")]
    if IS_SHOWN.load(Ordering::Relaxed) {
        return true;
    }
    #[cfg(feature = "metrics")]
    if recorder::is_installed() {
        return true;
    }
    false
}
