//! Ranges of addresses, and pools of them.

use std::net::IpAddr;

use serde::Serialize;

use crate::metallb::ServiceAllocation;

/// Addresses of a pool, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct AddressRange {
    pub first: IpAddr,
    pub last: IpAddr,
}

impl AddressRange {
    /// Parses `192.0.2.0/28`, `192.0.2.1-192.0.2.9` or one address.
    pub fn parse(text: &str) -> Result<Self, AddressRangeError> {
        let text = text.trim();
        if let Some((first, last)) = text.split_once('-') {
            let parse = |text: &str| text.trim().parse::<IpAddr>().map_err(|_| AddressRangeError::Address);
            let (first, last) = (parse(first)?, parse(last)?);
            if first.is_ipv4() != last.is_ipv4() {
                return Err(AddressRangeError::Family);
            }
            if first > last {
                return Err(AddressRangeError::Order);
            }
            return Ok(Self { first, last });
        }
        if text.contains('/') {
            let net: ipnet::IpNet = text.parse().map_err(|_| AddressRangeError::Network)?;
            return Ok(Self { first: net.network(), last: net.broadcast() });
        }
        let address = text.parse::<IpAddr>().map_err(|_| AddressRangeError::Address)?;
        Ok(Self { first: address, last: address })
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.first.is_ipv4() && self.first <= address && address <= self.last
    }
}

impl std::fmt::Display for AddressRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.first == self.last { write!(f, "{}", self.first) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

/// Why a text is no range of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressRangeError {
    #[error("not an IP address, expected an address, \"first-last\" or a network such as \"192.0.2.0/28\"")]
    Address,
    #[error("not a network, expected one such as \"192.0.2.0/28\" or \"2001:db8::/120\"")]
    Network,
    #[error("begins and ends in different address families")]
    Family,
    #[error("ends before it begins")]
    Order,
}

/// A pool beside MetalLB's, with the same meaning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pool {
    pub name: String,
    pub addresses: Vec<AddressRange>,
    pub auto_assign: bool,
    pub avoid_buggy_ips: bool,
    /// Nothing new is given from it; what is given stays.
    pub disabled: bool,
    /// Given only to who asks for them.
    pub reserve: Vec<AddressRange>,
    /// For whom it is, if for somebody in particular.
    pub allocation: Option<ServiceAllocation>,
}

impl Pool {
    /// One that says nothing but its addresses.
    pub fn new(name: impl Into<String>, addresses: Vec<AddressRange>) -> Self {
        Self {
            name: name.into(),
            addresses,
            auto_assign: true,
            avoid_buggy_ips: false,
            disabled: false,
            reserve: Vec::new(),
            allocation: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_ranges() {
        for (text, first, last) in [
            ("192.0.2.0/28", "192.0.2.0", "192.0.2.15"),
            ("10.74.8.99/32", "10.74.8.99", "10.74.8.99"),
            ("127.0.0.10-127.0.0.20", "127.0.0.10", "127.0.0.20"),
            ("127.0.0.10 - 127.0.0.20", "127.0.0.10", "127.0.0.20"),
            ("2001:db8::/120", "2001:db8::", "2001:db8::ff"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.7"),
        ] {
            let range = AddressRange { first: first.parse().unwrap(), last: last.parse().unwrap() };
            assert_eq!(AddressRange::parse(text), Ok(range), "{text}");
            assert!(range.contains(range.last));
            assert_eq!(AddressRange::parse(&range.to_string()), Ok(range));
        }
        for (text, error) in [
            ("", AddressRangeError::Address),
            ("10.0.0.300", AddressRangeError::Address),
            ("10.0.0.0/33", AddressRangeError::Network),
            ("10.0.0.9-10.0.0.1", AddressRangeError::Order),
            ("10.0.0.9-2001:db8::1", AddressRangeError::Family),
        ] {
            assert_eq!(AddressRange::parse(text), Err(error), "{text}");
        }
    }
}
