//! The other side of an order in tests: whoever answers challenges, and a journal in memory.

#![allow(clippy::panic, clippy::unwrap_used)]

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use edge_acme::challenge::{Challenge, ChallengeKind, Identifier, Present};
use edge_acme::order::{AccountRecord, Journal, OrderRecord};
use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::names::Names;

/// Answers http-01 and tls-alpn-01 on ports of its own, and dns-01 through [`Names`].
pub struct Responder {
    pub http_port: u16,
    pub tls_port: u16,
    answers: Arc<Answers>,
    /// Kinds that this responder refuses to put in place.
    pub refuses: Mutex<Vec<ChallengeKind>>,
    /// Kinds that it only says to have put in place.
    pub lies: Mutex<Vec<ChallengeKind>>,
    names: Mutex<Option<Arc<Names>>>,
}

#[derive(Default)]
struct Answers {
    http: Mutex<HashMap<String, String>>,
    tls: Mutex<HashMap<String, Arc<CertifiedKey>>>,
    /// Every challenge that was ever put in place.
    seen: Mutex<Vec<Challenge>>,
}

impl fmt::Debug for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Answers")
    }
}

impl Responder {
    /// Listens on loopback as long as the runtime lives.
    pub async fn start() -> io::Result<Self> {
        crate::pki::install_provider();
        let answers = Arc::new(Answers::default());
        let http = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let tls = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let (http_port, tls_port) = (http.local_addr()?.port(), tls.local_addr()?.port());
        let shared = answers.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = http.accept().await {
                let answers = shared.clone();
                tokio::spawn(async move { answer_http(stream, &answers).await });
            }
        });
        let mut config = ServerConfig::builder().with_no_client_auth().with_cert_resolver(answers.clone());
        config.alpn_protocols = vec![b"acme-tls/1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        tokio::spawn(async move {
            while let Ok((stream, _)) = tls.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    if let Ok(mut stream) = acceptor.accept(stream).await {
                        let _ = stream.shutdown().await;
                    }
                });
            }
        });
        let (refuses, lies, names) = Default::default();
        Ok(Self { http_port, tls_port, answers, refuses, lies, names })
    }

    /// dns-01 is answered there.
    pub fn write_to(&self, names: &Arc<Names>) {
        *self.names.lock().unwrap() = Some(names.clone());
    }

    pub fn seen(&self) -> Vec<Challenge> {
        self.answers.seen.lock().unwrap().clone()
    }

    /// Challenges in place now.
    pub fn in_place(&self) -> usize {
        self.answers.http.lock().unwrap().len() + self.answers.tls.lock().unwrap().len()
    }
}

async fn answer_http(stream: TcpStream, answers: &Answers) {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    let mut path = String::new();
    while stream.read_line(&mut line).await.is_ok_and(|read| read > 0) && line != "\r\n" {
        if path.is_empty() {
            path = line.split(' ').nth(1).unwrap_or_default().to_owned();
        }
        line.clear();
    }
    let token = path.strip_prefix("/.well-known/acme-challenge/").unwrap_or_default();
    let answer = answers.http.lock().unwrap().get(token).cloned();
    let (status, body) = answer.map_or(("404 Not Found", "no such token".to_owned()), |body| ("200 OK", body));
    let length = body.len();
    let text = format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}");
    let _ = stream.write_all(text.as_bytes()).await;
}

impl ResolvesServerCert for Answers {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.tls.lock().unwrap().get(hello.server_name()?).cloned()
    }
}

/// RFC 8737 §3; RFC 8738 §6 for addresses.
fn alpn_certificate(challenge: &Challenge) -> (String, Arc<CertifiedKey>) {
    let name = challenge.identifier.to_string();
    let mut params = CertificateParams::new(vec![name.clone()]).unwrap();
    let proof = digest(&SHA256, challenge.key_authorization.as_bytes());
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(proof.as_ref())];
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let der = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let signing = rustls::crypto::aws_lc_rs::sign::any_supported_type(&der).unwrap();
    // `from_der` would refuse the critical extension.
    let certified = CertifiedKey::new(vec![certificate.der().clone()], signing);
    let asked = match &challenge.identifier {
        Identifier::Dns(name) => name.to_string(),
        Identifier::Ip(IpAddr::V4(address)) => {
            let [a, b, c, d] = address.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        Identifier::Ip(IpAddr::V6(address)) => {
            let nibbles: Vec<String> =
                address.octets().iter().rev().map(|byte| format!("{:x}.{:x}.", byte & 15, byte >> 4)).collect();
            format!("{}ip6.arpa", nibbles.concat())
        }
    };
    (asked, Arc::new(certified))
}

fn dns_place(challenge: &Challenge) -> (String, String) {
    let proof = digest(&SHA256, challenge.key_authorization.as_bytes());
    (format!("_acme-challenge.{}", challenge.identifier), URL_SAFE_NO_PAD.encode(proof))
}

impl Present for Responder {
    async fn present(&self, challenge: &Challenge) -> Result<(), String> {
        if self.refuses.lock().unwrap().contains(&challenge.kind) {
            return Err(format!("nobody answers {}", challenge.kind));
        }
        self.answers.seen.lock().unwrap().push(challenge.clone());
        if self.lies.lock().unwrap().contains(&challenge.kind) {
            return Ok(());
        }
        match challenge.kind {
            ChallengeKind::Http01 => {
                let (token, answer) = (challenge.token.to_string(), challenge.key_authorization.to_string());
                self.answers.http.lock().unwrap().insert(token, answer);
            }
            ChallengeKind::TlsAlpn01 => {
                let (name, certificate) = alpn_certificate(challenge);
                self.answers.tls.lock().unwrap().insert(name, certificate);
            }
            ChallengeKind::Dns01 => {
                let names = self.names.lock().unwrap().clone().ok_or("no DNS")?;
                let (name, value) = dns_place(challenge);
                names.txt(&name, &value);
            }
        }
        Ok(())
    }

    async fn withdraw(&self, challenge: &Challenge) {
        match challenge.kind {
            ChallengeKind::Http01 => {
                self.answers.http.lock().unwrap().remove(&*challenge.token);
            }
            ChallengeKind::TlsAlpn01 => {
                self.answers.tls.lock().unwrap().remove(&alpn_certificate(challenge).0);
            }
            ChallengeKind::Dns01 => {
                if let Some(names) = self.names.lock().unwrap().clone() {
                    names.clear_txt(&dns_place(challenge).0);
                }
            }
        }
    }
}

/// A journal in memory, through JSON as on a disk.
#[derive(Default)]
pub struct Memory {
    pub accounts: Mutex<Vec<String>>,
    pub orders: Mutex<Vec<String>>,
    /// Every write from this one on fails.
    pub full_from: Mutex<Option<usize>>,
}

impl Memory {
    pub fn account_now(&self) -> Option<AccountRecord> {
        self.accounts.lock().unwrap().last().map(|text| serde_json::from_str(text).unwrap())
    }

    pub fn order_now(&self) -> Option<OrderRecord> {
        self.orders.lock().unwrap().last().map(|text| serde_json::from_str(text).unwrap())
    }

    fn check(&self, written: usize) -> Result<(), String> {
        match *self.full_from.lock().unwrap() {
            Some(from) if written >= from => Err("no space left on device".to_owned()),
            _ => Ok(()),
        }
    }
}

impl Journal for Memory {
    async fn account(&self, record: &AccountRecord) -> Result<(), String> {
        self.accounts.lock().unwrap().push(serde_json::to_string(record).unwrap());
        Ok(())
    }

    async fn order(&self, record: &OrderRecord) -> Result<(), String> {
        let mut all = self.orders.lock().unwrap();
        self.check(all.len())?;
        all.push(serde_json::to_string(record).unwrap());
        Ok(())
    }
}

/// An address that nobody listens on.
pub fn nobody() -> SocketAddr {
    SocketAddr::new(Ipv4Addr::LOCALHOST.into(), super::ask::free_port("", Ipv4Addr::LOCALHOST.into()))
}
