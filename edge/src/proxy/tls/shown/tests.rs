use std::sync::Arc;

use edge_config::names::{HostPattern, Kind, ObjectKey};
use edge_config::policy::ClientRules;
use edge_config::snapshot::{Terminate, TrustId};

use super::*;

const ALL: CertificateDetails =
    CertificateDetails { subject: true, certificate: true, chain: true, dns: true, uri: true };

fn certificate(change: impl FnOnce(&mut rcgen::CertificateParams)) -> CertificateDer<'static> {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    change(&mut params);
    params.self_signed(&key).unwrap().der().clone()
}

fn named(names: &[rcgen::SanType], subject: &[(rcgen::DnType, &str)]) -> CertificateDer<'static> {
    certificate(|params| {
        params.subject_alt_names = names.to_vec();
        for (kind, value) in subject {
            params.distinguished_name.push(kind.clone(), *value);
        }
    })
}

fn text(chain: &[CertificateDer<'_>], details: CertificateDetails) -> String {
    String::from_utf8(element::element(chain, details).unwrap().into_vec()).unwrap()
}

/// Behind the digest, which is of the DER.
fn behind(chain: &[CertificateDer<'_>], details: CertificateDetails) -> String {
    let text = text(chain, details);
    let digest = format!("Hash={}", crate::proxy::tls::demands::sha256(&chain[0]));
    assert_eq!(digest.len(), 69);
    text.strip_prefix(&digest).unwrap_or_else(|| panic!("{text}")).to_owned()
}

fn dns(name: &str) -> rcgen::SanType {
    rcgen::SanType::DnsName(name.try_into().unwrap())
}

fn uri(name: &str) -> rcgen::SanType {
    rcgen::SanType::URI(name.try_into().unwrap())
}

#[test]
fn what_is_told() {
    use rcgen::DnType::{CommonName, CountryName, OrganizationName};
    let subject = [(CountryName, "US"), (OrganizationName, "Example Corp"), (CommonName, "client")];
    let plain = [named(&[dns("a.example"), uri("spiffe://x/y"), dns("b.example")], &subject)];
    let names = CertificateDetails { dns: true, uri: true, ..Default::default() };
    let only_subject = CertificateDetails { subject: true, ..Default::default() };
    assert_eq!(behind(&plain, CertificateDetails::default()), "");
    assert_eq!(behind(&plain, names), ";URI=spiffe://x/y;DNS=a.example;DNS=b.example");
    assert_eq!(behind(&plain, only_subject), ";Subject=\"CN=client,O=Example Corp,C=US\"");
    assert_eq!(behind(&[named(&[], &[])], CertificateDetails { subject: true, ..names }), ";Subject=\"\";URI=");
    for (value, expected) in [
        ("a,b+c", r"a\,b\+c"),
        ("a\";Hash=00", r#"a\"\;Hash=00"#),
        (r"end\", r"end\\"),
        (" #x ", r"\ #x\ "),
        ("#x", r"\#x"),
        ("<é>\r\n", r"\<\C3\A9\>\0D\0A"),
    ] {
        let shown = behind(&[named(&[], &[(CommonName, value)])], only_subject);
        assert_eq!(shown, format!(";Subject=\"CN={expected}\""), "{value:?}");
    }
}

#[test]
fn a_name_cannot_say_more_than_its_value() {
    let names = CertificateDetails { dns: true, uri: true, ..Default::default() };
    for (name, expected) in [
        (uri("https://x/?a=b"), r#";URI="https://x/?a=b""#),
        (uri("spiffe://x;URI=spiffe://admin"), r#";URI="spiffe://x;URI=spiffe://admin""#),
        (uri("x,Hash=1"), r#";URI="x,Hash=1""#),
        (uri(r#"x"y\"#), r#";URI="x\"y\\""#),
        (dns("a;DNS=b"), r#";URI=;DNS="a;DNS=b""#),
        // Not told at all.
        (dns("a\r\nx: y"), ";URI="),
        (uri("a b"), ";URI="),
    ] {
        assert_eq!(behind(&[named(std::slice::from_ref(&name), &[])], names), expected, "{name:?}");
    }
}

#[test]
fn certificates_are_told_in_pem() {
    let (leaf, above) = (named(&[], &[]), named(&[dns("ca")], &[]));
    let chain = [leaf.clone(), above.clone()];
    let encoded = |der: &[u8]| {
        use base64::Engine as _;
        let text = base64::engine::general_purpose::STANDARD.encode(der);
        let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
            .replace('\n', "%0A")
            .replace(' ', "%20")
            .replace('+', "%2B")
            .replace('/', "%2F")
            .replace('=', "%3D")
    };
    let told = behind(&chain, CertificateDetails { certificate: true, chain: true, ..Default::default() });
    let (one, two) = (encoded(&leaf), encoded(&above));
    assert_eq!(told, format!(";Cert=\"{one}\";Chain=\"{one}{two}\""));
    let many = vec![leaf.clone(); 200];
    assert!(element::element(&many, ALL).is_err());
    assert!(element::element(&many, CertificateDetails { chain: false, ..ALL }).is_ok());
    // A certificate that nobody looked at.
    let garbage = CertificateDer::from(b"nonsense".to_vec());
    assert!(text(&[garbage], ALL).ends_with(";Subject=\"\";URI="));
}

fn listener(name: &str, validation: ClientValidation, field: Option<CertificateField>) -> Listener {
    let rules = ClientRules { certificate: field, ..ClientRules::default() };
    let client = ClientSettings { rules: rules.or_none(), ..ClientSettings::default() };
    let tls = Terminate { certificates: Vec::new(), client_validation: validation, demands: None, parameters: None };
    Listener {
        parent: ObjectRef::new(Kind::Gateway, ObjectKey::new("default", "gateway")),
        name: name.into(),
        port: 443,
        hostname: HostPattern::Any,
        policy: None,
        client,
        serve: ListenerServe::Https { tls, routes: Default::default() },
    }
}

#[test]
fn what_a_listener_asks_for_now_counts() {
    let trust = TrustId(0);
    let (off, required) = (ClientValidation::Off, ClientValidation::Required { trust });
    let (any, given) = (ClientValidation::Any { trust }, ClientValidation::IfGiven { trust });
    let requested = ClientValidation::Requested { trust };
    let chain = Arc::new(vec![named(&[], &[])]);
    let set = |details| Some(CertificateField::Set(details));
    let subject = CertificateDetails { subject: true, ..Default::default() };
    for (made_at, has_certificate, now_at, enough) in [
        (("a", off, None), false, ("a", off, None), true),
        (("a", off, None), false, ("a", given, None), true),
        (("a", off, None), false, ("a", required, None), false),
        (("a", off, None), false, ("a", any, None), false),
        (("a", required, None), true, ("a", required, None), true),
        (("a", required, None), true, ("a", any, None), true),
        (("a", required, None), true, ("b", required, None), false),
        (("a", required, None), true, ("b", off, None), true),
        (("a", required, None), true, ("b", given, None), false),
        // What nobody has verified is not verified later.
        (("a", any, None), true, ("a", required, None), false),
        (("a", requested, None), true, ("a", given, None), false),
        (("a", requested, None), true, ("a", any, None), true),
        (("a", requested, None), false, ("a", given, None), true),
        (("a", given, None), false, ("a", given, None), true),
        (("a", given, None), false, ("a", required, None), false),
        // Something else is to be told.
        (("a", required, set(subject)), true, ("a", required, set(subject)), true),
        (("a", required, set(subject)), true, ("a", required, set(ALL)), false),
        (("a", required, None), true, ("a", required, set(subject)), false),
        (("a", required, set(subject)), true, ("a", required, None), true),
        (("a", given, None), false, ("a", given, set(subject)), true),
    ] {
        let before = listener(made_at.0, made_at.1, made_at.2);
        let shown: &[CertificateDer<'_>] = if has_certificate { &chain } else { &[] };
        let shown = Asked::of(&before, made_at.1).map(|asked| asked.answered(shown).unwrap());
        let now = listener(now_at.0, now_at.1, now_at.2);
        assert_eq!(meets(shown.as_ref(), &now), enough, "{made_at:?} {has_certificate} {now_at:?}");
    }
}
