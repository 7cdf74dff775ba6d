//! How often a client may be wrong.
//!
//! Ten wrong tokens at once, then one every six seconds. IPv6 clients count by /64, since one client has all of it.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const AT_ONCE: u32 = 10;
const EACH: Duration = Duration::from_secs(6);
/// Clients that are remembered; of more, the one that was wrong longest ago is forgotten.
const REMEMBERED: usize = 4096;

/// Per client, when it will have paid for all that it did wrong.
#[derive(Default)]
pub(super) struct Throttle(Mutex<HashMap<IpAddr, Instant>>);

impl Throttle {
    /// How long a client must wait before it may try; `None`: it may.
    pub fn wait(&self, client: IpAddr, now: Instant) -> Option<Duration> {
        let debts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let debt = debts.get(&network(client))?.saturating_duration_since(now);
        let wait = debt.saturating_sub(EACH * (AT_ONCE - 1));
        (!wait.is_zero()).then_some(wait)
    }

    pub fn failed(&self, client: IpAddr, now: Instant) {
        let mut debts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let client = network(client);
        if debts.len() >= REMEMBERED && !debts.contains_key(&client) {
            debts.retain(|_, paid| *paid > now);
            if debts.len() >= REMEMBERED
                && let Some(oldest) = debts.iter().min_by_key(|(_, paid)| **paid).map(|(client, _)| *client)
            {
                debts.remove(&oldest);
            }
        }
        let paid = debts.entry(client).or_insert(now);
        *paid = (*paid).max(now) + EACH;
    }
}

fn network(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_at_once_then_one_every_six_seconds() {
        let (throttle, start) = (Throttle::default(), Instant::now());
        let one = "192.0.2.1".parse().unwrap();
        for _ in 0..AT_ONCE {
            assert_eq!(throttle.wait(one, start), None);
            throttle.failed(one, start);
        }
        assert_eq!(throttle.wait(one, start), Some(EACH));
        assert_eq!(throttle.wait("192.0.2.2".parse().unwrap(), start), None, "another client");
        assert_eq!(throttle.wait(one, start + EACH), None);
        throttle.failed(one, start + EACH);
        assert_eq!(throttle.wait(one, start + EACH), Some(EACH));
        assert_eq!(throttle.wait(one, start + EACH * 20), None, "it is forgiven");
    }

    #[test]
    fn clients_of_one_network_count_together_and_memory_is_bounded() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        for host in 1..=AT_ONCE {
            throttle.failed(format!("2001:db8::{host:x}").parse().unwrap(), now);
        }
        assert_eq!(throttle.wait("2001:db8::ffff".parse().unwrap(), now), Some(EACH));
        for client in 0..u32::try_from(REMEMBERED).unwrap() * 2 {
            throttle.failed(IpAddr::V4(client.into()), now);
        }
        assert_eq!(throttle.0.lock().unwrap().len(), REMEMBERED);
    }
}
