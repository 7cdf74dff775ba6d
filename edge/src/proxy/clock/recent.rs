//! Monotonic time as of the kernel's last tick, beside the exact one of [`std::time::Instant`], which shows no number.
//!
//! Reading it takes no look at the machine's counter, which in a virtual machine is the larger part of the price.
#![allow(unsafe_code)]

use std::time::Duration;

/// The time as of the last tick: up to [`lag`] old, and never ahead. For what is compared with seconds.
pub fn recent() -> Duration {
    read(libc::clock_gettime, libc::CLOCK_MONOTONIC_COARSE)
}

/// The time now, as [`recent`] will know it a tick later.
pub fn exact() -> Duration {
    read(libc::clock_gettime, libc::CLOCK_MONOTONIC)
}

/// The length of a tick.
pub(super) fn lag() -> Duration {
    read(libc::clock_getres, libc::CLOCK_MONOTONIC_COARSE)
}

fn read(call: unsafe extern "C" fn(libc::clockid_t, *mut libc::timespec) -> libc::c_int, clock: i32) -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: both calls fill the structure that they are given, or leave it alone when they fail, which these clocks of
    // every Linux since 2.6.32 do not.
    // JUSTIFICATION: the standard library has no access to this clock.
    unsafe { call(clock, &raw mut time) };
    Duration::new(u64::try_from(time.tv_sec).unwrap_or_default(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recent_time_is_behind_by_a_tick_at_most() {
        assert!(lag() > Duration::ZERO && lag() <= Duration::from_millis(10));
        for _ in 0..1000 {
            let before = exact();
            let between = recent();
            let after = exact();
            assert!(between <= after && between + lag() + Duration::from_secs(1) >= before);
        }
    }
}
