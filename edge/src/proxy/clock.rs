//! Deadlines for many connections at the cost of a store: one clock per worker, one entry per waiting party.
//!
//! A timer of the runtime takes a lock and moves in a wheel each time it is set, and nearly every deadline of a proxy
//! is moved before it fires. Here setting one writes a number; a task looks at all entries no earlier than the first
//! could fire, and at most every [`GRAIN`]. Time is read as of the kernel's last tick, which costs no look at the
//! counter. A deadline therefore fires late by a little more than [`GRAIN`], never early.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use slab::Slab;
use tokio::sync::Notify;

mod recent;

pub use recent::{exact, recent};

/// The least time between two looks at the entries.
pub const GRAIN: Duration = Duration::from_millis(10);
/// No deadline.
const NEVER: u64 = u64::MAX;

/// The deadline passed before the future was done. What it left half done is to be aborted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the deadline has passed")]
pub struct Elapsed;

/// The clock of a worker; [`Clock::run`] must be a task of the same thread.
pub struct Clock {
    origin: Instant,
    /// The same moment as [`recent`] counts, never behind `origin`.
    origin_recent: Duration,
    /// Milliseconds that [`recent`] may be late, and one more for the fraction that counting in milliseconds cuts off.
    lag: u64,
    /// No entry fires before this.
    next: Cell<u64>,
    entries: RefCell<Slab<Rc<Entry>>>,
    earlier: Notify,
}

#[derive(Debug)]
struct Entry {
    /// Milliseconds since the clock's origin.
    deadline: Cell<u64>,
    waker: RefCell<Option<Waker>>,
}

impl Clock {
    pub fn new() -> Rc<Self> {
        let origin = Instant::now();
        let lag = recent::lag().as_millis();
        Rc::new(Self {
            origin,
            origin_recent: recent::exact(),
            lag: u64::try_from(lag).unwrap_or(NEVER).saturating_add(2),
            next: Cell::new(NEVER),
            entries: RefCell::default(),
            earlier: Notify::new(),
        })
    }

    /// An entry of this clock, without a deadline yet.
    pub fn timer(self: &Rc<Self>) -> Timer {
        let entry = Rc::new(Entry { deadline: Cell::new(NEVER), waker: RefCell::new(None) });
        let key = self.entries.borrow_mut().insert(Rc::clone(&entry));
        Timer { clock: Rc::clone(self), entry, key, wait: Cell::new(0), pulse: RefCell::default() }
    }

    /// Wakes whoever waits past its deadline, for ever.
    pub async fn run(self: Rc<Self>) {
        loop {
            let next = self.next.get();
            if next == NEVER {
                self.earlier.notified().await;
                continue;
            }
            let at = self.origin + Duration::from_millis(next);
            tokio::select! {
                () = tokio::time::sleep_until(at.into()) => {}
                () = self.earlier.notified() => continue,
            }
            self.fire();
            tokio::time::sleep(GRAIN).await;
        }
    }

    /// Wakes everybody who waits, so that they look at something other than their deadline.
    pub fn wake_all(&self) {
        for (_, entry) in self.entries.borrow().iter() {
            if let Some(waker) = entry.waker.borrow_mut().take() {
                waker.wake();
            }
        }
    }

    fn now(&self) -> u64 {
        whole_milliseconds(recent().saturating_sub(self.origin_recent))
    }

    fn milliseconds(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.origin).as_millis()).unwrap_or(NEVER)
    }

    /// Wakes all that are due and notes when the next can be.
    fn fire(&self) {
        let now = self.now();
        let mut next = NEVER;
        for (_, entry) in self.entries.borrow().iter() {
            let deadline = entry.deadline.get();
            if deadline > now {
                next = next.min(deadline);
            } else if let Some(waker) = entry.waker.borrow_mut().take() {
                waker.wake();
            }
        }
        self.next.set(next);
    }

    fn expect(&self, deadline: u64) {
        if deadline < self.next.get() {
            self.next.set(deadline);
            self.earlier.notify_one();
        }
    }
}

/// As `as_millis`, without its 128 bits.
fn whole_milliseconds(time: Duration) -> u64 {
    time.as_secs().saturating_mul(1000).saturating_add(u64::from(time.subsec_millis()))
}

/// When something last moved in an exchange. Both directions share one: while one of them moves, the other may wait.
#[derive(Debug, Default)]
pub struct Pulse(Cell<u64>);

/// One deadline, set again and again.
pub struct Timer {
    clock: Rc<Clock>,
    entry: Rc<Entry>,
    key: usize,
    /// The wait of the last [`set`](Timer::set), in milliseconds; zero where there is none to extend.
    wait: Cell<u64>,
    pulse: RefCell<Option<Rc<Pulse>>>,
}

impl Timer {
    /// Moves the deadline to `wait` from now. Zero means none.
    pub fn set(&self, wait: Duration) {
        if wait.is_zero() {
            return self.clear();
        }
        let wait = whole_milliseconds(wait).saturating_add(self.clock.lag);
        let now = self.clock.now();
        self.wait.set(wait);
        if let Some(pulse) = &*self.pulse.borrow() {
            // A new wait begins where the last one ended: something moved.
            pulse.0.set(now);
        }
        self.set_milliseconds(now.saturating_add(wait));
    }

    /// From now on a wait lasts as long again after each time that another timer with this pulse was set.
    pub fn follow(&self, pulse: Rc<Pulse>) {
        *self.pulse.borrow_mut() = Some(pulse);
    }

    pub fn pulse(&self) -> Option<Rc<Pulse>> {
        self.pulse.borrow().clone()
    }

    /// Moves a deadline that has passed, where the pulse says so.
    fn is_extended(&self) -> bool {
        let Some(last) = self.pulse.borrow().as_ref().map(|pulse| pulse.0.get()) else { return false };
        let deadline = last.saturating_add(self.wait.get());
        let extended = self.wait.get() > 0 && deadline > self.clock.now();
        if extended {
            self.set_milliseconds(deadline);
        }
        extended
    }

    /// Moves the deadline to a moment.
    pub fn set_at(&self, at: Instant) {
        self.wait.set(0);
        self.set_milliseconds(self.clock.milliseconds(at).saturating_add(1));
    }

    fn set_milliseconds(&self, deadline: u64) {
        self.entry.deadline.set(deadline);
        self.clock.expect(deadline);
    }

    pub fn clear(&self) {
        self.entry.deadline.set(NEVER);
    }

    pub fn has_passed(&self) -> bool {
        let deadline = self.entry.deadline.get();
        deadline != NEVER && deadline <= self.clock.now()
    }

    /// Runs a future up to the deadline as it stands or is moved meanwhile. One future at a time per timer, or several
    /// of one task. A wrapper by hand, because an async function would hold the future twice.
    pub fn limit<F: Future>(&self, future: F) -> Limit<'_, F> {
        Limit { timer: self, unset: None, future }
    }

    /// `set`, then `limit`.
    pub fn within<F: Future>(&self, wait: Duration, future: F) -> Limit<'_, F> {
        self.set(wait);
        self.limit(future)
    }

    /// The same for what usually has nothing to wait for: the deadline is set when it turns out to have.
    pub fn from_first_wait<F: Future>(&self, wait: Duration, future: F) -> Limit<'_, F> {
        Limit { timer: self, unset: Some(wait), future }
    }
}

pin_project_lite::pin_project! {
    /// A future with a deadline.
    pub struct Limit<'t, F> {
        timer: &'t Timer,
        // Of a deadline that is not set yet.
        unset: Option<Duration>,
        #[pin]
        future: F,
    }
}

impl<F: Future> Future for Limit<'_, F> {
    type Output = Result<F::Output, Elapsed>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        // The future first: what is there in time is not lost to a late look.
        if let Poll::Ready(output) = this.future.poll(cx) {
            return Poll::Ready(Ok(output));
        }
        if let Some(wait) = this.unset.take() {
            this.timer.set(wait);
        }
        let entry = &this.timer.entry;
        if entry.deadline.get() != NEVER && this.timer.has_passed() && !this.timer.is_extended() {
            return Poll::Ready(Err(Elapsed));
        }
        let mut waker = entry.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.clock.entries.borrow_mut().try_remove(self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_lasts_while_the_other_direction_moves() {
        on_a_worker(|clock| async move {
            let pulse = Rc::<Pulse>::default();
            let (waiting, moving) = (clock.timer(), clock.timer());
            waiting.follow(Rc::clone(&pulse));
            moving.follow(pulse);
            let start = Instant::now();
            // Far more than the pause between two moves: a busy machine may stand still for a while.
            let wait = waiting.within(Duration::from_millis(600), std::future::pending::<()>());
            let moves = async {
                for _ in 0..5 {
                    moving.set(Duration::from_secs(9));
                    tokio::time::sleep(Duration::from_millis(150)).await;
                }
            };
            let (result, ()) = tokio::join!(wait, moves);
            assert_eq!(result, Err(Elapsed));
            assert!(start.elapsed() >= Duration::from_millis(4 * 150 + 600), "{:?}", start.elapsed());
        });
    }

    fn on_a_worker<F: Future>(future: impl FnOnce(Rc<Clock>) -> F) -> F::Output {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let clock = Clock::new();
            tokio::task::spawn_local(Rc::clone(&clock).run());
            future(clock).await
        })
    }

    #[test]
    fn fires_after_the_deadline_and_not_before() {
        on_a_worker(|clock| async move {
            let timer = clock.timer();
            for wait in [1, 30, 5] {
                let wait = Duration::from_millis(wait);
                let start = Instant::now();
                assert_eq!(timer.within(wait, std::future::pending::<()>()).await, Err(Elapsed));
                assert!(start.elapsed() >= wait);
                assert!(start.elapsed() < wait + Duration::from_secs(20));
            }
        });
    }

    #[test]
    fn an_earlier_deadline_of_another_timer_is_not_missed() {
        on_a_worker(|clock| async move {
            let (late, early) = (clock.timer(), clock.timer());
            late.set(Duration::from_secs(3600));
            tokio::task::yield_now().await;
            assert_eq!(early.within(Duration::from_millis(5), std::future::pending::<()>()).await, Err(Elapsed));
            assert!(!late.has_passed());
        });
    }

    #[test]
    fn zero_is_no_deadline_and_a_result_in_time_counts() {
        on_a_worker(|clock| async move {
            let timer = clock.timer();
            let sleep = tokio::time::sleep(Duration::from_millis(20));
            assert_eq!(timer.within(Duration::ZERO, sleep).await, Ok(()));
            assert_eq!(timer.within(Duration::from_secs(60), async { 7 }).await, Ok(7));
            drop(timer);
            assert!(clock.entries.borrow().is_empty());
        });
    }
}
