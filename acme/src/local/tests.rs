use rustls_pki_types::{ServerName, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_parser::extensions::ParsedExtension;

use super::*;

const NOW: i64 = 1_800_000_000;
const DAY: Duration = Duration::from_secs(86_400);

fn order(names: &[Box<str>]) -> Order<'_> {
    Order {
        dns_names: names,
        addresses: &[],
        common_name: None,
        is_ca: false,
        key: OrderKey::New(KeyAlgorithm::EcdsaP256),
        duration: 90 * DAY,
        now: NOW,
    }
}

fn names(names: &[&str]) -> Vec<Box<str>> {
    names.iter().map(|name| (*name).into()).collect()
}

fn ders(pem: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).map(Result::unwrap).collect()
}

fn ca_order<'a>(common_name: &'a str, key: KeyAlgorithm) -> Order<'a> {
    Order { common_name: Some(common_name), is_ca: true, key: OrderKey::New(key), ..order(&[]) }
}

fn signer(made: &Made) -> Signer {
    Signer::from_pem(&made.chain_pem, &made.key_pem).unwrap()
}

/// Verifies a chain as rustls does, at a moment, for a name.
fn verify(root: &Made, chain: &str, name: &str, at: i64) -> Result<(), webpki::Error> {
    let root = ders(&root.chain_pem).remove(0);
    let anchors = [anchor_from_trusted_cert(&root).unwrap()];
    let chain = ders(chain);
    let leaf = EndEntityCert::try_from(&chain[0])?;
    let at = UnixTime::since_unix_epoch(Duration::from_secs(at as u64));
    for usage in [KeyUsage::server_auth(), KeyUsage::client_auth()] {
        leaf.verify_for_usage(webpki::ALL_VERIFICATION_ALGS, &anchors, &chain[1..], at, usage, None, None)?;
    }
    leaf.verify_is_valid_for_subject_name(&ServerName::try_from(name).unwrap())
}

#[test]
fn every_key_algorithm_signs_and_is_signed() {
    let root = internal_ca("Test CA", 3650 * DAY, NOW).unwrap();
    for algorithm in [
        KeyAlgorithm::EcdsaP256,
        KeyAlgorithm::EcdsaP384,
        KeyAlgorithm::Ed25519,
        KeyAlgorithm::Rsa(2048),
        KeyAlgorithm::Rsa(3072),
    ] {
        let middle = signed_by(&ca_order("Middle CA", algorithm), &signer(&root)).unwrap();
        let hosts = names(&["a.example", "*.b.example"]);
        let leaf = signed_by(&Order { key: OrderKey::New(algorithm), ..order(&hosts) }, &signer(&middle)).unwrap();
        assert_eq!(ders(&leaf.chain_pem).len(), 2, "{algorithm:?}: leaf and intermediate, without the root");
        for name in ["a.example", "x.b.example"] {
            verify(&root, &leaf.chain_pem, name, NOW).unwrap_or_else(|error| panic!("{algorithm:?} {name}: {error}"));
        }
        assert!(verify(&root, &leaf.chain_pem, "c.example", NOW).is_err());
        assert!(verify(&root, &leaf.chain_pem, "a.example", NOW + 91 * 86_400).is_err());
        assert!(verify(&root, &leaf.chain_pem, "a.example", NOW - 3601).is_err());
        assert_eq!(inspect(&leaf.chain_pem).unwrap(), (leaf.validity, leaf.key_id.clone()));
        assert_eq!(leaf.signer, middle.key_id);
    }
    assert!(matches!(
        self_signed(&Order { key: OrderKey::New(KeyAlgorithm::Rsa(1024)), ..order(&names(&["a"])) }),
        Err(LocalError::RsaSize(1024))
    ));
}

#[test]
fn the_profile_of_rfc_5280() {
    let root = internal_ca("Test CA", 3650 * DAY, NOW).unwrap();
    let leaf = signed_by(&order(&names(&["a.example"])), &signer(&root)).unwrap();
    let self_made = self_signed(&order(&names(&["a.example"]))).unwrap();
    for (made, is_ca, keys) in [(&root, true, 3), (&leaf, false, 1), (&self_made, false, 1)] {
        let der = ders(&made.chain_pem).remove(0);
        let (rest, parsed) = X509Certificate::from_der(&der).unwrap();
        assert!(rest.is_empty());
        assert_eq!(parsed.version().0, 2);
        let serial = parsed.raw_serial();
        assert!(serial.len() == 16 && serial[0] & 0xc0 == 0x40, "{serial:02x?}");
        let constraints = parsed.basic_constraints().unwrap().unwrap();
        assert!(constraints.critical && constraints.value.ca == is_ca);
        let usage = parsed.key_usage().unwrap().unwrap();
        assert!(usage.critical && usage.value.flags.count_ones() == keys);
        assert_eq!(usage.value.key_cert_sign(), is_ca);
        let has = |wanted: fn(&ParsedExtension<'_>) -> bool| {
            parsed.extensions().iter().any(|extension| wanted(extension.parsed_extension()))
        };
        assert!(has(|extension| matches!(extension, ParsedExtension::SubjectKeyIdentifier(_))));
        assert!(has(|extension| matches!(extension, ParsedExtension::AuthorityKeyIdentifier(_))));
        assert_eq!(has(|extension| matches!(extension, ParsedExtension::ExtendedKeyUsage(_))), !is_ca);
    }
    let serials: std::collections::BTreeSet<Vec<u8>> = [&root, &leaf, &self_made]
        .iter()
        .map(|made| X509Certificate::from_der(&ders(&made.chain_pem)[0]).unwrap().1.raw_serial().to_vec())
        .collect();
    assert_eq!(serials.len(), 3);
}

#[test]
fn orders_that_are_refused() {
    let long = "x".repeat(65);
    let many: Vec<Box<str>> = (0..1001).map(|n| format!("h{n}.example").into()).collect();
    for (hosts, common_name, is_ca, text) in [
        (names(&["UPPER.example"]), None, false, "dns name \"UPPER.example\" has a character"),
        (names(&["a..b"]), None, false, "has an empty label"),
        (names(&["192.0.2.1"]), None, false, "is an IP address"),
        (names(&["a.*.b"]), None, false, "has '*' in a place"),
        (names(&["*"]), None, false, "has '*' in a place"),
        (names(&[""]), None, false, "is empty"),
        (names(&["b\u{fc}ro.example"]), None, false, "has a character"),
        (vec![], None, false, "has neither dns names nor a common name"),
        (vec![], None, true, "has neither dns names nor a common name"),
        (vec![], Some(long.as_str()), false, "longer than 64"),
        (many, None, false, "1001 dns names"),
    ] {
        let order = Order { common_name, is_ca, ..order(&hosts) };
        let error = self_signed(&order).unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    }
    let hosts = names(&["a.example"]);
    for (duration, now, text) in
        [(Duration::ZERO, NOW, "shorter than a second"), (Duration::MAX, NOW, "9999"), (DAY, i64::MIN, "1950")]
    {
        let error = self_signed(&Order { duration, now, ..order(&hosts) }).unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    }
    let error = self_signed(&Order { key: OrderKey::Keep("no key"), ..order(&hosts) }).unwrap_err();
    assert!(matches!(error, LocalError::Key(_)));
}

#[test]
fn cas_that_cannot_sign() {
    let leaf = self_signed(&order(&names(&["a.example"]))).unwrap();
    assert!(matches!(Signer::from_pem(&leaf.chain_pem, &leaf.key_pem), Err(LocalError::NotACa)));
    let ca = internal_ca("A", 10 * DAY, NOW).unwrap();
    assert!(matches!(Signer::from_pem(&ca.chain_pem, &leaf.key_pem), Err(LocalError::KeyMismatch)));
    assert!(matches!(Signer::from_pem("", &ca.key_pem), Err(LocalError::CaMalformed(_))));
    assert!(matches!(Signer::from_pem(&ca.chain_pem, ""), Err(LocalError::Key(_))));
    let late = Order { now: NOW + 11 * 86_400, ..order(&[]) };
    let late = Order { common_name: Some("x"), ..late };
    assert!(matches!(signed_by(&late, &signer(&ca)), Err(LocalError::CaEnded(_))));
}

#[test]
fn a_path_length_is_counted_down() {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Foreign");
    params.distinguished_name.push(DnType::CommonName, "Foreign CA");
    params.not_before = moment(NOW - 100).unwrap();
    params.not_after = moment(NOW + 30 * 86_400).unwrap();
    let foreign = params.self_signed(&key).unwrap();
    let foreign = Signer::from_pem(&foreign.pem(), &key.serialize_pem()).unwrap();
    let below = signed_by(&ca_order("one", KeyAlgorithm::EcdsaP256), &foreign).unwrap();
    // Never longer than the CA, never earlier.
    assert_eq!(below.validity, Validity { not_before: NOW - 100, not_after: NOW + 30 * 86_400 });
    let error = signed_by(&ca_order("two", KeyAlgorithm::EcdsaP256), &signer(&below)).unwrap_err();
    assert!(matches!(error, LocalError::PathLength(0)));
    assert!(signed_by(&order(&names(&["a.example"])), &signer(&below)).is_ok());
}

#[test]
fn a_ca_without_the_right_to_sign_is_refused() {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let ca = params.self_signed(&key).unwrap();
    assert!(matches!(Signer::from_pem(&ca.pem(), &key.serialize_pem()), Err(LocalError::KeyUsage)));
}

#[test]
fn a_renewed_ca_with_its_key_keeps_old_leaves_valid() {
    let old = internal_ca("Test CA", 3650 * DAY, NOW).unwrap();
    let leaf = signed_by(&order(&names(&["a.example"])), &signer(&old)).unwrap();
    let renewal =
        Order { key: OrderKey::Keep(&old.key_pem), now: NOW + 1000, ..ca_order("Test CA", KeyAlgorithm::EcdsaP256) };
    let new = self_signed(&renewal).unwrap();
    assert_eq!(new.key_id, old.key_id);
    verify(&new, &leaf.chain_pem, "a.example", NOW + 2000).unwrap();
}

#[test]
fn no_key_is_printed() {
    let made = internal_ca("Test CA", 3650 * DAY, NOW).unwrap();
    let secret = made.key_pem.lines().nth(1).unwrap();
    let order = Order { key: OrderKey::Keep(&made.key_pem), ..order(&[]) };
    for text in [format!("{made:?}"), format!("{order:?}"), format!("{:?}", signer(&made))] {
        assert!(!text.contains(secret) && !text.contains("PRIVATE"), "{text}");
    }
}
