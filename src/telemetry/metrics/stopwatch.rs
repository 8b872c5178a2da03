use std::time::Duration;
#[cfg(feature = "metrics")]
use std::time::Instant;

#[cfg(feature = "metrics")]
use super::recorder;

/// Measures a duration by the machine's monotonic clock. Doesn't read the clock if no recorder is installed at the start.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stopwatch {
    #[cfg(feature = "metrics")]
    state: State,
}

#[cfg(feature = "metrics")]
#[derive(Clone, Copy, Debug, Default)]
enum State {
    #[default]
    Off,
    Running(Instant),
    Stopped(Duration),
}

impl Stopwatch {
    /// Starts a stopwatch if a recorder is installed.
    #[inline]
    pub(crate) fn start() -> Self {
        Self {
            #[cfg(feature = "metrics")]
            state: match recorder::is_installed() {
                true => State::Running(Instant::now()),
                false => State::Off,
            },
        }
    }

    /// Starts another stopwatch if this one was started.
    #[inline]
    pub(crate) fn restart(self) -> Self {
        Self {
            #[cfg(feature = "metrics")]
            state: match self.state {
                State::Off => State::Off,
                State::Running(_) | State::Stopped(_) => State::Running(Instant::now()),
            },
        }
    }

    /// Returns whether the stopwatch was started.
    #[inline]
    pub(crate) fn is_on(self) -> bool {
        #[cfg(feature = "metrics")]
        return !matches!(self.state, State::Off);
        #[cfg(not(feature = "metrics"))]
        false
    }

    /// Stops the stopwatch at its current duration.
    #[inline]
    pub(crate) fn stop(&mut self) {
        #[cfg(feature = "metrics")]
        if let State::Running(started) = self.state {
            self.state = State::Stopped(started.elapsed());
        }
    }

    /// Returns the duration until the stop, or until now. Returns `None` if the stopwatch was never started.
    pub(crate) fn elapsed(self) -> Option<Duration> {
        #[cfg(feature = "metrics")]
        return match self.state {
            State::Off => None,
            State::Running(started) => Some(started.elapsed()),
            State::Stopped(elapsed) => Some(elapsed),
        };
        #[cfg(not(feature = "metrics"))]
        None
    }
}
