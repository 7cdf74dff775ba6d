//! What a request says of its own past: the X-Forwarded family. Entries that trusted proxies wrote are kept, everything that
//! a client may have invented is dropped, and our own knowledge is appended.
//!
//! The trust model is Envoy's at the edge (`numTrustedHops`): the last `n` entries of X-Forwarded-For come from `n`
//! proxies of ours, so the n-th from the right is the client as the outermost of them saw it. Fewer entries, or one that
//! is no address, mean that the request did not come that way: then nothing in it is believed. Other than Envoy, entries
//! further left, which only the client vouches for, are not passed on.

use std::net::{IpAddr, SocketAddr};

use edge_config::policy::{ClientRules, Detection};
use edge_config::snapshot::ClientSettings;
use ipnet::IpNet;

use super::client_cert;
use crate::proxy::digits;
use crate::proxy::message::{Fields, RequestHead, Scheme};
use crate::proxy::tls::shown::Shown;
use crate::proxy::worker::Arrival;

/// Trusted proxies in a row that are taken into account at most.
const MAX_HOPS: usize = 16;

/// What is believed of the sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sender {
    /// For logs and policies.
    pub client: IpAddr,
    /// Whether the client itself spoke HTTPS, to us or to a trusted proxy.
    pub https: bool,
}

/// What a listener believes of the past of its requests.
#[derive(Debug, Clone, Copy)]
pub struct Trust<'c> {
    pub hops: u32,
    pub rules: Option<&'c ClientRules>,
    /// What the client showed in its handshake.
    pub shown: Option<&'c Shown>,
}

impl<'c> Trust<'c> {
    pub fn of(client: &'c ClientSettings, arrival: &'c Arrival) -> Self {
        Self { hops: client.trusted_hops, rules: client.rules.as_deref(), shown: arrival.shown.as_deref() }
    }

    fn believes(&self, field: &[u8]) -> bool {
        let Some(rules) = self.rules else { return false };
        let names_client = matches!(&rules.detection, Some(Detection::Field { name, .. }) if name.as_bytes() == field);
        names_client || (field == client_cert::NAME && client_cert::passes(rules.certificate, self.shown))
    }
}

/// The client's address had to be said, and was not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unnamed;

/// Rewrites the family in place; must run before any filter of a rule. `peer` is the other end of the connection.
pub fn apply(head: &mut RequestHead, peer: IpAddr, trust: Trust<'_>) -> Result<Sender, Unnamed> {
    let peer = peer.to_canonical();
    let mut chain = [peer; MAX_HOPS];
    let hops = match trust.rules.and_then(|rules| rules.detection.as_ref()) {
        None => {
            let hops = usize::try_from(trust.hops).unwrap_or(MAX_HOPS).min(MAX_HOPS);
            if hops > 0 && trusted_entries(&head.fields, &mut chain[..hops]) { hops } else { 0 }
        }
        Some(Detection::Networks(networks)) => by_networks(&head.fields, peer, networks, &mut chain),
        Some(Detection::Field { name, is_required }) => {
            let said = head.fields.first(name.as_bytes()).and_then(|value| parse_address(value.trim_ascii()));
            match said {
                Some(address) => {
                    chain[0] = address.to_canonical();
                    1
                }
                None if *is_required => return Err(Unnamed),
                None => 0,
            }
        }
    };
    let trusted = hops > 0;
    let appends = trust.rules.is_none_or(|rules| !rules.keeps_forwarded);
    let proto = match trusted.then(|| single(&head.fields, b"x-forwarded-proto")).flatten() {
        Some(b"https") => true,
        Some(b"http") => false,
        _ => head.scheme == Scheme::Https,
    };
    let keeps_host = trusted && single(&head.fields, b"x-forwarded-host").is_some_and(|host| !host.is_empty());
    head.fields.remove_if(|name| match name {
        b"x-forwarded-host" => !keeps_host,
        b"x-forwarded-port" | b"x-forwarded-prefix" => !trusted,
        _ => is_claim(name) && !trust.believes(name),
    });

    if trusted {
        let own = appends.then_some(&peer);
        // IPv6 in full is 39 characters, and two separate each.
        let mut list = [0u8; (MAX_HOPS + 1) * 41];
        let mut at = 0;
        for address in chain[..hops].iter().chain(own) {
            if at > 0 {
                list[at..at + 2].copy_from_slice(b", ");
                at += 2;
            }
            at += write_address(*address, &mut list[at..]);
        }
        head.fields.add(b"x-forwarded-for", &list[..at]);
    } else if appends {
        let mut only = [0u8; 39];
        let length = write_address(peer, &mut only);
        head.fields.add(b"x-forwarded-for", &only[..length]);
    }
    head.fields.add(b"x-forwarded-proto", if proto { b"https" } else { b"http" });
    if !keeps_host && !head.authority.is_empty() {
        head.fields.add_copy(b"x-forwarded-host", head.authority);
    }
    if let Some(field) = trust.rules.and_then(|rules| rules.certificate) {
        client_cert::tell(field, trust.shown, &mut head.fields);
    }
    Ok(Sender { client: if trusted { chain[0] } else { peer }, https: proto })
}

/// The entries of X-Forwarded-For from the client on, where the connection comes from a trusted network: the client is the
/// last one that is in none of them, and where all are, the first. Returns how many there are, leftmost first; of more than
/// there is room for, those next to the client.
fn by_networks(fields: &Fields, peer: IpAddr, networks: &[IpNet], chain: &mut [IpAddr; MAX_HOPS]) -> usize {
    let is_trusted = |address: IpAddr| networks.iter().any(|network| network.contains(&address));
    if !is_trusted(peer) {
        return 0;
    }
    let mut found = 0;
    for entry in fields.all(b"x-forwarded-for").flat_map(|value| value.split(|byte| *byte == b',')) {
        let address = parse_address(entry.trim_ascii()).map(|address| address.to_canonical());
        // What stands left of one that is not trusted was said by who knows whom.
        if address.is_none_or(|address| !is_trusted(address)) {
            found = 0;
        }
        if let (Some(address), Some(slot)) = (address, chain.get_mut(found)) {
            *slot = address;
            found += 1;
        }
    }
    found
}

/// Fields that tell a backend who the client is or how it came, and their aliases: CGI, WSGI and PHP fold `_` and `-`
/// into one variable, so `x_forwarded_for` would be read as the real one.
pub fn is_claim(name: &[u8]) -> bool {
    // Most names are none of these, and show it at once.
    if !matches!(name.first(), Some(b'x' | b'f' | b't')) {
        return false;
    }
    let is = |expected: &[u8]| name.len() == expected.len() && starts(name, expected);
    starts(name, b"x-forwarded-")
        || starts(name, b"x-envoy-")
        || is(b"forwarded")
        || is(b"x-forwarded")
        || is(b"x-real-ip")
        || is(b"x-client-ip")
        || is(b"x-cluster-client-ip")
        || is(b"true-client-ip")
}

fn starts(name: &[u8], expected: &[u8]) -> bool {
    name.len() >= expected.len()
        && name.iter().zip(expected).all(|(have, want)| have == want || (*have == b'_' && *want == b'-'))
}

/// Reads the last entries of X-Forwarded-For, however they are spread over lines (RFC 9110 §5.3), leftmost first.
fn trusted_entries(fields: &Fields, chain: &mut [IpAddr]) -> bool {
    let entries = fields.all(b"x-forwarded-for").flat_map(|value| value.split(|byte| *byte == b','));
    let count = entries.count();
    let Some(skipped) = count.checked_sub(chain.len()) else { return false };
    let entries = fields.all(b"x-forwarded-for").flat_map(|value| value.split(|byte| *byte == b','));
    for (slot, entry) in chain.iter_mut().zip(entries.skip(skipped)) {
        match parse_address(entry.trim_ascii()) {
            Some(address) => *slot = address.to_canonical(),
            None => return false,
        }
    }
    true
}

/// An address, which some proxies write with a port.
fn parse_address(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?;
    text.parse()
        .ok()
        .or_else(|| text.parse::<SocketAddr>().ok().map(|socket| socket.ip()))
        .or_else(|| text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).and_then(|text| text.parse().ok()))
}

fn single<'f>(fields: &'f Fields, name: &'static [u8]) -> Option<&'f [u8]> {
    let mut values = fields.all(name);
    values.next().filter(|_| values.next().is_none())
}

fn write_address(address: IpAddr, out: &mut [u8]) -> usize {
    use std::io::Write;
    let room = out.len();
    if let IpAddr::V4(address) = address {
        let mut place = [0; 15];
        let text = digits::ipv4(address, &mut place);
        let Some(to) = out.get_mut(..text.len()) else { return 0 };
        to.copy_from_slice(text);
        return text.len();
    }
    let mut rest = out;
    write!(rest, "{address}").map_or(0, |()| room - rest.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn apply(head: &mut RequestHead, peer: IpAddr, hops: u32) -> Sender {
        super::apply(head, peer, Trust { hops, rules: None, shown: None }).unwrap()
    }

    #[test]
    fn clients_by_networks_and_fields() {
        let networks = || Detection::Networks(vec!["192.0.2.0/24".parse().unwrap(), "10.0.0.0/8".parse().unwrap()]);
        let field = |is_required| Detection::Field { name: "x-real-ip".into(), is_required };
        for (detection, peer, field, expected) in [
            (networks(), "192.0.2.9", ("x-forwarded-for", "1.1.1.1"), Some(("1.1.1.1", "1.1.1.1, 192.0.2.9"))),
            (
                networks(),
                "192.0.2.9",
                ("x-forwarded-for", "6.6.6.6, 1.1.1.1, 10.0.0.1"),
                Some(("1.1.1.1", "1.1.1.1, 10.0.0.1, 192.0.2.9")),
            ),
            (
                networks(),
                "192.0.2.9",
                ("x-forwarded-for", "10.0.0.2, 10.0.0.1"),
                Some(("10.0.0.2", "10.0.0.2, 10.0.0.1, 192.0.2.9")),
            ),
            (
                networks(),
                "192.0.2.9",
                ("x-forwarded-for", "6.6.6.6, unknown, 10.0.0.1"),
                Some(("10.0.0.1", "10.0.0.1, 192.0.2.9")),
            ),
            (networks(), "192.0.2.9", ("x-other", ""), Some(("192.0.2.9", "192.0.2.9"))),
            // Not by a proxy of ours.
            (networks(), "203.0.113.1", ("x-forwarded-for", "1.1.1.1"), Some(("203.0.113.1", "203.0.113.1"))),
            (field(true), "192.0.2.9", ("x-real-ip", "1.1.1.1"), Some(("1.1.1.1", "1.1.1.1, 192.0.2.9"))),
            (field(true), "192.0.2.9", ("x-real-ip", "nobody"), None),
            (field(true), "192.0.2.9", ("x-forwarded-for", "1.1.1.1"), None),
            (field(false), "192.0.2.9", ("x-real-ip", "nobody"), Some(("192.0.2.9", "192.0.2.9"))),
        ] {
            let mut head = request(Scheme::Http, &[field]);
            let rules = ClientRules { detection: Some(detection), ..ClientRules::default() };
            let trust = Trust { hops: 0, rules: Some(&rules), shown: None };
            let sender = super::apply(&mut head, peer.parse().unwrap(), trust);
            let found = sender.ok().map(|sender| (sender.client.to_string(), of(&head, "x-forwarded-for")));
            let expected = expected.map(|(client, list)| (client.to_owned(), list.to_owned()));
            assert_eq!(found, expected, "{field:?} from {peer}");
        }
        let rules = ClientRules { detection: Some(networks()), keeps_forwarded: true, ..ClientRules::default() };
        let trust = Trust { hops: 0, rules: Some(&rules), shown: None };
        let mut head = request(Scheme::Http, &[("x-forwarded-for", "1.1.1.1")]);
        super::apply(&mut head, "192.0.2.9".parse().unwrap(), trust).unwrap();
        assert_eq!(of(&head, "x-forwarded-for"), "1.1.1.1");
    }

    fn request(scheme: Scheme, fields: &[(&str, &str)]) -> RequestHead {
        let mut head = RequestHead { scheme, ..RequestHead::default() };
        head.set_authority("a.example:8080");
        for (name, value) in fields {
            head.fields.add(name.as_bytes(), value.as_bytes());
        }
        head
    }

    fn of(head: &RequestHead, name: &str) -> String {
        let values: Vec<_> = head.fields.all(name.as_bytes()).map(String::from_utf8_lossy).collect();
        values.join("|")
    }

    #[test]
    fn addresses() {
        for (hops, given, client, expected) in [
            (0, &[][..], "192.0.2.9", "192.0.2.9"),
            (0, &["1.1.1.1"], "192.0.2.9", "192.0.2.9"),
            (1, &[], "192.0.2.9", "192.0.2.9"),
            (1, &["1.1.1.1"], "1.1.1.1", "1.1.1.1, 192.0.2.9"),
            (1, &["6.6.6.6, 1.1.1.1"], "1.1.1.1", "1.1.1.1, 192.0.2.9"),
            (1, &["6.6.6.6", "1.1.1.1"], "1.1.1.1", "1.1.1.1, 192.0.2.9"),
            (2, &["6.6.6.6, 1.1.1.1 ,\t2.2.2.2"], "1.1.1.1", "1.1.1.1, 2.2.2.2, 192.0.2.9"),
            (2, &["1.1.1.1", "2.2.2.2"], "1.1.1.1", "1.1.1.1, 2.2.2.2, 192.0.2.9"),
            (2, &["1.1.1.1"], "192.0.2.9", "192.0.2.9"),
            (2, &["unknown, 2.2.2.2"], "192.0.2.9", "192.0.2.9"),
            (1, &["unknown, 2.2.2.2"], "2.2.2.2", "2.2.2.2, 192.0.2.9"),
            (1, &["1.1.1.1,"], "192.0.2.9", "192.0.2.9"),
            (1, &[""], "192.0.2.9", "192.0.2.9"),
            (1, &["1.1.1.1:5000"], "1.1.1.1", "1.1.1.1, 192.0.2.9"),
            (1, &["[2001:db8::1]:5000"], "2001:db8::1", "2001:db8::1, 192.0.2.9"),
            (1, &["[2001:db8::1]"], "2001:db8::1", "2001:db8::1, 192.0.2.9"),
            (1, &["2001:DB8:0::1"], "2001:db8::1", "2001:db8::1, 192.0.2.9"),
            (1, &["::ffff:1.1.1.1"], "1.1.1.1", "1.1.1.1, 192.0.2.9"),
            (u32::MAX, &["1.1.1.1"], "192.0.2.9", "192.0.2.9"),
        ] {
            let fields: Vec<_> = given.iter().map(|value| ("x-forwarded-for", *value)).collect();
            let mut head = request(Scheme::Http, &fields);
            let sender = apply(&mut head, "::ffff:192.0.2.9".parse().unwrap(), hops);
            assert_eq!(sender.client.to_string(), client, "{given:?} with {hops}");
            assert_eq!(of(&head, "x-forwarded-for"), expected, "{given:?} with {hops}");
        }
    }

    #[test]
    fn the_longest_chain_fits() {
        let address = "2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff";
        let mut head = request(Scheme::Http, &[("x-forwarded-for", &[address; 20].join(","))]);
        apply(&mut head, address.parse().unwrap(), 100);
        assert_eq!(of(&head, "x-forwarded-for"), [address; MAX_HOPS + 1].join(", "));
    }

    #[test]
    fn protocol_and_host() {
        let from = ("x-forwarded-for", "1.1.1.1");
        for (hops, scheme, fields, proto, host) in [
            (0, Scheme::Http, &[("x-forwarded-proto", "https")][..], "http", "a.example:8080"),
            (0, Scheme::Https, &[("x-forwarded-proto", "http")], "https", "a.example:8080"),
            (0, Scheme::Https, &[from, ("x-forwarded-host", "b")], "https", "a.example:8080"),
            (1, Scheme::Http, &[from, ("x-forwarded-proto", "https"), ("x-forwarded-host", "b")], "https", "b"),
            (1, Scheme::Https, &[from, ("x-forwarded-proto", "http")], "http", "a.example:8080"),
            (1, Scheme::Http, &[from, ("x-forwarded-proto", "ftp")], "http", "a.example:8080"),
            (
                1,
                Scheme::Http,
                &[from, ("x-forwarded-proto", "https"), ("x-forwarded-proto", "http")],
                "http",
                "a.example:8080",
            ),
            (1, Scheme::Http, &[from, ("x-forwarded-host", "b"), ("x-forwarded-host", "c")], "http", "a.example:8080"),
            // It did not come through the proxy that is trusted.
            (1, Scheme::Http, &[("x-forwarded-proto", "https"), ("x-forwarded-host", "b")], "http", "a.example:8080"),
        ] {
            let mut head = request(scheme, fields);
            let sender = apply(&mut head, "192.0.2.9".parse().unwrap(), hops);
            assert_eq!(
                (of(&head, "x-forwarded-proto").as_str(), of(&head, "x-forwarded-host").as_str()),
                (proto, host)
            );
            assert_eq!(sender.https, proto == "https");
        }
    }

    #[test]
    fn a_request_without_authority_claims_no_host() {
        let mut head = RequestHead::default();
        apply(&mut head, "192.0.2.9".parse().unwrap(), 0);
        assert_eq!(of(&head, "x-forwarded-host"), "");
    }

    #[test]
    fn what_is_left_alone() {
        let mut head = request(
            Scheme::Http,
            &[("x-forwards", "1"), ("x_custom", "2"), ("user-agent", "3"), ("x-forwarded-port", "4")],
        );
        apply(&mut head, "192.0.2.9".parse().unwrap(), 0);
        assert_eq!((of(&head, "x-forwards").as_str(), of(&head, "x_custom").as_str()), ("1", "2"));
        assert_eq!(of(&head, "x-forwarded-port"), "");
    }

    proptest! {
        #[test]
        fn no_claim_gets_through(
            fields in prop::collection::vec((
                "(x[-_])?(forwarded|real|client|cluster|envoy|true)([-_](for|proto|host|port|prefix|ip|client[-_]ip|client[-_]cert|by|server|external[-_]address|[a-z]{1,5}))?",
                "(EVIL|EVIL, EVIL|unknown|10\\.6\\.6\\.6|https)",
            ), 0..8),
            hops in 0u32..4,
        ) {
            let fields: Vec<_> = fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            // Addresses vouch for a chain; without enough of them nothing is believed.
            let entries: Vec<&str> = fields.iter().filter(|(name, _)| *name == "x-forwarded-for")
                .flat_map(|(_, value)| value.split(", ")).collect();
            let hops_used = hops as usize;
            let vouched = hops > 0 && entries.len() >= hops_used
                && entries[entries.len() - hops_used..].iter().all(|entry| *entry == "10.6.6.6");
            let mut head = request(Scheme::Http, &fields);
            let sender = apply(&mut head, "192.0.2.9".parse().unwrap(), hops);
            if !vouched {
                prop_assert_eq!(sender, Sender { client: "192.0.2.9".parse().unwrap(), https: false });
                for (name, value) in head.fields.iter() {
                    let name = String::from_utf8_lossy(name).replace('_', "-");
                    let family = name.starts_with("x-forwarded-") || name.starts_with("x-envoy-")
                        || ["x-forwarded", "forwarded", "x-real-ip", "x-client-ip", "x-cluster-client-ip", "true-client-ip"]
                            .contains(&name.as_str());
                    let ours: &[&[u8]] = &[b"192.0.2.9", b"http", b"a.example:8080"];
                    prop_assert!(!family || ours.contains(&value) , "{} {:?}", name, value);
                }
            }
            // An alias never survives.
            prop_assert!(head.fields.iter().all(|(name, _)| !name.starts_with(b"x_forwarded") && !name.starts_with(b"x-forwarded_")));
            let chain = of(&head, "x-forwarded-for");
            prop_assert_eq!(chain.split(", ").count(), if vouched { hops_used + 1 } else { 1 });
            prop_assert!(chain.ends_with("192.0.2.9"));
        }
    }
}
