//! Reads a case as a source would, with stand-ins for certificates.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use edge_config::core::{CaBundle, CertificateFacts, ConfigMap, KeyAlgorithm, RawSecret, Secret, SecretContents};
use edge_config::edge_toml;
use edge_config::inputs::{Inputs, Object};
use edge_config::manifest::{AnyObject, Outcome, Place, decode_document};
use edge_config::names::{Kind, ObjectKey, ObjectRef};
use edge_config::problem::Problem;
use edge_config::yaml;

pub struct Case {
    pub inputs: Inputs,
    pub problems: Vec<Problem>,
}

pub fn read(case: &Path) -> Case {
    let mut inputs = Inputs::default();
    let mut problems = Vec::new();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let own = fs::read_to_string(case.join("edge.toml")).ok();
    let text = own.unwrap_or_else(|| fs::read_to_string(golden.join("base.toml")).unwrap());
    match edge_toml::decode(&Arc::from("edge.toml"), &text) {
        Ok(settings) => inputs.settings = Arc::new(settings),
        Err(faults) => panic!("{}: {faults:#?}", case.display()),
    }
    let mut files: Vec<_> = fs::read_dir(case).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.insert(0, golden.join("base.yaml"));
    for path in files.iter().filter(|path| path.extension().is_some_and(|extension| extension == "yaml")) {
        let text = fs::read_to_string(path).unwrap();
        let file: Arc<str> = path.file_name().unwrap().to_string_lossy().as_ref().into();
        for document in yaml::split(&text) {
            let place = Place { file: Arc::clone(&file), line_offset: document.line_offset };
            for item in decode_document(document.text, &place, &"default".into(), &[]) {
                problems.extend(item.problems);
                match item.outcome {
                    Outcome::Ready(object) => object.insert(&mut inputs),
                    Outcome::Secret(raw) => {
                        let spec = secret(&raw.spec);
                        AnyObject::Secret(Arc::new(Object { meta: raw.meta, spec })).insert(&mut inputs);
                    }
                    Outcome::ConfigMap(raw) => {
                        let ca = raw.spec.values.get("ca.crt").map(|value| bundle(value));
                        let spec = ConfigMap::new(&raw.spec.values, ca);
                        AnyObject::ConfigMap(Arc::new(Object { meta: raw.meta, spec })).insert(&mut inputs);
                    }
                    Outcome::Broken | Outcome::Foreign => {}
                }
            }
        }
    }
    // `assigned.txt` and `published.txt`: lines of `[Kind] namespace/name address …`, and creation times by the
    // annotation `test/created`.
    for (file, addresses) in [("assigned.txt", &mut inputs.assigned), ("published.txt", &mut inputs.published)] {
        for line in fs::read_to_string(case.join(file)).unwrap_or_default().lines() {
            let mut words = line.split_whitespace().peekable();
            let kind =
                words.next_if(|word| !word.contains('/')).map_or(Kind::Gateway, |word| Kind::named(word).unwrap());
            let object = ObjectRef::new(kind, ObjectKey::parse(words.next().unwrap()));
            addresses.insert(object, words.map(|word| word.parse().unwrap()).collect());
        }
    }
    created(&mut inputs);
    Case { inputs, problems }
}

/// Files have no creation time; cases that need one write it as an annotation.
fn created(inputs: &mut Inputs) {
    macro_rules! set {
        ($($field:ident),*) => {$(
            for object in inputs.$field.values_mut() {
                if let Some(created) = object.meta.annotations.get("test/created").cloned() {
                    Arc::make_mut(object).meta.created = Some(created);
                }
            }
        )*};
    }
    set!(services, gateways, listener_sets, http_routes, grpc_routes, tls_routes, tcp_routes, udp_routes);
    set!(backend_tls_policies, client_traffic_policies, backend_traffic_policies, address_pools);
}

fn bundle(value: &[u8]) -> CaBundle {
    match String::from_utf8_lossy(value).trim() {
        text if text.starts_with("good") => CaBundle(Ok(vec![value.into()])),
        other => CaBundle(Err(other.to_owned())),
    }
}

fn secret(raw: &RawSecret) -> Secret {
    let ca = raw.values.get("ca.crt").map(|value| bundle(value));
    let contents = match (raw.values.get("tls.crt"), ca) {
        (Some(certificate), ca) => {
            let text = String::from_utf8_lossy(certificate).trim().to_owned();
            let facts = CertificateFacts {
                dns_names: Vec::new(),
                ip_addresses: Vec::new(),
                not_before: 0,
                not_after: 0,
                issuer: "test".into(),
                key_algorithm: KeyAlgorithm::EcdsaP256,
                sha256: String::new(),
                is_ca: text == "good ca",
                is_self_signed: false,
                chain_length: 1,
            };
            let certificate = if text.starts_with("good") { Ok(facts) } else { Err(text) };
            SecretContents::Tls { certificate, ca }
        }
        (None, Some(ca)) => SecretContents::Ca(ca),
        (None, None) => SecretContents::Other,
    };
    Secret { kind: raw.kind.clone(), keys: raw.values.keys().cloned().collect(), contents }
}
