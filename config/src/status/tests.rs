//! A world in which one thing after the other is missing.

use serde_json::json;

use super::*;
use crate::compile::compile;
use crate::compile::tests::{add, base};
use crate::names::ObjectKey;

fn gateway() -> ObjectRef {
    ObjectRef::new(Kind::Gateway, ObjectKey::parse("edge/gw"))
}

fn certificate() -> CertId {
    CertId(ObjectKey::parse("edge/cert"))
}

fn compiled() -> crate::Compiled {
    let mut inputs = base();
    add(&mut inputs.cluster_issuers, "self", 0, json!({"selfSigned": {}}));
    let issuer = json!({"secretName": "cert", "issuerRef": {"name": "self", "kind": "ClusterIssuer"}});
    add(&mut inputs.certificates, "edge/c", 0, issuer);
    let listeners = json!([
        {"name": "http", "port": 80, "protocol": "HTTP"},
        {"name": "https", "port": 443, "protocol": "HTTPS", "hostname": "a.example",
         "tls": {"certificateRefs": [{"name": "cert"}]}},
    ]);
    add(&mut inputs.gateways, "edge/gw", 0, json!({"gatewayClassName": "edge", "listeners": listeners}));
    add(
        &mut inputs.http_routes,
        "edge/r",
        0,
        json!({"parentRefs": [{"name": "gw"}], "rules": [{"matches": [{"path": {"value": "/"}}]}]}),
    );
    compile(&inputs)
}

/// `status reason` of a condition.
fn condition(conditions: &Value, kind: &str) -> String {
    let found = conditions.as_array().unwrap().iter().find(|condition| condition["type"] == kind).unwrap();
    assert_eq!(found["observedGeneration"], 1);
    format!("{} {}", found["status"].as_str().unwrap(), found["reason"].as_str().unwrap())
}

#[test]
fn programmed_is_what_the_world_says() {
    let compiled = compiled();
    let good = Observed::programmed(&compiled.snapshot);
    let http: SocketAddr = "10.0.0.1:80".parse().unwrap();
    let vip: IpAddr = "10.0.0.1".parse().unwrap();
    let bind = |observed: &mut Observed| {
        observed.sockets.insert((http, Transport::Tcp), Err("address in use".into()));
    };
    let both = |observed: &mut Observed| {
        observed.sockets.values_mut().for_each(|socket| *socket = Err("address in use".into()));
    };
    type Spoil<'s> = &'s dyn Fn(&mut Observed);
    let cases: [(&str, Spoil<'_>, &str, &str, &str); 9] = [
        ("all good", &|_| {}, "True Programmed", "True Programmed", "True Programmed"),
        ("workers", &|o| o.acknowledged = false, "False Pending", "False Pending", "False Pending"),
        (
            "another edge",
            &|o| {
                o.pending.insert(gateway(), "edge b has generation 1 of it".into());
            },
            "False Pending",
            "False Pending",
            "False Pending",
        ),
        ("not bound", &|o| o.sockets.clear(), "False Pending", "False Pending", "False Pending"),
        ("bind", &bind, "True Programmed", "False PortUnavailable", "True Programmed"),
        ("both", &both, "False Invalid", "False PortUnavailable", "False PortUnavailable"),
        ("no certificate", &|o| o.certificates.clear(), "True Programmed", "True Programmed", "False Invalid"),
        (
            "expired",
            &|o| {
                o.certificates.insert(certificate(), CertificateState::Unfit { why: "expired".into() });
            },
            "True Programmed",
            "True Programmed",
            "False Invalid",
        ),
        (
            "address",
            &|o| {
                o.vips.insert(vip, VipState { bound: Err("no permission".into()), announced: Ok(()) });
            },
            "False AddressNotUsable",
            "True Programmed",
            "True Programmed",
        ),
    ];
    for (name, spoil, on_gateway, on_http, on_https) in cases {
        let mut observed = good.clone();
        spoil(&mut observed);
        let status = &render(&compiled.snapshot, &compiled.report, &observed)[&gateway()];
        assert_eq!(condition(&status["conditions"], "Programmed"), on_gateway, "{name}");
        assert_eq!(condition(&status["conditions"], "Accepted"), "True Accepted", "{name}");
        assert_eq!(condition(&status["listeners"][0]["conditions"], "Programmed"), on_http, "{name}");
        assert_eq!(condition(&status["listeners"][1]["conditions"], "Programmed"), on_https, "{name}");
        let addresses = status["addresses"].as_array().unwrap().len();
        assert_eq!(addresses, usize::from(name != "address"), "only bound addresses are listed: {name}");
    }
}

#[test]
fn shapes_are_those_of_the_api() {
    let compiled = compiled();
    let all = render(&compiled.snapshot, &compiled.report, &Observed::programmed(&compiled.snapshot));
    let status = &all[&gateway()];
    assert_eq!(status["addresses"], json!([{"type": "IPAddress", "value": "10.0.0.1"}]));
    assert_eq!(status["listeners"][0]["attachedRoutes"], 1);
    let kind = |kind: &str| json!({"group": "gateway.networking.k8s.io", "kind": kind});
    assert_eq!(status["listeners"][0]["supportedKinds"], json!([kind("HTTPRoute"), kind("GRPCRoute")]));
    let route = &all[&ObjectRef::new(Kind::HTTPRoute, ObjectKey::parse("edge/r"))];
    assert_eq!(
        route["parents"][0]["parentRef"],
        json!({"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "gw"})
    );
    assert_eq!(route["parents"][0]["controllerName"], "edge.internal/gateway-controller");
    assert_eq!(condition(&route["parents"][0]["conditions"], "Accepted"), "True Accepted");
    let class = &all[&ObjectRef::new(Kind::GatewayClass, ObjectKey::parse("edge"))];
    assert_eq!(class["supportedFeatures"][0], json!({"name": "BackendTLSPolicy"}));
}

#[test]
fn a_certificate_is_ready_when_it_is_there() {
    let compiled = compiled();
    let object = ObjectRef::new(Kind::Certificate, ObjectKey::parse("edge/c"));
    let mut observed = Observed::programmed(&compiled.snapshot);
    let ready = |observed: &Observed| {
        condition(&render(&compiled.snapshot, &compiled.report, observed)[&object]["conditions"], "Ready")
    };
    assert_eq!(ready(&observed), "True Ready");
    observed.certificates.clear();
    assert_eq!(ready(&observed), "False Issuing");
    observed.certificates.insert(certificate(), CertificateState::Failed { why: "disk full".into() });
    assert_eq!(ready(&observed), "False Failed");
}
