use std::fmt;
use std::fs;

/// Samples of this process's memory.
#[derive(Default)]
pub(crate) struct Resident {
    kilobytes: Vec<u64>,
}

impl Resident {
    /// Takes a sample, if the system reports the memory.
    pub(crate) fn sample(&mut self) {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes = line.and_then(|line| line.trim().split(' ').next());
        self.kilobytes
            .extend(kilobytes.and_then(|kilobytes| kilobytes.parse::<u64>().ok()));
    }

    /// Returns the median of each third.
    fn thirds(&self) -> Option<[u64; 3]> {
        let third = self.kilobytes.len() / 3;
        let median = |part: usize| {
            let mut part = self.kilobytes[part * third..(part + 1) * third].to_vec();
            part.sort_unstable();
            part[part.len() / 2]
        };
        (third > 0).then(|| [median(0), median(1), median(2)])
    }

    /// Asserts that the last third isn't larger than the middle third. A short run has no time to warm up, so
    /// this function asserts nothing if there are few samples.
    pub(crate) fn assert_flat(&self) {
        if self.kilobytes.len() < 150 {
            return;
        }
        if let Some([_, middle, last]) = self.thirds() {
            // The heap of an allocator varies by some pages.
            assert!(last <= middle + middle / 10, "{self}");
        }
    }
}

impl fmt::Display for Resident {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.thirds() {
            Some([first, middle, last]) => {
                write!(f, "kilobytes by thirds: {first}, {middle}, {last}")
            }
            None => f.write_str("too few samples of memory"),
        }
    }
}
