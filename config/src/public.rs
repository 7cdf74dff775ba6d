//! Which names and addresses a public CA can know, and under which domain it counts them.
//!
//! In: DNS names (lower case, a wildcard's `*.` included) and IP addresses. Out: why there will be no certificate for one.
//! What a CA says to a name that looks good is the CA's. Standards: the Public Suffix List (compiled in), RFC 6761, RFC
//! 6762 and RFC 7686 (special-use names), RFC 6890 (special addresses), CA/Browser Forum Baseline Requirements §7.1.4.2.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use psl::{List, Psl, Type};

/// Why a public CA issues nothing for a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotPublic {
    pub reason: String,
    /// Not even a CA of one's own could ask for it at an edge: it means something within one host, link or cluster only.
    pub local: bool,
}

/// The domain under which public CAs count a name (`example.co.uk` of `a.b.example.co.uk`). `None`: a public suffix
/// itself, or an empty text.
pub fn registered_domain(name: &str) -> Option<&str> {
    let name = name.strip_prefix("*.").unwrap_or(name);
    psl::domain_str(name.trim_end_matches('.'))
}

/// Names that are in use, and not in the DNS that all share.
const LOCAL: [(&str, &str); 6] = [
    ("cluster.local", "it is a name within a cluster"),
    ("svc", "it is a name within a cluster"),
    ("local", ".local is for multicast DNS (RFC 6762)"),
    ("localhost", ".localhost is the host itself (RFC 6761)"),
    ("invalid", ".invalid never exists (RFC 6761)"),
    ("onion", ".onion is not in the DNS (RFC 7686)"),
];

const PRIVATE: [(&str, &str); 12] = [
    ("internal", ".internal is for private use"),
    ("home.arpa", "home.arpa is for homes (RFC 8375)"),
    ("test", ".test is for tests (RFC 6761)"),
    ("example", ".example is for documents (RFC 6761)"),
    ("alt", ".alt is not in the DNS (RFC 9476)"),
    ("arpa", ".arpa is for infrastructure"),
    ("lan", ".lan is no top-level domain"),
    ("home", ".home is no top-level domain"),
    ("corp", ".corp is no top-level domain"),
    ("mail", ".mail is no top-level domain"),
    ("intranet", ".intranet is no top-level domain"),
    ("private", ".private is no top-level domain"),
];

/// Whether a name is one that a public CA can know of; a wildcard is judged by what it stands for.
pub fn public_name(name: &str) -> Result<(), NotPublic> {
    let no = |local: bool, reason: String| Err(NotPublic { reason, local });
    let is_wildcard = name.starts_with("*.");
    let bare = name.strip_prefix("*.").unwrap_or(name).trim_end_matches('.');
    let is_under = |zone: &str| bare == zone || bare.strip_suffix(zone).is_some_and(|rest| rest.ends_with('.'));
    for (list, local) in [(&LOCAL[..], true), (&PRIVATE[..], false)] {
        if let Some((_, why)) = list.iter().find(|(zone, _)| is_under(zone)) {
            return no(local, format!("{name} is not a public name: {why}"));
        }
    }
    if !bare.contains('.') && !is_wildcard {
        return no(true, format!("{name} is not a public name: it has one label only"));
    }
    match List.suffix(bare.as_bytes()) {
        None => no(true, format!("{name:?} is not a public name: it is empty")),
        Some(suffix) => match suffix.typ() {
            None => {
                let last = bare.rsplit('.').next().unwrap_or(bare);
                no(false, format!("{name} is not a public name: there is no top-level domain .{last}"))
            }
            // CAs look at the suffixes of registries; hosters' (github.io) have certificates.
            Some(Type::Icann) if suffix.as_bytes().len() == bare.len() => {
                let what = if is_wildcard { "it stands for all of a public suffix" } else { "it is a public suffix" };
                no(false, format!("{name} is not a public name: {what}"))
            }
            Some(_) => Ok(()),
        },
    }
}

/// Whether an address is one that a public CA can reach.
pub fn public_address(address: IpAddr) -> Result<(), NotPublic> {
    let why = match address {
        IpAddr::V4(address) => special_v4(address),
        IpAddr::V6(address) => special_v6(address),
    };
    match why {
        None => Ok(()),
        Some(why) => Err(NotPublic { reason: format!("{address} is not a public address: {why}"), local: false }),
    }
}

fn special_v4(address: Ipv4Addr) -> Option<&'static str> {
    let [a, b, c, _] = address.octets();
    Some(match (a, b, c) {
        (10, ..) | (172, 16..=31, _) | (192, 168, _) => "it is for private use (RFC 1918)",
        (127, ..) => "it is the host itself",
        (100, 64..=127, _) => "it is behind the address translation of a provider (RFC 6598)",
        (169, 254, _) => "it is valid on one link only",
        (192, 0, 2) | (198, 51, 100) | (203, 0, 113) => "it is for documents (RFC 5737)",
        (198, 18..=19, _) => "it is for benchmarks (RFC 2544)",
        (0, ..) | (224.., ..) | (192, 0, 0) => "it is no unicast address of the Internet",
        _ => return None,
    })
}

fn special_v6(address: Ipv6Addr) -> Option<&'static str> {
    if let Some(address) = address.to_ipv4_mapped() {
        return special_v4(address).or(Some("it is an IPv4 address in the form of IPv6"));
    }
    let [a, b, ..] = address.segments();
    Some(match (a, b) {
        _ if address.is_loopback() => "it is the host itself",
        (0xfc00..=0xfdff, _) => "it is for private use (RFC 4193)",
        (0xfe80..=0xfebf, _) => "it is valid on one link only",
        (0x2001, 0xdb8) | (0x3fff, 0..=0xfff) => "it is for documents (RFC 3849)",
        (0x2000..=0x3fff, _) => return None,
        _ => "it is no unicast address of the Internet",
    })
}

/// What no CA puts into a certificate, public or not. A wildcard is judged with its `*.`.
pub fn issuable_name(name: &str) -> Result<(), String> {
    let bare = name.strip_prefix("*.").unwrap_or(name);
    if name.len() > 253 {
        return Err(format!("{name:?} is longer than 253 characters"));
    }
    for label in bare.split('.') {
        if label.is_empty() || label.len() > 63 {
            return Err(format!("{name:?} has an empty label or one longer than 63 characters"));
        }
        if label.contains('_') {
            return Err(format!("{name:?} has '_', which certificates must not have"));
        }
        if label.contains('*') {
            return Err(format!("{name:?} has '*' in a place other than the whole first label"));
        }
        let is_plain = label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        if !is_plain || label.starts_with('-') || label.ends_with('-') {
            return Err(format!("{name:?} is no host name"));
        }
        // RFC 5890 §2.3.1: two hyphens there are reserved.
        if label.get(2..4) == Some("--") && !label.starts_with("xn--") {
            return Err(format!("{name:?} has the label {label:?} with '--' where only \"xn--\" may have it"));
        }
    }
    let last = bare.rsplit('.').next().unwrap_or(bare);
    if last.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("{name:?} ends in digits"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_names() {
        for name in [
            "example.com",
            "a.b.example.co.uk",
            "*.example.com",
            "me.github.io",
            "github.io",
            "*.duckdns.org",
            "xn--mgbh0fb.xn--kgbechtv.example.com",
            "a.example.com.",
        ] {
            assert_eq!(public_name(name), Ok(()), "{name}");
        }
        for (name, local, reason) in [
            ("a.cluster.local", true, "a.cluster.local is not a public name: it is a name within a cluster"),
            ("*.cluster.local", true, "*.cluster.local is not a public name: it is a name within a cluster"),
            ("web.shop.svc", true, "web.shop.svc is not a public name: it is a name within a cluster"),
            ("printer.local", true, "printer.local is not a public name: .local is for multicast DNS (RFC 6762)"),
            ("localhost", true, "localhost is not a public name: .localhost is the host itself (RFC 6761)"),
            ("web", true, "web is not a public name: it has one label only"),
            ("a.internal", false, "a.internal is not a public name: .internal is for private use"),
            ("a.home.arpa", false, "a.home.arpa is not a public name: home.arpa is for homes (RFC 8375)"),
            (
                "svc.your.domain.tld",
                false,
                "svc.your.domain.tld is not a public name: there is no top-level domain .tld",
            ),
            ("co.uk", false, "co.uk is not a public name: it is a public suffix"),
            ("*.co.uk", false, "*.co.uk is not a public name: it stands for all of a public suffix"),
            ("*.com", false, "*.com is not a public name: it stands for all of a public suffix"),
            ("", true, " is not a public name: it has one label only"),
        ] {
            assert_eq!(public_name(name), Err(NotPublic { reason: reason.into(), local }), "{name}");
        }
    }

    #[test]
    fn public_addresses() {
        for address in ["1.1.1.1", "100.128.0.1", "172.32.0.1", "2606:4700::1111", "192.0.1.1"] {
            assert_eq!(public_address(address.parse().unwrap()), Ok(()), "{address}");
        }
        for address in [
            "10.0.0.1",
            "172.31.0.1",
            "192.168.1.1",
            "127.0.0.1",
            "100.64.0.1",
            "169.254.1.1",
            "192.0.2.1",
            "198.18.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fd00::1",
            "fe80::1",
            "2001:db8::1",
            "ff02::1",
            "::ffff:10.0.0.1",
            "::ffff:1.1.1.1",
        ] {
            assert!(public_address(address.parse().unwrap()).is_err(), "{address}");
        }
    }

    #[test]
    fn names_that_nobody_issues() {
        let long = format!("{}.com", ["a"; 130].join("."));
        for name in
            ["a_b.example.com", "a..example.com", "-a.example.com", "ab--c.example.com", "a.*.com", "a.1", &long]
        {
            assert!(issuable_name(name).is_err(), "{name}");
        }
        for name in ["a.example.com", "*.example.com", "xn--bcher-kva.example.com", "a-b.example"] {
            assert_eq!(issuable_name(name), Ok(()), "{name}");
        }
    }

    #[test]
    fn domains_by_which_names_are_counted() {
        for (name, domain) in [
            ("a.b.example.co.uk", Some("example.co.uk")),
            ("*.example.com", Some("example.com")),
            ("example.com", Some("example.com")),
            ("a.me.github.io", Some("me.github.io")),
            ("co.uk", None),
            ("", None),
        ] {
            assert_eq!(registered_domain(name), domain, "{name}");
        }
    }
}
