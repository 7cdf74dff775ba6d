//! Clients that stay with one endpoint of a Service (`sessionAffinity: ClientIP`), as kube-proxy has it: from the first
//! connection on, until there was none for the timeout.
//!
//! The table is one for all workers, since the kernel gives a client's connections to any of them; it is asked once per
//! connection or UDP session of such a Service and by nobody else. The first choice is the endpoint of the greatest
//! [`weight`] (rendezvous hashing), so edges that know nothing of each other agree, and a client that the table has no
//! room for still comes to one endpoint as long as the endpoints stay the same.

use std::hash::{BuildHasher as _, Hasher as _};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use edge_config::snapshot::UpstreamKey;
use foldhash::HashMap;
use foldhash::fast::FixedState;

use super::Sticky;

/// Locks that workers share; a connection takes one for a moment.
const SHARDS: usize = 16;
/// Clients per shard: 128 Ki in all, at about 100 bytes each.
const MOST: usize = 8192;
/// A full shard is looked through for clients that are gone this often at most.
const SWEEP: Duration = Duration::from_secs(1);

/// Which endpoint a client was given last.
#[derive(Debug, Default)]
pub struct Affinity([Mutex<Shard>; SHARDS]);

#[derive(Debug, Default)]
struct Shard {
    known: HashMap<(u64, IpAddr), Held>,
    swept: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    endpoint: SocketAddr,
    until: Instant,
}

impl Affinity {
    /// The endpoint of a client, which may be gone by now.
    pub fn endpoint(&self, upstream: &UpstreamKey, client: IpAddr, now: Instant) -> Option<SocketAddr> {
        let key = (print(upstream), client);
        let shard = self.shard(key).lock().unwrap_or_else(PoisonError::into_inner);
        shard.known.get(&key).filter(|held| held.until > now).map(|held| held.endpoint)
    }

    /// The client has an endpoint from now on.
    pub fn note(&self, upstream: &UpstreamKey, sticky: Sticky, endpoint: SocketAddr, now: Instant) {
        let key = (print(upstream), sticky.client);
        let mut shard = self.shard(key).lock().unwrap_or_else(PoisonError::into_inner);
        if shard.known.len() >= MOST && !shard.known.contains_key(&key) {
            if shard.swept.is_some_and(|swept| now.saturating_duration_since(swept) < SWEEP) {
                return;
            }
            shard.swept = Some(now);
            shard.known.retain(|_, held| held.until > now);
            if shard.known.len() >= MOST {
                return;
            }
        }
        shard.known.insert(key, Held { endpoint, until: now + sticky.timeout });
    }

    fn shard(&self, (print, client): (u64, IpAddr)) -> &Mutex<Shard> {
        let place = mixed(print ^ hashed(&octets(client))) % SHARDS as u64;
        &self.0[place as usize]
    }
}

/// What an endpoint weighs for a client: the same on every worker, edge and day.
pub fn weight(client: IpAddr, endpoint: SocketAddr) -> u64 {
    let mut bytes = octets(client).to_vec();
    bytes.extend_from_slice(&octets(endpoint.ip()));
    bytes.extend_from_slice(&endpoint.port().to_be_bytes());
    mixed(hashed(&bytes))
}

fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// FNV-1a, which is written down somewhere and does not change with a crate's version.
fn hashed(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

/// Spreads the few differences between similar addresses over all bits (the finalizer of MurmurHash3).
fn mixed(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

/// Within this process only.
fn print(upstream: &UpstreamKey) -> u64 {
    let mut hasher = FixedState::default().build_hasher();
    std::hash::Hash::hash(upstream, &mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use edge_config::names::{Kind, ObjectKey, ObjectRef};

    use super::*;

    fn upstream(name: &str) -> UpstreamKey {
        let object = ObjectRef::new(Kind::Service, ObjectKey::new("a", name));
        UpstreamKey { object, port: 1, variant: "stream".into() }
    }

    fn endpoint(last: u8) -> SocketAddr {
        ([10, 0, 0, last], 5432).into()
    }

    fn client(number: u32) -> IpAddr {
        std::net::Ipv4Addr::from(0xc000_0200 + number).into()
    }

    #[test]
    fn a_client_is_remembered_until_it_stays_away() {
        let (affinity, now, timeout) = (Affinity::default(), Instant::now(), Duration::from_secs(60));
        let sticky = Sticky { client: client(1), timeout };
        assert_eq!(affinity.endpoint(&upstream("x"), client(1), now), None);
        affinity.note(&upstream("x"), sticky, endpoint(1), now);
        assert_eq!(affinity.endpoint(&upstream("x"), client(1), now), Some(endpoint(1)));
        assert_eq!(affinity.endpoint(&upstream("y"), client(1), now), None);
        assert_eq!(affinity.endpoint(&upstream("x"), client(2), now), None);
        // Each connection begins the time anew.
        affinity.note(&upstream("x"), sticky, endpoint(1), now + timeout / 2);
        assert_eq!(affinity.endpoint(&upstream("x"), client(1), now + timeout), Some(endpoint(1)));
        assert_eq!(affinity.endpoint(&upstream("x"), client(1), now + timeout * 2), None);
    }

    #[test]
    fn the_table_has_a_bound_and_forgets_who_is_gone() {
        let (affinity, now) = (Affinity::default(), Instant::now());
        let note = |number: u32, seconds: u64, now: Instant| {
            let sticky = Sticky { client: client(number), timeout: Duration::from_secs(seconds) };
            affinity.note(&upstream("x"), sticky, endpoint(1), now);
        };
        let all = || affinity.0.iter().map(|shard| shard.lock().unwrap().known.len()).sum::<usize>();
        let many = u32::try_from(SHARDS * MOST * 2).unwrap();
        (0..many).for_each(|number| note(number, 10, now));
        assert_eq!(all(), SHARDS * MOST);
        let later = now + Duration::from_secs(11);
        note(many, 10, later);
        assert_eq!(affinity.endpoint(&upstream("x"), client(many), later), Some(endpoint(1)));
        assert!(all() < SHARDS * MOST);
    }

    #[test]
    fn weights_spread_clients_and_move_few() {
        let endpoints: Vec<SocketAddr> = (1..=4).map(endpoint).collect();
        let heaviest = |number: u32, among: &[SocketAddr]| {
            *among.iter().max_by_key(|endpoint| weight(client(number), **endpoint)).unwrap()
        };
        let mut counts = [0u32; 4];
        for number in 0..4000 {
            let first = heaviest(number, &endpoints);
            counts[endpoints.iter().position(|endpoint| *endpoint == first).unwrap()] += 1;
            // Without one of the others, a client stays where it is.
            let mut others = endpoints.clone();
            let gone = others.iter().position(|endpoint| *endpoint != first).unwrap();
            others.remove(gone);
            assert_eq!(heaviest(number, &others), first);
        }
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
    }
}
