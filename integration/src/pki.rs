//! Certificates for tests: authorities made on the spot, and rustls configurations over PEM text.
//!
//! Flows in: names and PEM. Flows out: PEM and configurations. Call [`install_provider`] first in every program.

use std::io;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_RSA_SHA256, RevokedCertParams,
    RsaKeySize, SanType, SerialNumber,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use tokio_rustls::TlsAcceptor;

/// A certificate and its key, as PEM.
#[derive(Clone)]
pub struct Pair {
    pub certificate: String,
    pub key: String,
}

/// A certificate authority that lives as long as the test.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its own certificate, as PEM.
    pub certificate: String,
}

/// What a certificate of an [`Authority`] is for.
#[derive(Default)]
pub struct Leaf<'a> {
    /// DNS names and IP addresses.
    pub dns: &'a [&'a str],
    pub uri: &'a [&'a str],
    /// Days from now to the end; negative has expired.
    pub days: Option<i64>,
    pub client: bool,
    /// An RSA key of 2048 bits; otherwise ECDSA with P-256.
    pub rsa: bool,
    /// The subject; the common name is otherwise the first DNS name.
    pub common_name: Option<&'a str>,
    pub organisation: Option<&'a str>,
}

pub fn install_provider() {
    // A second call in the same program finds the provider of the first.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

impl Authority {
    pub fn new(common_name: &str) -> io::Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let certificate = params.self_signed(&key).map_err(io::Error::other)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), certificate })
    }

    pub fn sign(&self, leaf: &Leaf<'_>) -> io::Result<Pair> {
        let names: Vec<String> = leaf.dns.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).map_err(io::Error::other)?;
        params.distinguished_name = DistinguishedName::new();
        let common_name = leaf.common_name.or(leaf.dns.first().copied()).unwrap_or("client");
        params.distinguished_name.push(DnType::CommonName, common_name);
        if let Some(organisation) = leaf.organisation {
            params.distinguished_name.push(DnType::OrganizationName, organisation);
        }
        for uri in leaf.uri {
            params.subject_alt_names.push(SanType::URI((*uri).try_into().map_err(io::Error::other)?));
        }
        if let Some(days) = leaf.days {
            let now = std::time::SystemTime::now();
            let day = std::time::Duration::from_secs(86_400);
            let span = day * u32::try_from(days.unsigned_abs()).unwrap_or(u32::MAX);
            let end = if days < 0 { now - span } else { now + span };
            params.not_before = (end.min(now) - 30 * day).into();
            params.not_after = end.into();
        }
        params.extended_key_usages =
            vec![if leaf.client { ExtendedKeyUsagePurpose::ClientAuth } else { ExtendedKeyUsagePurpose::ServerAuth }];
        let key = match leaf.rsa {
            true => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048),
            false => KeyPair::generate(),
        };
        let key = key.map_err(io::Error::other)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(io::Error::other)?.pem();
        Ok(Pair { certificate, key: key.serialize_pem() })
    }
}

impl Authority {
    /// A list with the serial numbers of these certificates, as PEM, good for a week.
    pub fn revocations(&self, pairs: &[&Pair]) -> io::Result<String> {
        let now = std::time::SystemTime::now();
        let day = std::time::Duration::from_secs(86_400);
        let mut revoked_certs = Vec::new();
        for der in pairs.iter().map(|pair| certificates(&pair.certificate)).collect::<io::Result<Vec<_>>>()?.concat() {
            let (_, parsed) = x509_parser::parse_x509_certificate(&der).map_err(io::Error::other)?;
            revoked_certs.push(RevokedCertParams {
                serial_number: SerialNumber::from_slice(parsed.raw_serial()),
                revocation_time: (now - day).into(),
                reason_code: None,
                invalidity_date: None,
            });
        }
        let params = CertificateRevocationListParams {
            this_update: (now - day).into(),
            next_update: (now + 7 * day).into(),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).and_then(|list| list.pem()).map_err(io::Error::other)
    }
}

/// A new key without a certificate, as PEM: the private and the public half.
pub fn key_halves() -> io::Result<(String, String)> {
    let key = KeyPair::generate().map_err(io::Error::other)?;
    Ok((key.serialize_pem(), key.public_key_pem()))
}

pub fn certificates(pem: &str) -> io::Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().map_err(io::Error::other)
}

fn key(pem: &str) -> io::Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(io::Error::other)
}

fn roots(pem: &str) -> io::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem)? {
        roots.add(certificate).map_err(io::Error::other)?;
    }
    Ok(roots)
}

/// A server with ALPN h2 and http/1.1; with a `client_ca` it demands a certificate of it.
pub fn acceptor(pair: &Pair, client_ca: Option<&str>) -> io::Result<TlsAcceptor> {
    let builder = match client_ca {
        None => ServerConfig::builder().with_no_client_auth(),
        Some(ca) => {
            let verifier = WebPkiClientVerifier::builder(Arc::new(roots(ca)?)).build().map_err(io::Error::other)?;
            ServerConfig::builder().with_client_cert_verifier(verifier)
        }
    };
    let mut config =
        builder.with_single_cert(certificates(&pair.certificate)?, key(&pair.key)?).map_err(io::Error::other)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// A client that trusts `ca` alone.
pub fn client(ca: &str, alpn: &[&str], identity: Option<&Pair>) -> io::Result<Arc<ClientConfig>> {
    let builder = ClientConfig::builder().with_root_certificates(roots(ca)?);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(pair) => builder
            .with_client_auth_cert(certificates(&pair.certificate)?, key(&pair.key)?)
            .map_err(io::Error::other)?,
    };
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    Ok(Arc::new(config))
}

/// A client that accepts any certificate, for tests that look at the certificate themselves.
pub fn client_accepting_anything(alpn: &[&str]) -> Arc<ClientConfig> {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let verifier = Arc::new(Anything(provider.signature_verification_algorithms));
    let mut config =
        ClientConfig::builder().dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    Arc::new(config)
}

#[derive(Debug)]
struct Anything(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for Anything {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

/// What a certificate says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    pub dns: Vec<String>,
    pub subject: String,
    pub issuer: String,
    pub serial: String,
    /// The public key as it stands there.
    pub key: Vec<u8>,
}

pub fn facts(certificate: &CertificateDer<'_>) -> io::Result<Facts> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).map_err(io::Error::other)?;
    let names = parsed.subject_alternative_name().map_err(io::Error::other)?;
    let dns =
        names.map(|names| &names.value.general_names[..]).unwrap_or_default().iter().filter_map(|name| match name {
            x509_parser::extensions::GeneralName::DNSName(name) => Some((*name).to_owned()),
            _ => None,
        });
    Ok(Facts {
        dns: dns.collect(),
        subject: parsed.subject().to_string(),
        issuer: parsed.issuer().to_string(),
        serial: parsed.raw_serial_as_string(),
        key: parsed.public_key().subject_public_key.data.to_vec(),
    })
}
