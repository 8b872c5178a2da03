use std::time::Instant;

/// The number of accepted events in each minute of the last hour.
#[derive(Debug)]
pub(crate) struct EventRate {
    /// When the first minute began.
    start: Instant,
    /// The number of the current minute.
    minute: u64,
    /// The counts. The minute with number `n` is at index `n % 60`.
    counts: [u64; MINUTES],
    /// The total at the last update.
    total: u64,
}

const MINUTES: usize = 60;

impl EventRate {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            start: now,
            minute: 0,
            counts: [0; MINUTES],
            total: 0,
        }
    }

    /// Adds the events since the last update to the current minute.
    pub(crate) fn update(&mut self, now: Instant, total: u64) {
        let minute = now.saturating_duration_since(self.start).as_secs() / 60;
        let passed = minute.saturating_sub(self.minute).min(MINUTES as u64);
        for empty in minute + 1 - passed..=minute {
            *self.slot(empty) = 0;
        }
        self.minute = self.minute.max(minute);
        let minute = self.minute;
        *self.slot(minute) += total.saturating_sub(self.total);
        self.total = total;
    }

    fn slot(&mut self, minute: u64) -> &mut u64 {
        // The remainder is less than 60.
        &mut self.counts[(minute % MINUTES as u64) as usize]
    }

    /// Returns the counts, the oldest minute first. The last count is the count of the current minute.
    pub(crate) fn counts(&self) -> Vec<u64> {
        let current = (self.minute % MINUTES as u64) as usize;
        let (newer, older) = self.counts.split_at(current + 1);
        [older, newer].concat()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_event_counts_in_its_minute_for_an_hour() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut rate = EventRate::new(start);
        rate.update(at(0), 2);
        rate.update(at(59), 3);
        rate.update(at(60), 7);
        let counts = rate.counts();
        assert_eq!((counts.len(), &counts[57..]), (60, &[0, 3, 4][..]));

        rate.update(at(60 * 59 + 1), 8);
        let counts = rate.counts();
        assert_eq!((counts[0], counts[1], counts[59]), (3, 4, 1));

        rate.update(at(60 * 60), 8);
        let counts = rate.counts();
        assert_eq!((counts[0], counts[58], counts[59]), (4, 1, 0));

        rate.update(at(60 * 1_000), 9);
        assert_eq!(
            rate.counts().iter().sum::<u64>(),
            1,
            "older minutes are forgotten"
        );
        // The clock of a runtime may be read out of order.
        rate.update(at(60), 10);
        assert_eq!(rate.counts()[59], 2);
    }
}
