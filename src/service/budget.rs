use std::sync::Arc;

use crate::sync::{AtomicUsize, Ordering};

/// Counts the bytes of all bodies that are being read or stored.
#[derive(Debug, Default)]
pub(super) struct Budget {
    used: Arc<AtomicUsize>,
}

/// One request's share of the budget. Dropping the share releases its bytes.
pub(super) struct Permit {
    used: Arc<AtomicUsize>,
    limit: usize,
    mine: usize,
}

impl Budget {
    pub(super) fn permit(&self, limit: usize) -> Permit {
        Permit {
            used: Arc::clone(&self.used),
            limit,
            mine: 0,
        }
    }
}

impl Permit {
    /// Adds `bytes` to the share, or returns `false` if they exceed the budget.
    ///
    /// Only received bytes count, so a request that declares a large body doesn't use the budget of
    /// other requests.
    pub(super) fn grow(&mut self, bytes: usize) -> bool {
        let within = |used: usize| used.checked_add(bytes).filter(|used| *used <= self.limit);
        // Relaxed: no other memory depends on this count.
        let grown = self
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, within)
            .is_ok();
        self.mine += if grown { bytes } else { 0 };
        grown
    }

    /// Releases the whole share. The caller has dropped the bytes.
    pub(super) fn release(&mut self) {
        self.used
            .fetch_sub(std::mem::take(&mut self.mine), Ordering::Relaxed);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(all(test, shuttle))]
mod tests {
    use std::sync::Arc;

    use super::Budget;
    use crate::sync::Ordering;

    #[test]
    fn permits_together_never_pass_the_limit_and_give_everything_back() {
        shuttle::check_random(
            || {
                let budget = Arc::new(Budget::default());
                let threads = [3, 4, 5].map(|bytes| {
                    let budget = Arc::clone(&budget);
                    shuttle::thread::spawn(move || {
                        let mut permit = budget.permit(10);
                        let grown = [permit.grow(bytes), permit.grow(bytes)];
                        assert!(budget.used.load(Ordering::Relaxed) <= 10);
                        if grown[0] {
                            permit.release();
                        }
                        permit.grow(bytes);
                    })
                });
                for thread in threads {
                    thread.join().expect("it holds");
                }
                assert_eq!(budget.used.load(Ordering::Relaxed), 0);
            },
            5_000,
        );
    }
}
