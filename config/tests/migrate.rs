//! Golden cases of migrations: `migrate/<product>/<case>/in/` is what is migrated; what comes out (`out/`), the notes
//! (`notes.txt`) and what Edge makes of the output (`effect.txt`: its findings, the addresses of every object, what is announced) are
//! compared, and so are the outcomes in `requests.txt`. `UPDATE=1` writes them anew; they are read by eye.
//!
//! The output must be accepted: an error of the parser or of `compile` fails the case, but for SecurityPolicies, which
//! are there to keep closed what was closed.

#![allow(clippy::disallowed_methods, reason = "a test runner reads its cases")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a case that cannot be read is a failure of the test")]

#[path = "golden/announce.rs"]
mod announce;
#[path = "golden/print.rs"]
#[allow(dead_code, reason = "shared with other tests")]
mod print;
#[path = "golden/request.rs"]
mod request;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use edge_config::Compiled;
use edge_config::core::{CertificateFacts, ConfigMap, KeyAlgorithm, Secret, SecretContents};
use edge_config::edge_toml;
use edge_config::inputs::{Inputs, Meta, Object};
use edge_config::manifest::{AnyObject, Outcome, Place, decode_document};
use edge_config::migrate::{Migration, Product, Source, migrate};
use edge_config::problem::{Origin, Problem, Severity};
use edge_config::yaml;

fn entries(path: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found
}

#[test]
fn golden_cases() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/migrate");
    let only = std::env::var("CASE").unwrap_or_default();
    let mut wrong = Vec::new();
    for product in entries(&root) {
        let name = product.file_name().unwrap().to_string_lossy().into_owned();
        let kind = Product::named(&name).unwrap_or_else(|| panic!("{name} is no product"));
        for case in entries(&product).iter().filter(|case| only.is_empty() || case.ends_with(&only)) {
            run(kind, case, &mut wrong);
        }
    }
    assert!(wrong.is_empty(), "{} differ; UPDATE=1 rewrites them\n\n{}", wrong.len(), wrong.join("\n"));
}

fn run(product: Product, case: &Path, wrong: &mut Vec<String>) {
    let read = |path: &PathBuf| Source {
        file: path.file_name().unwrap().to_string_lossy().as_ref().into(),
        text: fs::read_to_string(path).unwrap(),
    };
    let sources: Vec<Source> = entries(&case.join("in")).iter().map(read).collect();
    let migration = migrate(product, &sources);
    for source in &sources {
        for line in source.text.lines().filter(|line| line.contains("never printed") || line.contains("never-printed"))
        {
            let secret = line.split_once(':').map_or(line, |(_, value)| value).trim().trim_matches('"');
            assert!(!format!("{migration:?}").contains(secret), "{}: {secret:?} is printed", case.display());
        }
    }
    let update = std::env::var_os("UPDATE").is_some();
    let mut expect = |path: PathBuf, actual: &str| {
        let expected = fs::read_to_string(&path).unwrap_or_default();
        if expected != actual {
            if update {
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(&path, actual).unwrap();
            } else {
                wrong.push(format!("{}:\n{}", path.display(), difference(&expected, actual)));
            }
        }
    };
    for file in &migration.files {
        expect(case.join("out").join(&file.path), &file.text);
    }
    let notes: Vec<String> = migration.notes.iter().map(|note| format!("{note}\n")).collect();
    expect(case.join("notes.txt"), &notes.concat());
    let (compiled, problems) = accepted(&migration, case);
    let mut effect = String::new();
    for problem in &problems {
        effect.push_str(&format!("{problem}\n"));
    }
    for (object, addresses) in &compiled.assigned {
        let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        effect.push_str(&format!("{object} has {}\n", addresses.join(", ")));
    }
    announce::text(&mut effect, &compiled.snapshot.announce);
    expect(case.join("effect.txt"), &effect);
    if let Ok(table) = fs::read_to_string(case.join("requests.txt")) {
        expect(case.join("requests.txt"), &request::table(&table, &compiled));
    }
    let known: Vec<&str> = migration.files.iter().map(|file| file.path.as_str()).collect();
    for path in entries(&case.join("out"))
        .iter()
        .flat_map(|path| if path.is_dir() { entries(path) } else { vec![path.clone()] })
    {
        let name = path.strip_prefix(case.join("out")).unwrap().to_string_lossy().into_owned();
        assert!(known.contains(&name.as_str()), "{} is not written any longer", path.display());
    }
}

/// What Edge makes of the output.
fn accepted(migration: &Migration, case: &Path) -> (Compiled, Vec<Problem>) {
    let mut inputs = Inputs::default();
    let mut problems = Vec::new();
    for file in &migration.files {
        let name: Arc<str> = file.path.as_str().into();
        if file.path == "edge.toml" {
            match edge_toml::decode(&name, &file.text) {
                Ok(settings) => inputs.settings = Arc::new(settings),
                Err(faults) => panic!("{}: {faults:#?}\n{}", case.display(), file.text),
            }
            continue;
        }
        for document in yaml::split(&file.text) {
            let place = Place { file: Arc::clone(&name), line_offset: document.line_offset };
            for item in decode_document(document.text, &place, &"default".into(), &[]) {
                problems.extend(item.problems);
                match item.outcome {
                    Outcome::Ready(object) | Outcome::Closed(object) => object.insert(&mut inputs),
                    Outcome::ConfigMap(raw) => {
                        let spec = ConfigMap::new(&raw.spec.values, None, None);
                        AnyObject::ConfigMap(Arc::new(Object { meta: raw.meta, spec })).insert(&mut inputs);
                    }
                    Outcome::Secret(_) | Outcome::Broken | Outcome::Foreign => {}
                }
            }
        }
    }
    for source in inputs.settings.secrets.clone() {
        let origin = Origin { file: "edge.toml".into(), line: source.line, column: 1 };
        let meta = Meta {
            key: source.key,
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            generation: 1,
            created: None,
            origin,
        };
        AnyObject::Secret(Arc::new(Object { meta, spec: stand_in() })).insert(&mut inputs);
    }
    let peers: Vec<_> = inputs.bgp_peers.values().cloned().collect();
    for peer in peers {
        let Some(secret) = &peer.spec.password_secret else { continue };
        let mut meta = peer.meta.clone();
        let namespace = secret.namespace.as_deref().unwrap_or(&peer.meta.key.namespace);
        meta.key = edge_config::names::ObjectKey::new(namespace, secret.name.as_str());
        let kind = "kubernetes.io/basic-auth".into();
        let spec = Secret {
            kind,
            keys: vec!["password".into()],
            contents: SecretContents::Other,
            crl: None,
            faults: Default::default(),
        };
        AnyObject::Secret(Arc::new(Object { meta, spec })).insert(&mut inputs);
    }
    let compiled = edge_config::compile(&inputs);
    problems.extend(compiled.report.problems.iter().cloned());
    problems.sort();
    let is_closed = |problem: &Problem| problem.message.contains("SecurityPolicy is not acted on");
    let refused = problems.iter().find(|problem| problem.severity == Severity::Error && !is_closed(problem));
    assert!(refused.is_none(), "{}: not accepted: {}", case.display(), refused.unwrap());
    (compiled, problems)
}

/// The certificate that the reader is going to fill in.
fn stand_in() -> Secret {
    let facts = CertificateFacts {
        dns_names: Vec::new(),
        ip_addresses: Vec::new(),
        not_before: 0,
        not_after: 0,
        issuer: "test".into(),
        key_algorithm: KeyAlgorithm::EcdsaP256,
        sha256: String::new(),
        is_ca: false,
        is_self_signed: false,
        chain_length: 1,
    };
    Secret {
        kind: "kubernetes.io/tls".into(),
        keys: vec!["tls.crt".into(), "tls.key".into()],
        contents: SecretContents::Tls { certificate: Ok(facts), ca: None },
        crl: None,
        faults: Default::default(),
    }
}

fn difference(expected: &str, actual: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (expected.lines().collect(), actual.lines().collect());
    let lost = old.iter().filter(|line| !new.contains(line)).map(|line| format!("  - {line}\n"));
    let gained = new.iter().filter(|line| !old.contains(line)).map(|line| format!("  + {line}\n"));
    let text: String = lost.chain(gained).collect();
    if text.is_empty() { "  (the order of lines differs)\n".to_owned() } else { text }
}
