//! Networks from which clients are let in: made once, asked per connection and per datagram.

use std::net::IpAddr;

use serde::Serialize;

use crate::settings::AddressRange;

/// Sorted and without overlaps, so that a question is a binary search.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Sources(Vec<AddressRange>);

impl Sources {
    pub fn new(mut ranges: Vec<AddressRange>) -> Self {
        ranges.sort();
        let mut merged: Vec<AddressRange> = Vec::with_capacity(ranges.len());
        for range in ranges {
            match merged.last_mut() {
                Some(last) if last.contains(range.first) => last.last = last.last.max(range.last),
                _ => merged.push(range),
            }
        }
        Self(merged)
    }

    /// Whether a client with this address is let in. An IPv4 address is the same in its mapped form (RFC 4291 §2.5.5.2).
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let after = self.0.partition_point(|range| range.first <= address);
        after.checked_sub(1).and_then(|place| self.0.get(place)).is_some_and(|range| range.contains(address))
    }

    pub fn ranges(&self) -> &[AddressRange] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_let_in() {
        let ranges = ["192.0.2.0/24", "10.0.0.0/8", "10.1.0.0/16", "192.0.2.128/25", "2001:db8::/32", "10.255.0.0/16"];
        let sources = Sources::new(ranges.iter().map(|text| AddressRange::parse(text).unwrap()).collect());
        assert_eq!(sources.ranges().len(), 3);
        for (address, inside) in [
            ("10.0.0.0", true),
            ("10.2.0.1", true),
            ("10.255.255.255", true),
            ("11.0.0.0", false),
            ("9.255.255.255", false),
            ("192.0.2.200", true),
            ("192.0.3.0", false),
            ("::ffff:192.0.2.1", true),
            ("::ffff:198.51.100.1", false),
            ("2001:db8:1::1", true),
            ("2001:db9::1", false),
        ] {
            assert_eq!(sources.contains(address.parse().unwrap()), inside, "{address}");
        }
        assert!(!Sources::default().contains("192.0.2.1".parse().unwrap()));
        let all = Sources::new(vec![AddressRange::parse("0.0.0.0/0").unwrap()]);
        assert!(all.contains("203.0.113.1".parse().unwrap()) && !all.contains("::1".parse().unwrap()));
    }
}
