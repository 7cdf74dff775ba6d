//! Requests that are alike go to one endpoint: a Maglev table (Eisenbud et al., NSDI 2016, §3.4), and what makes a request's
//! hash.
//!
//! Both are the same on every worker, every edge and in every version: nothing random is in them, so nothing has to be told
//! to others. Tables are made of all endpoints, whatever their health: one that fails gives up its share and takes it back,
//! and no other share moves.

use std::net::{IpAddr, SocketAddr};

use edge_config::policy::HashKey;

use crate::proxy::filters::session::cookies;
use crate::proxy::message::RequestHead;

/// The largest table.
const MOST: u32 = 65_537;
/// Where nobody says otherwise: shares differ by 1 % up to 160 endpoints. It must not follow the number of endpoints, since
/// tables of two sizes have nothing in common.
const USUAL: u32 = 16_381;

/// Which endpoint stands at each place.
pub struct Table {
    places: Box<[u16]>,
}

impl Table {
    /// `size`: a prime.
    pub fn new(endpoints: impl ExactSizeIterator<Item = SocketAddr>, size: Option<u32>) -> Self {
        let count = endpoints.len().min(usize::from(u16::MAX));
        let size = size.unwrap_or(USUAL).clamp(2, MOST) as usize;
        if count == 0 {
            return Self { places: Box::default() };
        }
        // Each endpoint has its own order of all places and takes, in turn, the first one that is free.
        let mut orders: Vec<(usize, usize)> = endpoints
            .take(count)
            .map(|address| {
                let hash = of_address(address);
                ((mix(hash, 1) % size as u64) as usize, (mix(hash, 2) % (size as u64 - 1)) as usize + 1)
            })
            .collect();
        const FREE: u16 = u16::MAX;
        let mut places = vec![FREE; size];
        let mut left = size;
        'all: loop {
            for (endpoint, (next, skip)) in (0_u16..).zip(&mut orders) {
                while places.get(*next).is_some_and(|place| *place != FREE) {
                    *next = (*next + *skip) % size;
                }
                if let Some(place) = places.get_mut(*next) {
                    *place = endpoint;
                }
                *next = (*next + *skip) % size;
                left -= 1;
                if left == 0 {
                    break 'all;
                }
            }
        }
        Self { places: places.into() }
    }

    /// The number of the endpoint; `attempt` counts those that were of no use.
    pub fn at(&self, hash: u64, attempt: u64) -> usize {
        let hash = if attempt == 0 { hash } else { mix(hash, attempt) };
        let place = hash.checked_rem(self.places.len() as u64).unwrap_or_default();
        self.places.get(place as usize).copied().unwrap_or_default().into()
    }
}

/// FNV-1a, finished so that every bit counts.
#[derive(Clone, Copy)]
pub struct Hash(u64);

impl Default for Hash {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hash {
    pub fn add(&mut self, bytes: &[u8]) {
        for byte in bytes.iter().chain(&[0xff]) {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
    }

    pub fn finish(self) -> u64 {
        mix(self.0, 0)
    }
}

/// The finaliser of MurmurHash3.
fn mix(hash: u64, salt: u64) -> u64 {
    let mut hash = hash ^ salt.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

fn of_address(address: SocketAddr) -> u64 {
    let mut hash = Hash::default();
    add_ip(&mut hash, address.ip());
    hash.add(&address.port().to_be_bytes());
    hash.finish()
}

fn add_ip(hash: &mut Hash, address: IpAddr) {
    match address.to_canonical() {
        IpAddr::V4(address) => hash.add(&address.octets()),
        IpAddr::V6(address) => hash.add(&address.octets()),
    }
}

/// Of a client.
pub fn of_client(client: IpAddr) -> u64 {
    let mut hash = Hash::default();
    add_ip(&mut hash, client);
    hash.finish()
}

/// Of a request as it is forwarded. `None`: it has nothing of what makes requests alike.
pub fn of_request(key: &HashKey, request: &RequestHead, client: IpAddr) -> Option<u64> {
    let mut hash = Hash::default();
    let mut is_empty = true;
    let mut add = |bytes: &[u8]| {
        is_empty = false;
        hash.add(bytes);
    };
    match key {
        HashKey::SourceIp => return Some(of_client(client)),
        HashKey::Headers(names) => {
            for name in names {
                request.fields.all(name.as_bytes()).for_each(&mut add);
            }
        }
        HashKey::Cookie(cookie) => cookies(&request.fields, &cookie.name).take(1).for_each(&mut add),
        HashKey::Query(names) => {
            let query = request.query().unwrap_or_default();
            for name in names {
                let pairs = query.split('&').filter_map(|pair| {
                    let (known, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (*known == **name).then_some(value)
                });
                pairs.for_each(|value| add(value.as_bytes()));
            }
        }
        HashKey::Host => add(request.host().to_ascii_lowercase().as_bytes()),
        HashKey::Path => add(request.path().as_bytes()),
        HashKey::Uri => {
            add(request.path().as_bytes());
            add(request.query().unwrap_or_default().as_bytes());
        }
    }
    (!is_empty).then(|| hash.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(count: u16) -> Vec<SocketAddr> {
        (1..=count).map(|port| ([10, 0, 0, 1], port).into()).collect()
    }

    fn of(addresses: &[SocketAddr], hash: u64, table: &Table) -> SocketAddr {
        addresses[table.at(hash, 0)]
    }

    #[test]
    fn shares_are_even() {
        for count in [1_u16, 2, 3, 7, 50, 500] {
            let table = Table::new(addresses(count).into_iter(), None);
            let mut shares = vec![0_usize; usize::from(count)];
            table.places.iter().for_each(|place| shares[usize::from(*place)] += 1);
            let (least, most) = (*shares.iter().min().unwrap(), *shares.iter().max().unwrap());
            assert!(most - least <= 1, "{count}: {least} to {most}");
        }
        assert_eq!(Table::new(addresses(3).into_iter(), Some(1009)).places.len(), 1009);
        assert_eq!(Table::new(addresses(3).into_iter(), Some(5_000_011)).places.len(), 65_537);
        assert_eq!(Table::new([].into_iter(), None).at(7, 3), 0);
    }

    #[test]
    fn nearly_everybody_stays_when_an_endpoint_comes_or_goes() {
        for count in [3_u16, 10, 100] {
            let before = addresses(count);
            let mut after = before.clone();
            let gone = after.remove(usize::from(count) / 2);
            let (one, other) = (Table::new(before.iter().copied(), None), Table::new(after.iter().copied(), None));
            let keys = 20_000_u64;
            let moved = (0..keys).map(|key| mix(key, 7)).filter(|key| {
                let was = of(&before, *key, &one);
                was != gone && was != of(&after, *key, &other)
            });
            // Those that had the endpoint must move; of the others about one in a hundred does (§5.3 of the paper).
            let share = moved.count() * 1000 / keys as usize;
            assert!(share < 30, "{count}: {share} of 1000");
        }
    }

    #[test]
    fn tables_depend_on_nothing_but_the_endpoints() {
        // A change of these numbers would send every client elsewhere at an upgrade.
        let table = Table::new(addresses(5).into_iter(), None);
        let found: Vec<usize> = (0..8).map(|key| table.at(of_client(IpAddr::from([192, 0, 2, key])), 0)).collect();
        assert_eq!(found, FOUND);
        let mapped: IpAddr = "::ffff:192.0.2.1".parse().unwrap();
        assert_eq!(of_client(mapped), of_client(IpAddr::from([192, 0, 2, 1])));
    }

    const FOUND: [usize; 8] = [3, 3, 0, 3, 4, 4, 1, 4];

    #[test]
    fn other_attempts_reach_every_endpoint() {
        let table = Table::new(addresses(4).into_iter(), None);
        let reached: std::collections::BTreeSet<usize> = (0..64).map(|attempt| table.at(12345, attempt)).collect();
        assert_eq!(reached.len(), 4);
    }
}
