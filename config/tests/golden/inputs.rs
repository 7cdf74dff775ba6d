//! Reads a case as a source would, with stand-ins for certificates.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use edge_config::core::{
    CaBundle, CertificateFacts, ConfigMap, KeyAlgorithm, RawSecret, RevocationLists, Secret, SecretContents,
    value_faults,
};
use edge_config::edge_toml;
use edge_config::inputs::{Created, Inputs, Meta, Object};
use edge_config::issuer::CertManager;
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
        // `cluster*.yaml` is what an API server would serve: it has no lines.
        let is_served = file.starts_with("cluster");
        for document in yaml::split(&text) {
            let place = Place { file: Arc::clone(&file), line_offset: document.line_offset };
            for item in decode_document(document.text, &place, &"default".into(), &[]) {
                problems.extend(item.problems);
                let served = |meta: &mut Meta| meta.origin.line = if is_served { 0 } else { meta.origin.line };
                match item.outcome {
                    // As a source has it where there was no good version.
                    Outcome::Ready(mut object) | Outcome::Closed(mut object) => {
                        let mut origin = object.meta().origin.clone();
                        origin.line = if is_served { 0 } else { origin.line };
                        object.moved_to(origin);
                        object.insert(&mut inputs);
                    }
                    Outcome::Secret(raw) => {
                        let spec = secret(&raw.spec);
                        let mut meta = raw.meta;
                        served(&mut meta);
                        AnyObject::Secret(Arc::new(Object { meta, spec })).insert(&mut inputs);
                    }
                    Outcome::ConfigMap(raw) => {
                        let ca = raw.spec.values.get("ca.crt").map(|value| bundle(value));
                        let crl = raw.spec.values.get("ca.crl").map(|value| lists(value));
                        let spec = ConfigMap::new(&raw.spec.values, ca, crl);
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
    // `cert-manager.txt`: it runs, and says `gateways` where it makes Certificates for them, too.
    inputs.cert_manager = fs::read_to_string(case.join("cert-manager.txt"))
        .ok()
        .map(|text| CertManager { gateways: text.trim() == "gateways" });
    created(&mut inputs);
    Case { inputs, problems }
}

/// Files have no creation time; cases that need one write it as an annotation.
fn created(inputs: &mut Inputs) {
    macro_rules! set {
        ($($field:ident),*) => {$(
            for object in inputs.$field.values_mut() {
                if let Some(created) = object.meta.annotations.get("test/created").cloned() {
                    Arc::make_mut(object).meta.created = Some(Created::parse(&created).expect("a time"));
                }
            }
        )*};
    }
    set!(services, gateways, listener_sets, http_routes, grpc_routes, tls_routes, tcp_routes, udp_routes);
    set!(backend_tls_policies, client_traffic_policies, backend_traffic_policies, address_pools);
    set!(bgp_peers, communities, upstream_settings_policies, security_policies, authentication_filters);
    set!(client_settings_policies, proxy_settings_policies);
}

fn bundle(value: &[u8]) -> CaBundle {
    match String::from_utf8_lossy(value).trim() {
        text if text.starts_with("good") => CaBundle(Ok(vec![value.into()])),
        other => CaBundle(Err(other.to_owned())),
    }
}

fn lists(value: &[u8]) -> RevocationLists {
    RevocationLists(bundle(value).0)
}

fn secret(raw: &RawSecret) -> Secret {
    let ca = raw.values.get("ca.crt").map(|value| bundle(value));
    let contents = match (raw.values.get("tls.crt"), ca) {
        (Some(certificate), ca) => {
            let text = String::from_utf8_lossy(certificate).trim().to_owned();
            // `good for NAME,NAME by ISSUER`
            let words = |after: &str| {
                let mut words = text.split(' ').skip_while(move |word| *word != after).skip(1);
                words.next().into_iter().flat_map(|list| list.split(','))
            };
            let facts = CertificateFacts {
                dns_names: words("for").filter(|name| name.parse::<IpAddr>().is_err()).map(Into::into).collect(),
                ip_addresses: words("for").filter_map(|address| address.parse().ok()).collect(),
                not_before: 0,
                not_after: 0,
                issuer: words("by").next().unwrap_or("test").into(),
                key_algorithm: KeyAlgorithm::EcdsaP256,
                sha256: String::new(),
                is_ca: text.starts_with("good ca"),
                is_self_signed: text.contains("self-signed"),
                chain_length: 1,
            };
            let certificate = if text.starts_with("good") { Ok(facts) } else { Err(text) };
            SecretContents::Tls { certificate, ca }
        }
        (None, Some(ca)) => SecretContents::Ca(ca),
        (None, None) => SecretContents::Other,
    };
    let faults = value_faults(&raw.kind, raw.values.iter().map(|(key, value)| (key, value.as_slice())));
    let crl = raw.values.get("ca.crl").map(|value| lists(value));
    Secret { kind: raw.kind.clone(), keys: raw.values.keys().cloned().collect(), contents, crl, faults }
}
