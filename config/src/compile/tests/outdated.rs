//! Objects that serve in their last good version: what is served is the same, and the listener says so.

use std::sync::Arc;

use serde_json::json;

use super::{add, base};
use crate::compile::{Compiled, Compiler, compile};
use crate::core::{CertificateFacts, KeyAlgorithm, NamespaceSpec, Secret, SecretContents};
use crate::inputs::{Inputs, Object, Outdated};
use crate::names::{Kind, ObjectKey, ObjectRef};

fn with_secret() -> Inputs {
    let mut inputs = base();
    let tls = json!({"certificateRefs": [{"name": "tls"}]});
    let listeners = json!([{"name": "https", "port": 443, "protocol": "HTTPS", "tls": tls}]);
    add(&mut inputs.gateways, "edge/gw", 0, json!({"gatewayClassName": "edge", "listeners": listeners}));
    add::<NamespaceSpec>(&mut inputs.namespaces, "edge", 0, json!({}));
    let certificate = CertificateFacts {
        dns_names: vec!["a.example".to_owned()],
        ip_addresses: Vec::new(),
        not_before: 0,
        not_after: i64::MAX,
        issuer: "x".to_owned(),
        key_algorithm: KeyAlgorithm::Ed25519,
        sha256: String::new(),
        is_ca: false,
        is_self_signed: false,
        chain_length: 1,
    };
    let key = ObjectKey::parse("edge/tls");
    let mut meta = inputs.gateways[&ObjectKey::parse("edge/gw")].meta.clone();
    meta.key = key.clone();
    let spec = Secret {
        kind: "kubernetes.io/tls".to_owned(),
        keys: vec!["tls.crt".to_owned(), "tls.key".to_owned()],
        contents: SecretContents::Tls { certificate: Ok(certificate), ca: None },
        crl: None,
        faults: Default::default(),
    };
    inputs.secrets.insert(key, Arc::new(Object { meta, spec }));
    inputs
}

fn resolved(compiled: &Compiled) -> (bool, &'static str, String) {
    let gateway = ObjectRef::new(Kind::Gateway, ObjectKey::parse("edge/gw"));
    let conditions = &compiled.report.objects[&gateway].listeners[0].conditions;
    let one = conditions.iter().find(|one| one.kind == "ResolvedRefs").unwrap();
    (one.status, one.reason, one.message.clone())
}

#[test]
fn a_secret_of_which_the_last_good_version_serves() {
    let good = with_secret();
    let mut outdated = good.clone();
    let why = Outdated { reason: "tls.key is missing".to_owned(), since: "2026-01-02T03:04:05Z".to_owned() };
    outdated.outdated.insert(ObjectRef::new(Kind::Secret, ObjectKey::parse("edge/tls")), why);
    let mut compiler = Compiler::default();
    let before = compiler.compile(&Arc::new(good.clone()));
    assert_eq!(resolved(&before), (true, "ResolvedRefs", String::new()));
    let after = compiler.compile(&Arc::new(outdated.clone()));
    assert_eq!(after, compile(&outdated));
    assert!(Arc::ptr_eq(&before.snapshot, &after.snapshot), "what is served is the same");
    let message = "Secret edge/tls: tls.key is missing; its last good version is served since 2026-01-02T03:04:05Z";
    assert_eq!(resolved(&after), (true, "LastGoodVersionServed", message.to_owned()));
    assert!(!outdated.is_identical(&good));
    assert_eq!(compiler.compile(&Arc::new(good)), before);
}
