use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use botisimo_webhooks::{BoxFuture, Runtime};

/// An executor that runs its tasks on request, with a clock that the test sets.
#[derive(Clone)]
pub struct Hand {
    start: Instant,
    /// The elapsed time in milliseconds.
    passed: Arc<AtomicU64>,
    tasks: Arc<Mutex<Vec<BoxFuture<()>>>>,
}

impl Hand {
    #[allow(clippy::new_without_default)] // each value has its own start time
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
            passed: Arc::default(),
            tasks: Arc::default(),
        }
    }

    pub fn pass(&self, time: Duration) {
        let millis = u64::try_from(time.as_millis()).expect("no input waits this long");
        self.passed.fetch_add(millis, Ordering::Relaxed);
    }

    /// Polls every task once. With these inputs, no task is ever pending.
    pub fn run(&self) {
        let tasks = std::mem::take(&mut *self.tasks.lock().expect("no task panics"));
        for mut task in tasks {
            let done = task.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            assert!(done.is_ready(), "a task is still pending");
        }
    }
}

impl Runtime for Hand {
    fn spawn(&self, task: BoxFuture<()>) {
        self.tasks.lock().expect("no task panics").push(task);
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<()> {
        Box::pin(Sleep {
            until: self.now() + duration,
            runtime: self.clone(),
        })
    }

    fn now(&self) -> Instant {
        self.start + Duration::from_millis(self.passed.load(Ordering::Relaxed))
    }
}

/// The test polls again after it sets the clock, so no waker is stored.
struct Sleep {
    until: Instant,
    runtime: Hand,
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        if self.runtime.now() < self.until {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    }
}
