use super::Metrics;
#[cfg(feature = "metrics")]
use super::type_label::TypeKeysOf;
use super::type_label::{Counted, TypeLabel};
#[cfg(feature = "metrics")]
use super::{keys, recorder};

/// Counts that are collected while a lock is held, and recorded afterwards.
#[must_use]
pub(crate) struct PendingCounts<'a> {
    #[cfg(feature = "metrics")]
    buffer: Buffer<'a>,
    pub(crate) metrics: &'a Metrics,
}

#[cfg(feature = "metrics")]
#[derive(Default)]
struct Buffer<'a> {
    /// A list suffices, because most batches have few different entries.
    events: Vec<(TypeKeysOf<'a>, Counted, u64)>,
    recovered: u64,
    retries: u64,
    replayed: u64,
    dead_letters_dropped: u64,
}

impl<'a> PendingCounts<'a> {
    pub(crate) fn new(metrics: &'a Metrics) -> Self {
        Self {
            #[cfg(feature = "metrics")]
            buffer: Buffer::default(),
            metrics,
        }
    }

    /// Counts an event.
    #[inline]
    pub(crate) fn event(&mut self, label: TypeLabel<'a>, counted: Counted) {
        self.events(label, counted, 1);
    }

    /// Counts events of one type.
    #[inline]
    pub(crate) fn events(&mut self, label: TypeLabel<'a>, counted: Counted, count: u64) {
        #[cfg(feature = "metrics")]
        if let Some((keys, name)) = label.keys
            && count > 0
        {
            let mut entries = self.buffer.events.iter_mut();
            let same = entries
                .find(|((other, _), what, _)| std::ptr::eq(*other, keys) && *what == counted);
            match same {
                Some((.., sum)) => *sum += count,
                None => self.buffer.events.push(((keys, name), counted, count)),
            }
        }
    }

    /// Counts an attempt that a retry follows.
    #[inline]
    pub(crate) fn retried(&mut self) {
        #[cfg(feature = "metrics")]
        {
            self.buffer.retries += 1;
        }
    }

    /// Counts events that were replayed.
    #[inline]
    pub(crate) fn replayed(&mut self, letters: u64) {
        #[cfg(feature = "metrics")]
        {
            self.buffer.replayed += letters;
        }
    }

    /// Counts dead letters that the inbox dropped.
    #[inline]
    pub(crate) fn dead_letters_dropped(&mut self, letters: u64) {
        #[cfg(feature = "metrics")]
        {
            self.buffer.dead_letters_dropped += letters;
        }
    }

    /// Counts unfinished events that a durable inbox found when it was opened.
    #[inline]
    pub(crate) fn recovered(&mut self, events: u64) {
        #[cfg(feature = "metrics")]
        {
            self.buffer.recovered += events;
        }
    }

    /// Records the counts. The caller holds no lock.
    #[inline]
    pub(crate) fn record(self) {
        #[cfg(feature = "metrics")]
        self.metrics.record(|_, recorder| {
            let Buffer {
                events,
                recovered,
                retries,
                replayed,
                dead_letters_dropped,
            } = self.buffer;
            for ((type_keys, name), counted, count) in events {
                recorder::count(recorder, type_keys.get(name, counted), count);
            }
            for (key, count) in [
                (&keys::RECOVERED, recovered),
                (&keys::RETRIES, retries),
                (&keys::REPLAYED, replayed),
                (&keys::DEAD_LETTERS_DROPPED, dead_letters_dropped),
            ] {
                if count > 0 {
                    recorder::count(recorder, key, count);
                }
            }
        });
    }
}
