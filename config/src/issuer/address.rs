//! Texts that say where a server is, parsed: URLs of directories and services, name servers. Flows in: text of edge.toml
//! or an issuer object. Flows out: a value, or what is wrong in one line (after the quoted text).

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::ServerAddress;
use crate::names::Hostname;
use crate::public;

/// What is known of the server behind a URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UrlHost {
    pub host: Result<IpAddr, Hostname>,
    pub is_tls: bool,
}

impl UrlHost {
    /// `https://host[:port]/…` or `http://…`, without user names and fragments.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        const EXPECTED: &str = "is no URL, expected one such as \"https://host/path\"";
        let (is_tls, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            _ => return Err(EXPECTED),
        };
        if text.len() > 2048
            || !text.bytes().all(|byte| byte.is_ascii_graphic())
            || text.contains(['#', '"', '<', '>', '\\'])
        {
            return Err(EXPECTED);
        }
        let authority = rest.split(['/', '?']).next().unwrap_or_default();
        if authority.contains('@') {
            return Err("has a user name in it, expected a URL without");
        }
        let (host, port) = match authority.strip_prefix('[') {
            Some(inner) => {
                let (address, port) = inner.split_once(']').ok_or(EXPECTED)?;
                (Ok(IpAddr::V6(address.parse::<Ipv6Addr>().map_err(|_| EXPECTED)?)), port)
            }
            None => {
                let (name, port) = authority.find(':').map_or((authority, ""), |at| authority.split_at(at));
                let host = match name.parse::<IpAddr>() {
                    Ok(address) => Ok(address),
                    Err(_) => Err(Hostname::parse(&name.to_ascii_lowercase()).map_err(|_| EXPECTED)?),
                };
                (host, port)
            }
        };
        let is_port = port.is_empty()
            || port.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
        if is_port { Ok(Self { host, is_tls }) } else { Err(EXPECTED) }
    }

    /// The directory of an ACME server: what is asked of it must not be changed on the way.
    pub fn directory(text: &str) -> Result<Self, &'static str> {
        let url = Self::parse(text)?;
        if url.is_tls || url.is_loopback() {
            Ok(url)
        } else {
            Err("is not https, expected it but for a loopback address")
        }
    }

    pub fn is_loopback(&self) -> bool {
        match &self.host {
            Ok(address) => address.is_loopback(),
            Err(name) => name.as_str() == "localhost" || name.as_str().ends_with(".localhost"),
        }
    }

    /// Whether everybody can reach it under this name, as far as one can tell from the name.
    pub fn is_public(&self) -> bool {
        match &self.host {
            Ok(address) => public::public_address(*address).is_ok(),
            Err(name) => public::public_name(name.as_str()).is_ok(),
        }
    }
}

impl ServerAddress {
    /// A name server: `192.0.2.1`, `192.0.2.1:53`, `[2001:db8::1]:53`, `2001:db8::1`, `ns.example.com`, `ns.example.com:53`.
    pub fn name_server(text: &str) -> Result<Self, &'static str> {
        const EXPECTED: &str = "is no name server, expected an address or a host name, with or without a port";
        const PORT: u16 = 53;
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Address(SocketAddr::new(address, PORT)));
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            return if address.port() == 0 { Err(EXPECTED) } else { Ok(Self::Address(address)) };
        }
        if let Some(address) = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')?.parse::<Ipv6Addr>().ok())
        {
            return Ok(Self::Address(SocketAddr::new(address.into(), PORT)));
        }
        let (host, port) = match text.rsplit_once(':') {
            None => (text, PORT),
            Some((host, port)) => (host, port.parse().ok().filter(|port| *port > 0).ok_or(EXPECTED)?),
        };
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        match Hostname::parse(&host) {
            // `1.2.3`: meant as an address.
            Ok(_) if host.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit())) => {
                Err(EXPECTED)
            }
            Ok(_) => Ok(Self::Name { host: host.into(), port }),
            Err(_) => Err(EXPECTED),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        for (text, is_public, is_loopback) in [
            ("https://acme-v02.api.letsencrypt.org/directory", true, false),
            ("https://ca.internal/dir", false, false),
            ("https://10.0.0.1:9000/dir?a=b", false, false),
            ("https://localhost:14000/dir", false, true),
            ("http://127.0.0.1:4000/dir", false, true),
            ("http://[::1]:4000/dir", false, true),
            ("https://[2606:4700::1]/", true, false),
            ("https://Example.COM", true, false),
        ] {
            let url = UrlHost::directory(text).unwrap();
            assert_eq!((url.is_public(), url.is_loopback()), (is_public, is_loopback), "{text}");
        }
        for text in [
            "",
            "https://",
            "ftp://a.example/",
            "acme.example.com",
            "https://a b/",
            "https://a:0/",
            "https://a:x/",
            "https://[::1/",
            "https://user@a.example/",
            "https://a_b.example/",
            "http://ca.example.com/dir",
            "https://a/#x",
        ] {
            assert!(UrlHost::directory(text).is_err(), "{text}");
        }
    }

    #[test]
    fn name_servers() {
        let name = |host: &str, port| ServerAddress::Name { host: host.into(), port };
        let address = |text: &str| ServerAddress::Address(text.parse().unwrap());
        for (text, expected) in [
            ("192.0.2.1", address("192.0.2.1:53")),
            ("192.0.2.1:5353", address("192.0.2.1:5353")),
            ("2001:db8::1", address("[2001:db8::1]:53")),
            ("[2001:db8::1]", address("[2001:db8::1]:53")),
            ("[2001:db8::1]:5353", address("[2001:db8::1]:5353")),
            ("NS.example.com.", name("ns.example.com", 53)),
            ("ns.example.com:5353", name("ns.example.com", 5353)),
        ] {
            assert_eq!(ServerAddress::name_server(text), Ok(expected), "{text}");
        }
        for text in
            ["", ":53", "ns.example.com:0", "ns.example.com:x", "192.0.2.1:0", "a b", "1.2.3", "ns_1.example.com"]
        {
            assert!(ServerAddress::name_server(text).is_err(), "{text}");
        }
    }
}
