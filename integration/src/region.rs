//! What an OpenStack region promises of its public endpoints, checked from outside: used on Genestack's own files and on
//! `examples/openstack`.
//!
//! Flows in: where the region answers. Flows out: assertions that name the host they failed at.

#![allow(clippy::panic, clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::client::{Connection, H2, Tls, fetch};
use crate::edged::Edged;
use crate::pki;

/// The outside of a region.
pub struct Region {
    pub vip: IpAddr,
    pub http: u16,
    pub https: u16,
}

impl Region {
    pub fn secure(&self) -> SocketAddr {
        SocketAddr::new(self.vip, self.https)
    }

    pub fn plain(&self) -> SocketAddr {
        SocketAddr::new(self.vip, self.http)
    }

    /// The Host field for a port.
    fn authority(&self, host: &str) -> String {
        if self.https == 443 { host.to_owned() } else { format!("{host}:{}", self.https) }
    }

    /// TLS that looks at the certificate itself: it must name the host.
    pub fn tls(host: &str, alpn: &[&str]) -> Tls {
        Tls { config: pki::client_accepting_anything(alpn), server_name: Some(host.to_owned()) }
    }

    /// The host answers over HTTPS with either HTTP version, from one of its backends, with a certificate for it.
    pub async fn serves(&self, host: &str, backends: &[&str]) {
        let tls = Self::tls(host, &["http/1.1"]);
        let mut h1 = Connection::open(self.secure(), Some(&tls)).await.unwrap_or_else(|e| panic!("{host}: {e}"));
        let leaf = h1.handshake.certificates.first().unwrap_or_else(|| panic!("{host}: no certificate"));
        let facts = pki::facts(leaf).unwrap_or_else(|e| panic!("{host}: {e}"));
        assert!(facts.dns.iter().any(|name| name == host), "{host}: certificate for {facts:?}");
        let authority = self.authority(host);
        let reply = h1.get(&authority, "/v3?x=1").await.unwrap_or_else(|e| panic!("{host}: {e}"));
        let mut replies = vec![reply];
        let tls = Self::tls(host, &["h2"]);
        let mut h2 = H2::open(self.secure(), Some(&tls)).await.unwrap_or_else(|e| panic!("{host}: h2: {e}"));
        replies.push(h2.get(&authority, "/v3?x=1").await.unwrap_or_else(|e| panic!("{host}: h2: {e}")));
        for reply in replies {
            assert_eq!(reply.status, 200, "{host}: {reply:?}");
            assert!(reply.backend().is_some_and(|name| backends.contains(&name)), "{host}: {:?}", reply.backend());
            let echo = reply.json();
            assert_eq!((&echo["path"], &echo["query"]), (&"/v3".into(), &"x=1".into()), "{host}");
            assert_eq!(echo["host"], authority, "{host}: Host as the client wrote it");
            assert_eq!(echo["headers"]["x-forwarded-proto"], serde_json::json!(["https"]), "{host}");
        }
    }

    /// http:// leads to https:// with 301 and keeps path and query.
    pub async fn redirects(&self, host: &str) {
        let reply = fetch(self.plain(), None, host, "/v3?x=1").await.unwrap_or_else(|e| panic!("{host}: {e}"));
        let expected = format!("https://{}/v3?x=1", self.authority(host));
        assert_eq!((reply.status, reply.header("location")), (301, Some(&*expected)), "{host}");
    }

    /// With the cookie every request goes to the endpoint that the first one chose; without it all are used.
    pub async fn sticks(&self, host: &str, cookie: &str, lifetime: u64, backends: &[&str]) {
        let tls = Self::tls(host, &["http/1.1"]);
        let authority = self.authority(host);
        let mut seen = BTreeSet::new();
        let mut connection = Connection::open(self.secure(), Some(&tls)).await.unwrap();
        for _ in 0..40 {
            let first = connection.get(&authority, "/").await.unwrap();
            let backend = first.backend().unwrap().to_owned();
            let set = first.all("set-cookie").find(|value| value.starts_with(&format!("{cookie}=")));
            let set = set.unwrap_or_else(|| panic!("{host}: no {cookie} in {:?}", first.headers));
            let (pair, attributes) = set.split_once(';').unwrap_or_else(|| panic!("{host}: {set}"));
            let age = attributes.split(';').find_map(|part| part.trim().strip_prefix("Max-Age=")?.parse::<u64>().ok());
            assert_eq!(age, Some(lifetime), "{host}: lifetime in {set}");
            if seen.insert(backend.clone()) {
                for _ in 0..12 {
                    let headers = [("host", &*authority), ("cookie", pair)];
                    let again = connection.request("GET", "/", &headers, b"").await.unwrap();
                    assert_eq!(again.backend(), Some(&*backend), "{host}: left its endpoint");
                }
            }
            if seen.len() == backends.len() {
                break;
            }
        }
        assert_eq!(seen.iter().map(String::as_str).collect::<Vec<_>>(), backends, "{host}: endpoints in use");
        let garbage = format!("{cookie}=bm90IG91cnM");
        let headers = [("host", &*authority), ("cookie", &*garbage)];
        let reply = connection.request("GET", "/", &headers, b"").await.unwrap();
        assert_eq!(reply.status, 200, "{host}: a foreign cookie is no reason to fail");
        assert!(reply.all("set-cookie").any(|value| value.starts_with(cookie)), "{host}: a foreign cookie is replaced");
    }

    /// An idle keep-alive connection is closed after the policy's timeout, and not long before.
    pub async fn closes_idle(&self, host: &str, timeout: Duration) {
        let tls = Self::tls(host, &["http/1.1"]);
        let mut connection = Connection::open(self.secure(), Some(&tls)).await.unwrap();
        connection.get(&self.authority(host), "/").await.unwrap();
        let start = Instant::now();
        connection.closed().await.unwrap_or_else(|e| panic!("{host}: not closed: {e}"));
        let after = start.elapsed();
        assert!(after > timeout * 8 / 10 && after < timeout * 2 + Duration::from_secs(2), "closed after {after:?}");
    }

    /// The address that the backend is told, with what the client claimed before it.
    pub async fn forwarded_for(&self, host: &str, claimed: &str) -> String {
        let tls = Self::tls(host, &["http/1.1"]);
        let mut connection = Connection::open(self.secure(), Some(&tls)).await.unwrap();
        let headers = [("host", &*self.authority(host)), ("x-forwarded-for", claimed)];
        let reply = connection.request("GET", "/", &headers, b"").await.unwrap();
        let echo = reply.json();
        let values = echo["headers"]["x-forwarded-for"].as_array().cloned().unwrap_or_default();
        values.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
    }
}

/// What `status` finds less than up, as `KIND: reason`; a listener that no Secret and no issuer supplies serves a
/// certificate of the internal CA, says so, and is left out here.
pub fn not_up(edged: &Edged) -> Vec<String> {
    let status = edged.ctl(&["status", "--all", "-o", "json"]).json();
    let mut found = Vec::new();
    for kind in ["vips", "listeners", "certificates", "routes", "backends"] {
        for row in status[kind].as_array().into_iter().flatten() {
            let reason = row["reason"].as_str().unwrap_or_default();
            if row["state"] != "up" && !reason.contains("placeholder of the internal CA is served") {
                found.push(format!("{kind}: {row}"));
            }
        }
    }
    found
}

/// The conditions of a route: one list of (type, status, reason) for each parent, by `get KIND -o json`.
pub fn route_conditions(edged: &Edged, kind: &str, namespace: &str, name: &str) -> Vec<Vec<(String, String, String)>> {
    let said = edged.ctl(&["get", kind, "-o", "json"]);
    let list = said.json();
    let items = list.get("items").unwrap_or(&list).as_array().cloned().unwrap_or_default();
    let item = items.iter().find(|item| {
        item["metadata"]["name"] == name && item["metadata"].get("namespace").is_none_or(|found| found == namespace)
    });
    let item = item.unwrap_or_else(|| panic!("no {kind} {namespace}/{name} in {said:?}"));
    let parents = item["status"]["parents"].as_array().cloned().unwrap_or_default();
    parents.iter().map(|parent| conditions(&parent["conditions"])).collect()
}

/// `(type, status, reason)` of a list of conditions.
pub fn conditions(list: &Value) -> Vec<(String, String, String)> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    list.as_array()
        .into_iter()
        .flatten()
        .map(|condition| (text(&condition["type"]), text(&condition["status"]), text(&condition["reason"])))
        .collect()
}
