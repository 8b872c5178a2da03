//! The monitor of an inbox: a task that evaluates the health, writes lasting problems to the log, and calls hooks on a change.
//!
//! The task sleeps without a timer while nothing is in flight and there is no problem. An accepted event, a rejected request
//! or a fault wakes the task. It then evaluates the health every few seconds until the inbox is quiet again. So an idle inbox
//! costs nothing, and the paused clock of a test stands still.

use std::cell::Cell;
use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime};

use futures_util::future::select;
use futures_util::task::AtomicWaker;

use super::event_rate::EventRate;
use super::health::{
    Findings, Health, HealthLimits, HealthProblem, HealthProblemKind, HealthSource,
};
use crate::catch_panic::{CatchPanic, catch_panic};
use crate::delivery::{Hooks, JobExecutor, Stats};
use crate::runtime::{BoxFuture, Runtime, to_millis};
use crate::telemetry::{self, Metrics, Sample};

/// The time between two evaluations.
const PERIOD: Duration = Duration::from_secs(5);

/// The time between two warnings about a lasting problem.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// A drain is normal, so the log shows only a drain that lasts longer than this.
const LONG_DRAIN: Duration = Duration::from_secs(5 * 60);

/// An inbox or a worker with a [`Monitor`].
pub(crate) trait Monitored: HealthSource {
    fn monitor(&self) -> &Monitor;

    fn activity(&self) -> Activity;

    fn metrics(&self) -> &Metrics;

    /// Returns the values of the gauges, except the time of the last event.
    fn sample(&self) -> Sample;

    /// Returns whether the source accepts events from a receiver.
    fn is_inbox(&self) -> bool {
        true
    }

    /// Returns the executor of the routes, if the source runs handlers.
    fn executor(&self) -> Option<&JobExecutor> {
        None
    }

    /// Updates values that `find` needs, if reading them takes time.
    fn refresh(self: Arc<Self>) -> Option<BoxFuture<()>> {
        None
    }
}

/// The counts and the state of a source at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Activity {
    pub(crate) stats: Stats,
    /// The age of the oldest event in flight, if it is known.
    pub(crate) oldest: Option<Duration>,
    /// Whether the source may change without a signal.
    pub(crate) is_active: bool,
}

impl Activity {
    pub(crate) fn new(stats: Stats, oldest: Option<Duration>) -> Self {
        Self {
            is_active: stats.in_flight() > 0,
            stats,
            oldest,
        }
    }

    /// Returns the number of accepted events and copies.
    fn accepted(&self) -> u64 {
        self.stats.accepted + self.stats.duplicates
    }
}

/// The state of a monitor. The inbox owns the monitor, and the task of the monitor holds only a weak reference to the inbox.
pub(crate) struct Monitor {
    signal: Arc<Signal>,
    runtime: Arc<dyn Runtime>,
    hooks: Hooks<Health>,
    state: Mutex<State>,
}

struct State {
    limits: HealthLimits,
    /// The receivers over the inbox.
    receivers: Vec<Weak<dyn HealthSource>>,
    /// The number of accepted events and copies, and when it last changed.
    accepted: (u64, Instant),
    /// When the number of accepted events and copies last changed, by the system clock.
    last_accepted: Option<SystemTime>,
    rate: EventRate,
    dead: DeadLetterRate,
    reported: Vec<Reported>,
}

/// A problem at the last evaluation.
struct Reported {
    problem: HealthProblem,
    /// When the problem was last written to the log.
    logged: Instant,
}

impl Monitor {
    pub(crate) fn new(runtime: Arc<dyn Runtime>) -> Self {
        let now = runtime.now();
        Self {
            signal: Arc::default(),
            hooks: Hooks::new("on_health_change"),
            state: Mutex::new(State {
                limits: HealthLimits::new(),
                receivers: Vec::new(),
                accepted: (0, now),
                last_accepted: None,
                rate: EventRate::new(now),
                dead: DeadLetterRate::new(now),
                reported: Vec::new(),
            }),
            runtime,
        }
    }

    /// Wakes the monitor of `source`, and starts it at the first call. Cheap while the monitor is awake.
    #[inline]
    pub(crate) fn wake<M: Monitored>(source: &Arc<M>) {
        if !source.monitor().signal.is_awake() {
            Self::rouse(&(Arc::clone(source) as Arc<dyn Monitored>));
        }
    }

    /// Wakes the monitor of `source` after a change that its [`Activity`] doesn't show, and starts it at the first call.
    #[cold]
    pub(crate) fn rouse(source: &Arc<dyn Monitored>) {
        let monitor = source.monitor();
        if !monitor.signal.wake() {
            return;
        }
        let task = watch(
            Arc::downgrade(source),
            Arc::clone(&monitor.runtime),
            Watching(Arc::clone(&monitor.signal)),
        );
        // If the runtime can't spawn, the task is dropped, and the next call tries again.
        IS_SPAWNING.set(true);
        let _ = catch_panic(|| monitor.runtime.spawn(Box::pin(task)));
        IS_SPAWNING.set(false);
    }

    /// Adds the problems of a receiver to the health, until the receiver is dropped.
    pub(crate) fn add_receiver(&self, receiver: &Arc<impl HealthSource>) {
        let receiver: Weak<dyn HealthSource> = Arc::downgrade(receiver) as _;
        let mut state = self.state();
        state
            .receivers
            .retain(|receiver| receiver.strong_count() > 0);
        state.receivers.push(receiver);
    }

    pub(crate) fn add_hook(&self, hook: Arc<dyn Fn(&Health) + Send + Sync>) {
        self.hooks.add(hook);
    }

    pub(crate) fn set_limits(&self, limits: HealthLimits) {
        self.state().limits = limits;
    }

    /// Returns the accepted events of each of the last 60 minutes at the last evaluation, oldest first.
    pub(crate) fn events_per_minute(&self) -> Vec<u64> {
        self.state().rate.counts()
    }

    /// Returns when the inbox last accepted an event or a copy since the process started, as known at the last evaluation.
    pub(crate) fn last_accepted(&self) -> Option<SystemTime> {
        self.state().last_accepted
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No user code runs under the lock, so the state is consistent even if the lock is poisoned.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the time until the inbox has been silent for too long.
    fn until_silence(&self) -> Option<Duration> {
        let now = self.runtime.now();
        let state = self.state();
        let silent = now.saturating_duration_since(state.accepted.1);
        Some(state.limits.max_silence?.saturating_sub(silent))
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.signal.close();
    }
}

/// Evaluates the health now.
pub(crate) fn evaluate(source: &dyn Monitored) -> Health {
    let monitor = source.monitor();
    let (now, activity) = (monitor.runtime.now(), source.activity());
    let system_time = monitor.runtime.system_time();
    let (limits, receivers, silent, growing) = {
        let mut state = monitor.state();
        if state.accepted.0 != activity.accepted() {
            state.accepted = (activity.accepted(), now);
            state.last_accepted = Some(system_time);
        }
        state.rate.update(now, activity.stats.accepted);
        let limits = state.limits;
        let growing = state.dead.update(now, activity.stats.dead, limits);
        let receivers = state.receivers.iter().filter_map(Weak::upgrade);
        let receivers: Vec<_> = receivers.collect();
        (limits, receivers, state.accepted.1, growing)
    };
    let mut findings = Findings::new(now, system_time, limits);
    source.find(&mut findings);
    if let Some(executor) = source.executor() {
        findings.routes(executor);
        if let Some(age) = activity.oldest {
            findings.oldest_event(age, executor);
        }
    }
    receivers
        .iter()
        .for_each(|receiver| receiver.find(&mut findings));
    if let Some(since) = growing {
        let growth = limits.dead_letters;
        let cause = format!("at least {} within {:?}", growth.count, growth.within);
        let lasted = findings.since(since);
        let problem = findings.add(HealthProblemKind::DeadLettersGrowing, lasted);
        problem.because(cause);
    }
    let silence = findings.since(silent);
    if let Some(limit) = limits.max_silence
        && silence >= limit
    {
        let problem = findings.add(HealthProblemKind::Silent, silence);
        problem.because(format!("the limit is {limit:?}"));
    }
    findings.into_health()
}

/// Evaluates the health every few seconds while the inbox is active, and waits for a signal while the inbox is quiet. Ends when
/// the inbox is dropped.
async fn watch(source: Weak<dyn Monitored>, runtime: Arc<dyn Runtime>, watching: Watching) {
    let signal = &watching.0;
    if IS_SPAWNING.get() {
        // The executor may run each task to completion before `spawn` returns, and this task doesn't end.
        return signal.close();
    }
    while sleep(&*runtime, PERIOD).await {
        let Some(refresh) = source.upgrade().map(Monitored::refresh) else {
            return;
        };
        if let Some(refresh) = refresh {
            // No timer runs while the store works. Otherwise, a paused clock would advance to the timer before a commit ends.
            // If the store hangs, the next rejected request ends the wait.
            signal.change(AWAKE, REFRESHING);
            let refresh = Box::pin(CatchPanic::new(refresh));
            drop(select(refresh, Box::pin(signal.awake())).await);
            signal.wake();
        }
        let silence = {
            let Some(source) = source.upgrade() else {
                return;
            };
            if catch_panic(|| tick(&*source)).unwrap_or(false) {
                continue;
            }
            signal.sleep();
            // An event or a fault may have arrived between the evaluation and this line.
            if is_active(&*source) || signal.is_roused() {
                signal.wake();
                continue;
            }
            catch_panic(|| source.monitor().until_silence())
                .ok()
                .flatten()
        };
        let awake = Box::pin(signal.awake());
        match silence {
            None => awake.await,
            Some(silence) => drop(select(awake, Box::pin(sleep(&*runtime, silence))).await),
        }
        if signal.is_closed() {
            return;
        }
        signal.wake();
    }
    // Without a timer there is no monitor.
    signal.close();
}

/// Waits. Returns false if the runtime has no timer, or if its timer doesn't wait.
async fn sleep(runtime: &dyn Runtime, time: Duration) -> bool {
    let begin = || (runtime.now(), runtime.sleep(time));
    let Ok((begun, sleep)) = catch_panic(begin) else {
        return false;
    };
    let has_slept = CatchPanic::new(sleep).await.is_ok();
    let waited = catch_panic(|| runtime.now().saturating_duration_since(begun));
    has_slept && waited.is_ok_and(|waited| waited >= time / 2)
}

thread_local! {
    /// Whether this thread is spawning a monitor.
    static IS_SPAWNING: Cell<bool> = const { Cell::new(false) };
}

/// Evaluates the health, and reports changes and lasting problems. Returns whether the inbox is active.
fn tick(source: &dyn Monitored) -> bool {
    let monitor = source.monitor();
    monitor.signal.is_roused();
    forget_keys(source);
    let health = evaluate(source);
    let now = monitor.runtime.now();
    let changes = monitor.state().report(&health, now);
    for problem in &changes.ended {
        telemetry::health_problem_ended(problem.kind().as_str(), problem.route());
    }
    let system_time = monitor.runtime.system_time();
    for problem in &changes.lasting {
        let lasted = system_time.duration_since(problem.since());
        let lasted = lasted.unwrap_or_default();
        if problem.kind() != HealthProblemKind::Draining || lasted >= LONG_DRAIN {
            let (kind, route) = (problem.kind().as_str(), problem.route());
            telemetry::health_problem(kind, route, problem, lasted);
        }
    }
    if changes.any {
        monitor.hooks.notify(&health);
    }
    // The task samples after the decision to sleep, so that the last sample before a sleep shows an idle inbox.
    let is_active = is_active(source);
    sample(source, &health);
    is_active
}

/// Forgets the keys of routes that no unfinished event can share.
fn forget_keys(source: &dyn Monitored) {
    let limits = source.executor().and_then(JobExecutor::limits);
    let Some(limits) = limits else { return };
    let (activity, now) = (source.activity(), source.monitor().runtime.system_time());
    let oldest = match activity.oldest {
        Some(age) => now.checked_sub(age).unwrap_or(now),
        None if activity.stats.in_flight() == 0 => now,
        None => return,
    };
    limits.expire(to_millis(oldest));
}

/// Sets the gauges.
fn sample(source: &dyn Monitored, health: &Health) {
    let last_accepted = || {
        source
            .monitor()
            .last_accepted()
            .filter(|_| source.is_inbox())
    };
    let values = || Sample {
        last_accepted: last_accepted(),
        ..source.sample()
    };
    let is_stalled = |route: &str| {
        health.problems().iter().any(|problem| {
            let (kind, named) = (problem.kind(), problem.route());
            let stalls = matches!(
                kind,
                HealthProblemKind::RouteStalled | HealthProblemKind::RouteFailing
            );
            stalls && named == Some(route)
        })
    };
    source.metrics().sample(values, is_stalled);
}

fn is_active(source: &dyn Monitored) -> bool {
    let activity = source.activity();
    let state = source.monitor().state();
    activity.is_active || activity.accepted() != state.accepted.0 || !state.reported.is_empty()
}

/// The changes since the last evaluation. The lists contain only the problems that no other part of the inbox logs.
#[derive(Default)]
struct Changes {
    any: bool,
    ended: Vec<HealthProblem>,
    /// New problems, and once a minute each lasting problem.
    lasting: Vec<HealthProblem>,
}

impl State {
    fn report(&mut self, health: &Health, now: Instant) -> Changes {
        let mut changes = Changes::default();
        let mut before = std::mem::take(&mut self.reported);
        for problem in health.problems() {
            let index = before.iter().position(|one| one.problem.is_same(problem));
            let mut logged = index.map(|index| before.swap_remove(index).logged);
            changes.any |= logged.is_none();
            let is_due =
                logged.is_none_or(|logged| now.saturating_duration_since(logged) >= WARN_EVERY);
            if is_due {
                logged = Some(now);
                changes
                    .lasting
                    .extend(Some(problem).filter(|one| !one.is_logged()).cloned());
            }
            self.reported.push(Reported {
                problem: problem.clone(),
                logged: logged.unwrap_or(now),
            });
        }
        changes.any |= !before.is_empty();
        // If only the cause has changed, the problem lasts.
        let lasts = |ended: &HealthProblem| {
            let mut problems = health.problems().iter();
            problems.any(|one| one.kind() == ended.kind() && one.route() == ended.route())
        };
        let ended = before.into_iter().map(|one| one.problem);
        changes.ended = ended
            .filter(|one| !one.is_logged() && !lasts(one))
            .collect();
        changes
    }
}

/// The number of dead letters over time.
struct DeadLetterRate {
    /// Samples of the count, the oldest first. The first sample is the count at the beginning of the window.
    samples: VecDeque<(Instant, u64)>,
    /// When the count began to grow too fast.
    growing: Option<Instant>,
}

/// The maximum number of samples in a window.
const SAMPLES: u32 = 64;

impl DeadLetterRate {
    fn new(now: Instant) -> Self {
        Self {
            samples: VecDeque::from([(now, 0)]),
            growing: None,
        }
    }

    /// Adds the current count. Returns when the count began to grow too fast, or `None` if the growth is below the limit.
    fn update(&mut self, now: Instant, dead: u64, limits: HealthLimits) -> Option<Instant> {
        let growth = limits.dead_letters;
        let age = |at: Instant| now.saturating_duration_since(at);
        while self.samples.len() > 1 && age(self.samples[1].0) >= growth.within {
            self.samples.pop_front();
        }
        let is_first = self.samples.len() == 1;
        match self.samples.back_mut() {
            Some((_, last)) if *last == dead => {}
            Some((at, last)) if !is_first && age(*at) < growth.within / SAMPLES => *last = dead,
            _ => self.samples.push_back((now, dead)),
        }
        let before = self.samples.front().map_or(0, |(_, dead)| *dead);
        let first = self.samples.get(1).map(|(at, _)| *at);
        let grows = dead.saturating_sub(before) >= u64::from(growth.count);
        self.growing = first.filter(|_| grows).map(|at| self.growing.unwrap_or(at));
        self.growing
    }
}

const STOPPED: u8 = 0;
const ASLEEP: u8 = 1;
const AWAKE: u8 = 2;
/// Awake, and waiting for the store.
const REFRESHING: u8 = 3;
const CLOSED: u8 = 4;

/// Wakes the monitor's task.
#[derive(Default)]
struct Signal {
    state: AtomicU8,
    /// Whether the state of the inbox changed since the last evaluation.
    roused: AtomicBool,
    waker: AtomicWaker,
}

// All accesses that order a signal and the decision to sleep are sequentially consistent. So either the task sees the change,
// or the thread that makes the change sees that the task sleeps.
impl Signal {
    #[inline]
    fn is_awake(&self) -> bool {
        self.state.load(Ordering::SeqCst) >= AWAKE
    }

    /// Wakes the task. Returns true if the caller must spawn the task.
    fn wake(&self) -> bool {
        self.roused.store(true, Ordering::SeqCst);
        let wake = |state| (state != CLOSED).then_some(AWAKE);
        let before = self
            .state
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, wake);
        if before == Ok(ASLEEP) || before == Ok(REFRESHING) {
            // The waker is the executor's code.
            let _ = catch_panic(|| self.waker.wake());
        }
        before == Ok(STOPPED)
    }

    /// Returns whether `wake` was called since the last call of this method.
    fn is_roused(&self) -> bool {
        self.roused.swap(false, Ordering::SeqCst)
    }

    /// Marks the task as asleep. The task then waits for [`awake`](Self::awake).
    fn sleep(&self) {
        self.change(AWAKE, ASLEEP);
    }

    /// Waits until the task must continue, or the inbox was dropped.
    async fn awake(&self) {
        poll_fn(|cx| {
            self.waker.register(cx.waker());
            let state = self.state.load(Ordering::SeqCst);
            if state == ASLEEP || state == REFRESHING {
                Poll::Pending
            } else {
                Poll::Ready(())
            }
        })
        .await;
    }

    /// Ends the task. No later call starts it again.
    fn close(&self) {
        self.state.store(CLOSED, Ordering::SeqCst);
        let _ = catch_panic(|| self.waker.wake());
    }

    fn is_closed(&self) -> bool {
        self.state.load(Ordering::SeqCst) == CLOSED
    }

    fn change(&self, from: u8, to: u8) {
        let _ = self
            .state
            .compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst);
    }
}

/// The monitor's task. If the runtime drops the task, the next event starts another task.
struct Watching(Arc<Signal>);

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.change(AWAKE, STOPPED);
        self.0.change(ASLEEP, STOPPED);
        self.0.change(REFRESHING, STOPPED);
    }
}

impl fmt::Debug for Monitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Monitor").finish_non_exhaustive()
    }
}
