//! The least rate at which a client may send a body or read a response. Only time in which the client is waited for counts,
//! so a slow backend is not the client's fault, and a transfer that never waits costs no look at the clock.
//!
//! A client has a credit of time: the grace at first, more for each byte that moves, less for each wait. A wait beyond the
//! credit fails. Nothing but a wait is measured: what to do about it is the caller's.

use std::future::pending;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use pin_project_lite::pin_project;

use crate::proxy::body::StreamError;
use crate::proxy::clock::{Clock, Timer};
use crate::proxy::limits::Limits;

pub struct Pace {
    clock: Rc<Clock>,
    /// Made by the first wait.
    timer: Option<Box<Timer>>,
    /// Bytes per second; 0 is off.
    rate: u32,
    /// Milliseconds.
    credit: u32,
}

/// A burst does not buy a pause for ever (milliseconds).
const MOST: u32 = 300_000;

impl Pace {
    pub fn new(clock: &Rc<Clock>, limits: &Limits, on: bool) -> Self {
        Self {
            clock: Rc::clone(clock),
            timer: None,
            rate: if on { limits.min_body_rate } else { 0 },
            credit: milliseconds(limits.min_body_rate_grace),
        }
    }

    /// So many bytes have moved, or are about to.
    pub fn moved(&mut self, bytes: usize) {
        if let Some(earned) = (bytes as u64).saturating_mul(1000).checked_div(u64::from(self.rate)) {
            let earned = u32::try_from(earned).unwrap_or(u32::MAX);
            self.credit = self.credit.saturating_add(earned).min(self.credit.max(MOST));
        }
    }

    /// Waits for the client, within its credit. A future by hand, because an async function would hold `wait` twice.
    pub fn hold<F>(&mut self, wait: F) -> Hold<'_, F> {
        Hold { pace: self, since: None, wait }
    }
}

fn milliseconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

pin_project! {
    pub struct Hold<'p, F> {
        pace: &'p mut Pace,
        since: Option<Instant>,
        #[pin]
        wait: F,
    }
}

impl<T, F: Future<Output = Result<T, StreamError>>> Future for Hold<'_, F> {
    type Output = Result<T, StreamError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let pace = this.pace;
        if let Poll::Ready(result) = this.wait.poll(cx) {
            if let Some(since) = this.since {
                pace.credit = pace.credit.saturating_sub(milliseconds(since.elapsed()));
            }
            return Poll::Ready(result);
        }
        if pace.rate == 0 {
            return Poll::Pending;
        }
        let timer = pace.timer.get_or_insert_with(|| Box::new(pace.clock.timer()));
        if this.since.is_none() {
            *this.since = Some(Instant::now());
            // Zero would be no deadline.
            timer.set(Duration::from_millis(u64::from(pace.credit.max(1))));
        }
        pin!(timer.limit(pending::<()>())).poll(cx).map(|_| Err(StreamError::TooSlow))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on_a_worker<F: Future>(future: impl FnOnce(Rc<Clock>) -> F) -> F::Output {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let clock = Clock::new();
            tokio::task::spawn_local(Rc::clone(&clock).run());
            future(clock).await
        })
    }

    fn limits(rate: u32, grace: u64) -> Limits {
        Limits { min_body_rate: rate, min_body_rate_grace: Duration::from_millis(grace), ..Limits::default() }
    }

    #[test]
    fn waits_use_the_credit_up_and_bytes_earn_it() {
        on_a_worker(|clock| async move {
            let mut pace = Pace::new(&clock, &limits(1000, 50), true);
            let never = || std::future::pending::<Result<(), StreamError>>();
            let begun = Instant::now();
            assert!(matches!(pace.hold(never()).await, Err(StreamError::TooSlow)));
            assert!(begun.elapsed() >= Duration::from_millis(50));
            let mut pace = Pace::new(&clock, &limits(1000, 50), true);
            pace.moved(20_000);
            assert_eq!(pace.credit, 20_050);
            let pause = async {
                tokio::time::sleep(Duration::from_millis(20)).await;
                Ok(())
            };
            assert!(pace.hold(pause).await.is_ok());
            assert!(pace.credit <= 20_030);
            pace.moved(usize::MAX);
            assert_eq!(pace.credit, MOST);
        });
    }

    #[test]
    fn what_does_not_wait_has_no_timer_and_off_is_off() {
        on_a_worker(|clock| async move {
            let mut pace = Pace::new(&clock, &limits(1000, 50), true);
            assert_eq!(pace.hold(async { Ok(7) }).await.ok(), Some(7));
            assert!(pace.timer.is_none());
            for mut pace in [Pace::new(&clock, &limits(0, 0), true), Pace::new(&clock, &limits(1000, 0), false)] {
                pace.moved(5);
                let pause = async {
                    tokio::time::sleep(Duration::from_millis(30)).await;
                    Ok(7)
                };
                assert_eq!(pace.hold(pause).await.ok(), Some(7));
                assert!(pace.timer.is_none());
            }
        });
    }
}
