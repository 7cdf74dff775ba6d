//! A set of networks that may be very large: made once, asked with each request.
//!
//! Addresses of one family are sorted ranges without overlaps. The first 16 bits of an IPv4 address (the first 32 of an
//! IPv6 one, by search) lead to the few ranges among which the address can be, so that a question touches a handful of
//! cache lines however many ranges there are.

use std::net::IpAddr;

use serde::{Serialize, Serializer};

use crate::settings::AddressRange;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Networks {
    four: Ranges<u32>,
    /// By the first 16 bits: the first range that ends there or later. Empty for few ranges.
    index: Vec<u32>,
    six: Ranges<u128>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Ranges<N> {
    first: Vec<N>,
    last: Vec<N>,
}

impl<N> Default for Ranges<N> {
    fn default() -> Self {
        Self { first: Vec::new(), last: Vec::new() }
    }
}

/// Fewer ranges are searched without an index.
const FEW: usize = 64;
/// So many ranges are shown one by one.
const SHOWN: usize = 16;

impl<N: Copy + Ord> Ranges<N> {
    fn new(mut ranges: Vec<(N, N)>, is_next: impl Fn(N, N) -> bool) -> Self {
        ranges.sort_unstable();
        let mut merged = Self::default();
        for (first, last) in ranges {
            match merged.last.last_mut() {
                Some(end) if first <= *end || is_next(*end, first) => *end = last.max(*end),
                _ => {
                    merged.first.push(first);
                    merged.last.push(last);
                }
            }
        }
        merged
    }

    /// Looks among the ranges from `start` up to `end`.
    fn contains(&self, address: N, start: usize, end: usize) -> bool {
        let Some(last) = self.last.get(start..end) else { return false };
        let place = start + last.partition_point(|last| *last < address);
        self.first.get(place).is_some_and(|first| place < end && *first <= address)
    }
}

impl Networks {
    pub fn new(ranges: impl IntoIterator<Item = AddressRange>) -> Self {
        let (mut four, mut six) = (Vec::new(), Vec::new());
        for range in ranges {
            match (range.first, range.last) {
                (IpAddr::V4(first), IpAddr::V4(last)) => four.push((u32::from(first), u32::from(last))),
                (IpAddr::V6(first), IpAddr::V6(last)) => six.push((u128::from(first), u128::from(last))),
                _ => {}
            }
        }
        let four = Ranges::new(four, |end: u32, first| end.checked_add(1) == Some(first));
        let six = Ranges::new(six, |end: u128, first| end.checked_add(1) == Some(first));
        let mut index = Vec::new();
        if four.first.len() > FEW {
            index.reserve_exact(0x1_0001);
            let mut place = 0;
            for block in 0..=0xffff_u32 {
                let start = block << 16;
                while four.last.get(place).is_some_and(|last| *last < start) {
                    place += 1;
                }
                index.push(u32::try_from(place).unwrap_or(u32::MAX));
            }
            index.push(u32::try_from(four.last.len()).unwrap_or(u32::MAX));
        }
        Self { four, index, six }
    }

    /// Whether an address is in one of them. An IPv4 address is the same in its mapped form (RFC 4291 §2.5.5.2).
    pub fn contains(&self, address: IpAddr) -> bool {
        match address.to_canonical() {
            IpAddr::V4(address) => {
                let address = u32::from(address);
                let block = (address >> 16) as usize;
                match (self.index.get(block), self.index.get(block + 1)) {
                    // The range that begins in this block may end in a later one.
                    (Some(start), Some(end)) => {
                        let end = (*end as usize + 1).min(self.four.last.len());
                        self.four.contains(address, *start as usize, end)
                    }
                    _ => self.four.contains(address, 0, self.four.last.len()),
                }
            }
            IpAddr::V6(address) => self.six.contains(u128::from(address), 0, self.six.last.len()),
        }
    }

    /// After those that overlap or touch have become one.
    pub fn len(&self) -> usize {
        self.four.first.len() + self.six.first.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn ranges(&self) -> impl Iterator<Item = AddressRange> {
        let four = self.four.first.iter().zip(&self.four.last);
        let four = four.map(|(first, last)| (IpAddr::from(first.to_be_bytes()), IpAddr::from(last.to_be_bytes())));
        let six = self.six.first.iter().zip(&self.six.last);
        let six = six.map(|(first, last)| (IpAddr::from(first.to_be_bytes()), IpAddr::from(last.to_be_bytes())));
        four.chain(six).map(|(first, last)| AddressRange { first, last })
    }
}

impl Serialize for Networks {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let shown = self.ranges().take(SHOWN).map(|range| range.to_string());
        let more = self.len().saturating_sub(SHOWN);
        serializer.collect_seq(shown.chain((more > 0).then(|| format!("and {more} more"))))
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    fn networks<'t>(texts: impl IntoIterator<Item = &'t str>) -> Networks {
        Networks::new(texts.into_iter().map(|text| AddressRange::parse(text).unwrap()))
    }

    #[test]
    fn who_is_in() {
        let list = ["192.0.2.0/24", "10.0.0.0/8", "10.1.0.0/16", "192.0.3.0/25", "2001:db8::/32", "255.255.255.255/32"];
        let few = networks(list);
        assert_eq!(few.len(), 4);
        // Enough others to have an index.
        let many: Vec<String> = (0..200).map(|n| format!("172.16.{n}.7/32")).collect();
        let many = networks(list.into_iter().chain(many.iter().map(String::as_str)));
        for (address, inside) in [
            ("10.0.0.0", true),
            ("10.255.255.255", true),
            ("11.0.0.0", false),
            ("9.255.255.255", false),
            ("192.0.2.200", true),
            ("192.0.3.127", true),
            ("192.0.3.128", false),
            ("255.255.255.255", true),
            ("255.255.255.254", false),
            ("0.0.0.0", false),
            ("::ffff:192.0.2.1", true),
            ("::ffff:198.51.100.1", false),
            ("2001:db8:1::1", true),
            ("2001:db9::1", false),
        ] {
            let address = address.parse().unwrap();
            assert_eq!(few.contains(address), inside, "{address}");
            assert_eq!(many.contains(address), inside, "{address}");
        }
        assert!(many.contains("172.16.199.7".parse().unwrap()) && !many.contains("172.16.199.8".parse().unwrap()));
        let all = networks(["0.0.0.0/0"]);
        assert!(all.contains("203.0.113.1".parse().unwrap()) && !all.contains("::1".parse().unwrap()));
        assert!(!Networks::default().contains("192.0.2.1".parse().unwrap()));
    }

    #[test]
    fn an_index_says_what_a_search_says() {
        // A fixed walk over the whole space, with ranges of every length that reach over blocks.
        let mut seed = 7_u64;
        let mut next = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 32) as u32
        };
        let mut ranges = Vec::new();
        for _ in 0..500 {
            let first = next();
            let last = first.saturating_add(next() >> (next() % 32));
            ranges.push((first, last));
        }
        let set = Networks::new(
            ranges
                .iter()
                .map(|(a, b)| AddressRange { first: Ipv4Addr::from(*a).into(), last: Ipv4Addr::from(*b).into() }),
        );
        for _ in 0..5000 {
            let address = next();
            let expected = ranges.iter().any(|(first, last)| (*first..=*last).contains(&address));
            assert_eq!(set.contains(Ipv4Addr::from(address).into()), expected, "{}", Ipv4Addr::from(address));
        }
    }

    /// `cargo test --workspace --release -- --ignored --nocapture a_question_to_100_000_networks`
    #[expect(clippy::disallowed_methods, reason = "it measures")]
    #[test]
    #[ignore = "a measurement"]
    fn a_question_to_100_000_networks() {
        let four = (0..100_000_u32).map(|n| {
            let first = n.wrapping_mul(2_654_435_761) & !0xff;
            AddressRange { first: Ipv4Addr::from(first).into(), last: Ipv4Addr::from(first | 0x7f).into() }
        });
        let six = (0..100_000_u128).map(|n| {
            let first = (0x2001_0db8_u128 << 96) | (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) & 0xffff_ffff_ffff) << 48;
            AddressRange { first: Ipv6Addr::from(first).into(), last: Ipv6Addr::from(first | 0xffff).into() }
        });
        for (family, set) in [("IPv4", Networks::new(four)), ("IPv6", Networks::new(six))] {
            let addresses: Vec<IpAddr> = (0..1 << 20)
                .map(|n: u32| match family {
                    "IPv4" => Ipv4Addr::from(n.wrapping_mul(0x85eb_ca6b) ^ n << 7).into(),
                    _ => Ipv6Addr::from((0x2001_0db8_u128 << 96) | u128::from(n).wrapping_mul(0xc2b2_ae3d_27d4) << 48)
                        .into(),
                })
                .collect();
            let began = std::time::Instant::now();
            let found = addresses.iter().filter(|address| set.contains(**address)).count();
            let each = began.elapsed().as_nanos() as f64 / addresses.len() as f64;
            println!("{family}: {} networks, {each:.0} ns a question, {found} found", set.len());
        }
    }
}
