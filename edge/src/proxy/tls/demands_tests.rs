use edge_config::policy::Revocation;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, IsCa, Issuer, KeyIdMethod, KeyPair,
    KeyUsagePurpose, OtherNameValue, RevokedCertParams, SanType, SerialNumber,
};
use rustls::pki_types::CertificateDer;
use rustls::server::danger::ClientCertVerifier as _;
use time::OffsetDateTime;

use super::*;
use crate::proxy::tls::install_provider;
use crate::proxy::tls::trust::TrustStore;
use crate::proxy::tls::verify::{ClientMode, ClientVerifier, explain};

struct Ca {
    issuer: Issuer<'static, KeyPair>,
    der: Arc<[u8]>,
}

fn days(count: i64) -> OffsetDateTime {
    OffsetDateTime::now_utc() + time::Duration::days(count)
}

impl Ca {
    fn new(name: &str, above: Option<&Self>) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(SerialNumber::from(77));
        let key = KeyPair::generate().unwrap();
        let certificate = match above {
            Some(above) => params.signed_by(&key, &above.issuer).unwrap(),
            None => params.self_signed(&key).unwrap(),
        };
        Self { der: certificate.der().as_ref().into(), issuer: Issuer::new(params, key) }
    }

    fn client(&self, change: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = days(-30);
        params.serial_number = Some(SerialNumber::from(42));
        change(&mut params);
        params.signed_by(&KeyPair::generate().unwrap(), &self.issuer).unwrap().der().clone()
    }

    fn revokes(&self, serial: u64, until: OffsetDateTime) -> Arc<[u8]> {
        let params = CertificateRevocationListParams {
            this_update: days(-20),
            next_update: until,
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: vec![RevokedCertParams {
                serial_number: SerialNumber::from(serial),
                revocation_time: days(-10),
                reason_code: None,
                invalidity_date: None,
            }],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().der().as_ref().into()
    }
}

fn judge(ca: &Ca, demands: CertificateDemands, chain: &[CertificateDer<'_>]) -> Result<(), String> {
    install_provider();
    let (trust, reasons) = TrustStore::new(std::slice::from_ref(&ca.der));
    assert_eq!(reasons, Vec::<String>::new());
    let prepared = Prepared::new(&Arc::new(demands)).unwrap();
    let verifier = ClientVerifier::new(Arc::new(trust), ClientMode::Required, Some(prepared));
    let now = UnixTime::now();
    verifier.verify_client_cert(&chain[0], &chain[1..], now).map(drop).map_err(|error| explain(&error))
}

fn text(text: &str) -> TextMatch {
    TextMatch::Exact(text.into())
}

#[test]
fn a_certificate_or_its_key_is_named() {
    let ca = Ca::new("ca", None);
    let (mine, other) = (ca.client(|_| {}), ca.client(|_| {}));
    let key = |der: &[u8]| sha256(X509Certificate::from_der(der).unwrap().1.public_key().raw);
    let only = |certificates: &[Sha256], keys: &[Sha256]| CertificateDemands {
        certificates: certificates.to_vec(),
        keys: keys.to_vec(),
        ..CertificateDemands::default()
    };
    for (demands, accepted) in [
        (only(&[sha256(&mine)], &[]), true),
        (only(&[], &[key(&mine)]), true),
        (only(&[sha256(&other), sha256(&mine)], &[]), true),
        // One of both lists is enough.
        (only(&[sha256(&other)], &[key(&mine)]), true),
        (only(&[sha256(&other)], &[]), false),
        (only(&[], &[key(&other)]), false),
        (only(&[key(&mine)], &[sha256(&mine)]), false),
    ] {
        let judged = judge(&ca, demands.clone(), std::slice::from_ref(&mine));
        assert_eq!(judged.is_ok(), accepted, "{demands:?}: {judged:?}");
    }
    // It does not replace the chain.
    let judged = judge(&Ca::new("other", None), only(&[sha256(&mine)], &[]), &[mine]);
    assert!(judged.unwrap_err().contains("not signed by a trusted CA"));
}

#[test]
fn names() {
    let ca = Ca::new("ca", None);
    let upn = vec![1, 3, 6, 1, 4, 1, 311, 20, 2, 3];
    let client = ca.client(|params| {
        params.subject_alt_names = vec![
            SanType::DnsName("Api.Example".try_into().unwrap()),
            SanType::DnsName("*.wild.example".try_into().unwrap()),
            SanType::Rfc822Name("me@corp.example".try_into().unwrap()),
            SanType::IpAddress("192.0.2.7".parse().unwrap()),
            SanType::IpAddress("2001:db8::7".parse().unwrap()),
            SanType::URI("spiffe://corp.example/ns/a".try_into().unwrap()),
            SanType::OtherName((upn, OtherNameValue::Utf8String("user@corp".into()))),
        ];
    });
    let upn = || NameKind::Other("1.3.6.1.4.1.311.20.2.3".into());
    for (kind, matched, accepted) in [
        (NameKind::Dns, text("api.example"), true),
        (NameKind::Dns, text("other.example"), false),
        (NameKind::Dns, TextMatch::Suffix(".example".into()), true),
        (NameKind::Dns, text("x.wild.example"), true),
        (NameKind::Dns, text("y.x.wild.example"), false),
        (NameKind::Dns, text("wild.example"), false),
        (NameKind::Email, text("me@corp.example"), true),
        (NameKind::Email, text("you@corp.example"), false),
        (NameKind::Ip, text("192.0.2.7"), true),
        (NameKind::Ip, text("2001:db8::7"), true),
        (NameKind::Ip, text("192.0.2.8"), false),
        (NameKind::Uri, TextMatch::Prefix("spiffe://corp.example/".into()), true),
        (NameKind::Uri, TextMatch::regex("spiffe://corp.example/ns/[b-z]").unwrap(), false),
        (upn(), text("user@corp"), true),
        (upn(), text("root@corp"), false),
        (NameKind::Other("1.2.3".into()), text("user@corp"), false),
        // Of the kind that was asked for.
        (NameKind::Uri, text("api.example"), false),
    ] {
        let demand = NameDemand { kind, text: matched };
        let demands = CertificateDemands { names: vec![demand.clone()], ..CertificateDemands::default() };
        let judged = judge(&ca, demands, std::slice::from_ref(&client));
        assert_eq!(judged.is_ok(), accepted, "{demand:?}: {judged:?}");
    }
    let nameless = ca.client(|_| {});
    let demands = CertificateDemands {
        names: vec![NameDemand { kind: NameKind::Dns, text: TextMatch::Prefix("".into()) }],
        ..CertificateDemands::default()
    };
    assert!(judge(&ca, demands, &[nameless]).unwrap_err().contains("no name in the certificate"));
}

#[test]
fn what_is_revoked_stays_outside() {
    let root = Ca::new("root", None);
    let middle = Ca::new("middle", Some(&root));
    let client = middle.client(|_| {});
    let chain = [client, CertificateDer::from(middle.der.to_vec())];
    let fresh = days(10);
    for (lists, leaf_only, expected) in [
        (vec![middle.revokes(1, fresh), root.revokes(1, fresh)], false, Ok(())),
        (vec![middle.revokes(42, fresh), root.revokes(1, fresh)], false, Err("is revoked")),
        (vec![middle.revokes(1, fresh), root.revokes(77, fresh)], false, Err("is revoked")),
        (vec![middle.revokes(1, fresh), root.revokes(77, fresh)], true, Ok(())),
        (vec![middle.revokes(1, fresh)], false, Err("no revocation list")),
        (vec![middle.revokes(1, fresh)], true, Ok(())),
        (vec![root.revokes(1, fresh)], true, Err("no revocation list")),
        (vec![middle.revokes(1, days(-1))], true, Err("out of date")),
    ] {
        let revocation = Some(Revocation { source: "test".into(), lists, leaf_only });
        let demands = CertificateDemands { revocation, ..CertificateDemands::default() };
        match (judge(&root, demands, &chain), expected) {
            (Ok(()), Ok(())) => {}
            (Err(found), Err(expected)) => assert!(found.contains(expected), "{found}, expected {expected}"),
            (found, expected) => panic!("{found:?}, expected {expected:?}"),
        }
    }
    let garbage = Some(Revocation { source: "test".into(), lists: vec![Arc::from(&b"x"[..])], leaf_only: true });
    let demands = CertificateDemands { revocation: garbage, ..CertificateDemands::default() };
    assert!(Prepared::new(&Arc::new(demands)).unwrap_err().contains("revocation list 1"));
}

#[test]
fn expired_certificates_where_they_are_allowed() {
    let (ca, stranger) = (Ca::new("ca", None), Ca::new("stranger", None));
    let expired = ca.client(|params| params.not_after = days(-5));
    let early = ca.client(|params| params.not_before = days(5));
    let foreign = stranger.client(|params| params.not_after = days(-5));
    let demands = |allows_expired, list: Option<Arc<[u8]>>| CertificateDemands {
        allows_expired,
        revocation: list.map(|list| Revocation { source: "test".into(), lists: vec![list], leaf_only: true }),
        ..CertificateDemands::default()
    };
    for (certificate, demands, expected) in [
        (&expired, demands(false, None), Err("has expired")),
        (&expired, demands(true, None), Ok(())),
        (&early, demands(true, None), Err("not valid yet")),
        (&foreign, demands(true, None), Err("not signed by a trusted CA")),
        (&expired, demands(true, Some(ca.revokes(1, days(3)))), Ok(())),
        (&expired, demands(true, Some(ca.revokes(42, days(3)))), Err("is revoked")),
        // The list was good when the certificate ended; now it says nothing.
        (&expired, demands(true, Some(ca.revokes(1, days(-1)))), Err("has expired")),
    ] {
        match (judge(&ca, demands, std::slice::from_ref(certificate)), expected) {
            (Ok(()), Ok(())) => {}
            (Err(found), Err(expected)) => assert!(found.contains(expected), "{found}, expected {expected}"),
            (found, expected) => panic!("{found:?}, expected {expected:?}"),
        }
    }
}
