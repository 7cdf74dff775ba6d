//! Everything that keeps a name from its certificate, at once: one edged, one listener for each name, and for each name
//! something else that is really so. What `edgectl cert why` then says is shown by the demonstration and judged by a test.
//!
//! Flows in: nothing. Flows out: [`CAUSES`] and a running edged. Needs pebble and ports 80 and 443 of loopback addresses.

#![allow(clippy::panic, clippy::unwrap_used)]

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};

use serde_json::Value;

use crate::acme::small::{Fault, Place, Reply};
use crate::acme::{Edition, Names, Pebble, Settings, Small};
use crate::edged::until;
use crate::lab::{Lab, Running};
use crate::manifests::{CLASS, service, to};

/// By the annotation of its Gateway; the others have a `[[certificate]]`.
const GATEWAY: &str = "annotation";

/// What is wrong with one name.
#[derive(Debug, Clone, Copy)]
pub struct Cause {
    pub host: &'static str,
    /// What was done to it.
    pub made: &'static str,
    /// Empty: cert-manager's.
    issuer: &'static str,
    /// What the sentence must say, beside the name of the cause in `-o json`.
    pub says: (&'static str, &'static [&'static str]),
}

const fn cause(
    host: &'static str,
    made: &'static str,
    issuer: &'static str,
    cause: &'static str,
    words: &'static [&'static str],
) -> Cause {
    Cause { host, made, issuer, says: (cause, words) }
}

pub const CAUSES: &[Cause] = &[
    cause("unknown.example.com", "it has no address in DNS", "pebble", "order-failed", &["neither A nor AAAA"]),
    cause(
        "moved.example.com",
        "it leads to another host, where nobody answers",
        "pebble",
        "order-failed",
        &["leads to", "none of which is ours"],
    ),
    cause(
        "strict.example.com",
        "its CAA record names another CA",
        "pebble",
        "order-failed",
        &["CAA", "other-ca.example"],
    ),
    cause(
        "taken.example.com",
        "another server answers port 80 where the CA asks",
        "pebble",
        "order-failed",
        &["taken.example.com"],
    ),
    cause(
        "refused.example.com",
        "the CA's policy refuses it",
        "pebble",
        "order-failed",
        &["forbidden domain", "another issuer"],
    ),
    cause("orphan.example.com", "its CA does not answer", "gone", "ca-down", &["127.0.0.1"]),
    cause("many.example.com", "its CA says that there were too many", "strict", "budget", &["too many"]),
    cause("shop.cluster.local", "it means something in a cluster only", GATEWAY, "not-public", &["shop.cluster.local"]),
    cause(
        "keyless.example.com",
        "the Secret with its issuer's external account is missing",
        "ClusterIssuer/keyless",
        "issuer",
        &["keyless-account"],
    ),
    cause("theirs.example.com", "its Gateway is left to cert-manager", "", "deferred", &["cert-manager"]),
];
/// One with nothing wrong.
pub const GOOD: &str = "shop.example.com";

const KEYLESS: &str = "---
apiVersion: cert-manager.io/v1
kind: ClusterIssuer
metadata: {name: keyless}
spec:
  acme:
    server: https://acme.example.net/directory
    privateKeySecretRef: {name: keyless}
    externalAccountBinding: {keyID: kid-1, keySecretRef: {name: keyless-account, key: secret}}
    solvers: [{http01: {gatewayHTTPRoute: {}}}]
";

/// All of it.
pub struct Causes {
    pub lab: Lab,
    _pebble: Pebble,
    _strict: Small,
    _seen_by_the_ca: Names,
    _running: Vec<Running>,
}

impl Causes {
    /// Returns when edged serves; the error says which program is missing.
    pub fn start() -> Result<Self, String> {
        let mut lab = Lab::new();
        let IpAddr::V4(vip) = lab.vip else { unreachable!("a lab is IPv4") };
        let [first, second, third, last] = vip.octets();
        let other = |more: u8| Ipv4Addr::new(first, second, third, last.wrapping_add(more));
        let (second_vip, somebody, nobody) = (other(100), other(101), other(102));
        let seen_by_the_ca = Names::start("", Ipv4Addr::LOCALHOST.into(), vip.into(), lab.dir());
        seen_by_the_ca.addresses("taken.example.com", &[somebody.into()]);
        seen_by_the_ca.addresses("moved.example.com", &[nobody.into()]);
        let settings = |edition| Settings {
            edition,
            dns: Some(seen_by_the_ca.dns),
            blocked: vec!["refused.example.com".into()],
            ..Settings::default()
        };
        let pebble =
            Pebble::start(&settings(Edition::Newest)).or_else(|_| Pebble::start(&settings(Edition::Debian)))?;
        let names = &pebble.names;
        names.no_default();
        for host in CAUSES.iter().map(|cause| cause.host).chain([GOOD]) {
            match host {
                "unknown.example.com" => {}
                "moved.example.com" => names.addresses(host, &[nobody.into()]),
                "theirs.example.com" => names.addresses(host, &[second_vip.into()]),
                _ => names.addresses(host, &[vip.into()]),
            }
        }
        names.caa("strict.example.com", "issue", "other-ca.example");
        let strict = Small::start();
        let limit = Reply::problem(
            429,
            "rateLimited",
            "too many new orders recently: see https://letsencrypt.org/docs/rate-limits/",
        );
        strict.fault(Place::NewOrder, usize::MAX, Fault::Says(limit.with("retry-after", "3600")));

        lab.write_file("ca.pem", pebble.trust());
        lab.write_config(&settings_text(&lab, &pebble, &strict, second_vip));
        let origin = lab.origin("shop");
        let running = vec![lab.origins().http_at("somebody else", (somebody, 80).into(), None), origin];
        lab.manifest("web.yaml", &manifests(vip, second_vip, running[1].address));
        lab.start(&[443]);
        Ok(Self { lab, _pebble: pebble, _strict: strict, _seen_by_the_ca: seen_by_the_ca, _running: running })
    }

    /// What `edgectl cert why` says, once there is no order under way; as text, and as JSON.
    pub fn why(&mut self, host: &str) -> (String, Value) {
        let edged = self.lab.edged();
        let value = until(&format!("{host} has its reason"), || {
            let said = edged.ctl(&["cert", "why", host, "-o", "json"]);
            let value: Value = serde_json::from_str(&said.stdout).ok()?;
            let is_settled = !matches!(value["cause"].as_str()?, "ordering" | "unknown" | "elsewhere");
            is_settled.then_some(value)
        });
        (edged.ctl(&["cert", "why", host]).stdout, value)
    }
}

fn settings_text(lab: &Lab, pebble: &Pebble, strict: &Small, second_vip: Ipv4Addr) -> String {
    let ca = lab.path("ca.pem");
    let mut text = format!(
        "[[pool]]\nname = \"second\"\naddresses = [\"{second_vip}/32\"]\n\n[certificates]\nresolvers = [\"{}\"]\n\n\
         [issuers.pebble]\ndirectory = \"{}\"\nca_file = \"{}\"\n\n[issuers.gone]\ndirectory = \"https://127.0.0.1:1/directory\"\n\n\
         [issuers.strict]\ndirectory = \"{}\"\n",
        pebble.names.dns,
        pebble.directory(),
        ca.display(),
        strict.directory()
    );
    let wanted = CAUSES.iter().map(|cause| (cause.host, cause.issuer)).chain([(GOOD, "pebble")]);
    for (host, issuer) in wanted.filter(|(_, issuer)| !matches!(*issuer, "" | GATEWAY)) {
        let issuer = if issuer.contains('/') { issuer.to_owned() } else { format!("issuers.{issuer}") };
        let secret = label(host);
        let _ = write!(
            text,
            "\n[[certificate]]\nsecret = \"default/{secret}-tls\"\nnames = [\"{host}\"]\nissuer = \"{issuer}\"\n"
        );
    }
    text
}

fn label(host: &str) -> &str {
    match host {
        "shop.cluster.local" => "inside",
        host => host.split('.').next().unwrap_or(host),
    }
}

fn manifests(vip: Ipv4Addr, second_vip: Ipv4Addr, origin: std::net::SocketAddr) -> String {
    let listener = |host: &str| {
        let name = label(host);
        format!(
            "    - {{name: {name}, port: 443, protocol: HTTPS, hostname: {host}, tls: {{certificateRefs: [{{name: {name}-tls}}]}}}}\n"
        )
    };
    let gateway = |name: &str, annotations: &str, address: Ipv4Addr, hosts: &[&str]| {
        let listeners: String = hosts.iter().map(|host| listener(host)).collect();
        format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: {name}, namespace: default{annotations}}}\n\
             spec:\n  gatewayClassName: edge\n  addresses: [{{type: IPAddress, value: \"{address}\"}}]\n  listeners:\n{listeners}"
        )
    };
    let (theirs, ours): (Vec<&Cause>, Vec<&Cause>) = CAUSES.iter().partition(|cause| cause.issuer.is_empty());
    let mut hosts: Vec<&str> = ours.iter().map(|cause| cause.host).collect();
    hosts.push(GOOD);
    let theirs: Vec<&str> = theirs.iter().map(|cause| cause.host).collect();
    let left = ", annotations: {cert-manager.io/cluster-issuer: keyless, edge.internal/certificates: defer}";
    [
        CLASS,
        KEYLESS,
        &gateway("web", ", annotations: {edge.internal/issuers: issuers.pebble}", vip, &hosts),
        &gateway("theirs", left, second_vip, &theirs),
        &service("default", "shop", 80, &[origin]),
        &crate::manifests::http_route("shop", &[], &to("shop", 80)),
    ]
    .concat()
}
