//! pebble-challtestsrv: the DNS that a test CA believes in.
//!
//! Every name has the default addresses until it is given others.

#![allow(clippy::panic, clippy::unwrap_used)]

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use serde_json::{Value, json};

use super::ask::{ask, free_port};
use crate::cluster::process::{Process, Program};

pub const CHALLTESTSRV: &str = "/usr/bin/pebble-challtestsrv";

pub struct Names {
    _process: Process,
    namespace: String,
    management: SocketAddr,
    /// Where it answers DNS, by UDP and TCP.
    pub dns: SocketAddr,
}

impl Names {
    /// Listens on `listen`; all names lead to `default`.
    pub fn start(namespace: &str, listen: IpAddr, default: IpAddr, dir: &Path) -> Self {
        let dns = SocketAddr::new(listen, free_port(namespace, listen));
        Self::start_at(namespace, dns, default, dir)
    }

    /// The same on a port of one's own choice.
    pub fn start_at(namespace: &str, dns: SocketAddr, default: IpAddr, dir: &Path) -> Self {
        let management = SocketAddr::new(dns.ip(), free_port(namespace, dns.ip()));
        let (v4, v6) = match default {
            IpAddr::V4(address) => (address.to_string(), String::new()),
            IpAddr::V6(address) => (String::new(), address.to_string()),
        };
        let program = Program::new(CHALLTESTSRV)
            .args(["-dns01", &dns.to_string(), "-management", &management.to_string()])
            .args(["-http01", "", "-https01", "", "-tlsalpn01", ""])
            .args(["-defaultIPv4", &v4, "-defaultIPv6", &v6]);
        let mut process = Process::start("pebble-challtestsrv", namespace, &program, &dir.join("challtestsrv.log"));
        process.until("challtestsrv answers", || ask(namespace, management, None, ("GET", "/", "")).ok());
        Self { _process: process, namespace: namespace.to_owned(), management, dns }
    }

    fn tell(&self, path: &str, what: &Value) {
        let (status, body) = ask(&self.namespace, self.management, None, ("POST", path, &what.to_string())).unwrap();
        assert!(status == 200, "challtestsrv {path} {what}: {status} {body}");
    }

    /// Addresses of a host, instead of the default ones; without any, the default holds again.
    pub fn addresses(&self, host: &str, addresses: &[IpAddr]) {
        let of = |v6: bool| -> Vec<String> {
            addresses.iter().filter(|one| one.is_ipv6() == v6).map(IpAddr::to_string).collect()
        };
        for (path, addresses) in [("a", of(false)), ("aaaa", of(true))] {
            self.tell(&format!("/clear-{path}"), &json!({ "host": absolute(host) }));
            if !addresses.is_empty() {
                self.tell(&format!("/add-{path}"), &json!({ "host": absolute(host), "addresses": addresses }));
            }
        }
    }

    /// From now on a name without addresses of its own has none.
    pub fn no_default(&self) {
        for family in ["4", "6"] {
            self.tell(&format!("/set-default-ipv{family}"), &json!({ "ip": "" }));
        }
    }

    /// Adds a TXT record.
    pub fn txt(&self, name: &str, value: &str) {
        self.tell("/set-txt", &json!({ "host": absolute(name), "value": value }));
    }

    /// Takes all TXT records of a name away.
    pub fn clear_txt(&self, name: &str) {
        self.tell("/clear-txt", &json!({ "host": absolute(name) }));
    }

    /// Adds a CAA record, `issue` mostly.
    pub fn caa(&self, name: &str, tag: &str, value: &str) {
        let policies = json!([{ "tag": tag, "value": value }]);
        self.tell("/add-caa", &json!({ "host": absolute(name), "policies": policies }));
    }

    pub fn cname(&self, name: &str, target: &str) {
        self.tell("/set-cname", &json!({ "host": absolute(name), "target": absolute(target) }));
    }

    /// Questions for the name fail.
    pub fn servfail(&self, name: &str) {
        self.tell("/set-servfail", &json!({ "host": absolute(name) }));
    }

    /// What was asked for a name.
    pub fn questions(&self, name: &str) -> Value {
        let what = json!({ "host": absolute(name) }).to_string();
        let (_, body) = ask(&self.namespace, self.management, None, ("POST", "/dns-request-history", &what)).unwrap();
        serde_json::from_str(&body).unwrap()
    }
}

fn absolute(name: &str) -> String {
    format!("{}.", name.trim_end_matches('.'))
}
