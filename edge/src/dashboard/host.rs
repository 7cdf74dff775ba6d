//! Under which names the dashboard answers.
//!
//! A page elsewhere may give its own name our address and then read what a browser inside of the network can reach (DNS
//! rebinding). An address, `localhost`, the name of the edge and the names in edge.toml cannot be had that way; everything else
//! gets 421.

use std::net::{IpAddr, Ipv6Addr};

pub(super) struct Names(Vec<String>);

impl Names {
    pub fn new(names: &[String], edge: &str) -> Self {
        Self(names.iter().map(String::as_str).chain(["localhost", edge]).map(str::to_ascii_lowercase).collect())
    }

    /// `host` is the field as it came, or the authority of the request target.
    pub fn has(&self, host: &str) -> bool {
        let Some(name) = without_port(host) else { return false };
        if let Some(address) = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            return address.parse::<Ipv6Addr>().is_ok();
        }
        name.parse::<IpAddr>().is_ok() || self.0.iter().any(|known| known.eq_ignore_ascii_case(name))
    }
}

fn without_port(host: &str) -> Option<&str> {
    let colon = match host.rfind(']') {
        Some(end) => host[end..].find(':').map(|colon| end + colon),
        None => host.find(':'),
    };
    let Some(colon) = colon else { return Some(host) };
    let port = &host[colon + 1..];
    (!port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit())).then_some(&host[..colon])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses() {
        let names = Names::new(&["edge-a.example.com".to_owned()], "Edge-A");
        for (host, expected) in [
            ("127.0.0.1:9902", true),
            ("192.0.2.1", true),
            ("[::1]:9902", true),
            ("[2001:db8::1]", true),
            ("localhost:9902", true),
            ("LOCALHOST", true),
            ("edge-a.example.com:9902", true),
            ("edge-a", true),
            ("", false),
            ("evil.example", false),
            ("evil.example:9902", false),
            ("edge-a.example.com.evil.example", false),
            ("edge-a.example.com.", false),
            ("127.0.0.1.evil.example", false),
            ("localhost:9902:80", false),
            ("localhost:", false),
            ("[evil.example]", false),
            ("[::1]evil.example", false),
        ] {
            assert_eq!(names.has(host), expected, "{host:?}");
        }
    }
}
