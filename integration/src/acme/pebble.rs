//! Pebble, the ACME test server of Let's Encrypt: Debian's 2.4.0, and the newest one as a Go module.
//!
//! `Pebble::start(&Settings { http_port, tls_port, ..Settings::default() })` gives a CA whose names all lead to
//! loopback; [`Pebble::names`] changes that. [`Pebble::directory`] and [`Pebble::trust`] are what an issuer needs.

#![allow(clippy::panic, clippy::unwrap_used)]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustls::ClientConfig;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use super::ask::{ask, free_port};
use super::names::{CHALLTESTSRV, Names};
use crate::cluster::process::{Process, Program};
use crate::edged::workspace;
use crate::pki::{self, Authority, Leaf};

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Edition {
    /// 2.4.0 of Debian 12: no renewal information, no profiles, no Retry-After.
    #[default]
    Debian,
    /// The module that `integration/pebble` pins.
    Newest,
}

#[derive(Debug, Clone)]
pub struct Profile {
    pub name: &'static str,
    /// Seconds.
    pub validity: u64,
}

/// What a CA is to be like. The default is kind and quick: no refused nonces, no waiting before a validation.
#[derive(Debug, Clone)]
pub struct Settings {
    pub edition: Edition,
    /// The namespace that it runs in; empty: this one.
    pub namespace: String,
    pub listen: IpAddr,
    /// Ports that names are validated at: http-01, and tls-alpn-01.
    pub http_port: u16,
    pub tls_port: u16,
    /// Where names lead.
    pub names_lead_to: IpAddr,
    /// The name server that it asks, instead of its own.
    pub dns: Option<SocketAddr>,
    /// Key identifier and key (base64url) of external accounts; with any, one is demanded.
    pub external_accounts: Vec<(String, String)>,
    /// Seconds that certificates hold.
    pub validity: Option<u64>,
    /// Percent of good nonces that are refused.
    pub refused_nonces: u32,
    /// Percent of authorizations that are used again.
    pub reused_authorizations: u32,
    /// Whether up to 5 seconds pass before a validation.
    pub sleeps: bool,
    /// Nothing is validated.
    pub always_valid: bool,
    pub alternate_roots: u32,
    /// Intermediates in a chain.
    pub chain_length: u32,
    /// Names that are rejected.
    pub blocked: Vec<String>,
    /// Newest only; without any there is one, `default`.
    pub profiles: Vec<Profile>,
    /// Newest only: seconds, of authorizations and orders.
    pub retry_after: Option<(u32, u32)>,
    /// The port of the directory; any free one otherwise. For a CA that is started again.
    pub port: Option<u16>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            edition: Edition::Debian,
            namespace: String::new(),
            listen: Ipv4Addr::LOCALHOST.into(),
            http_port: 80,
            tls_port: 443,
            names_lead_to: Ipv4Addr::LOCALHOST.into(),
            dns: None,
            external_accounts: Vec::new(),
            validity: None,
            refused_nonces: 0,
            reused_authorizations: 0,
            sleeps: false,
            always_valid: false,
            alternate_roots: 0,
            chain_length: 1,
            blocked: Vec::new(),
            profiles: Vec::new(),
            retry_after: None,
            port: None,
        }
    }
}

pub struct Pebble {
    pub process: Process,
    /// Its DNS.
    pub names: Arc<Names>,
    pub address: SocketAddr,
    management: SocketAddr,
    namespace: String,
    trust: String,
    tls: Arc<ClientConfig>,
    dir: TempDir,
}

/// The program, or why there is none.
pub fn program(edition: Edition) -> Result<PathBuf, String> {
    let found = match edition {
        Edition::Debian => Ok(PathBuf::from("/usr/bin/pebble")),
        Edition::Newest => newest(),
    }?;
    for path in [&found, Path::new(CHALLTESTSRV)] {
        if !path.exists() {
            return Err(format!("no {} (Debian package pebble)", path.display()));
        }
    }
    Ok(found)
}

fn newest() -> Result<PathBuf, String> {
    static PROGRAM: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let build = || {
        let output = Command::new(workspace().join("integration/run/pebble")).output().map_err(|e| e.to_string())?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).trim().into()),
            false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        }
    };
    PROGRAM.get_or_init(build).clone()
}

impl Pebble {
    /// Returns when its directory answers; the error says which program is missing.
    pub fn start(settings: &Settings) -> Result<Self, String> {
        let program = program(settings.edition)?;
        pki::install_provider();
        let dir = tempfile::tempdir().unwrap();
        let own = Authority::new("Trust of a test CA").unwrap();
        let listen = settings.listen.to_string();
        let pair = own.sign(&Leaf { dns: &["localhost", &listen], ..Leaf::default() }).unwrap();
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let namespace = settings.namespace.as_str();
        let port = || free_port(namespace, settings.listen);
        let address = SocketAddr::new(settings.listen, settings.port.unwrap_or_else(port));
        let management = SocketAddr::new(settings.listen, port());
        let profiles: Map<String, Value> = settings
            .profiles
            .iter()
            .map(|profile| {
                let what = json!({ "description": profile.name, "validityPeriod": profile.validity });
                (profile.name.to_owned(), what)
            })
            .collect();
        let keys: Map<String, Value> =
            settings.external_accounts.iter().map(|(id, key)| (id.clone(), json!(key))).collect();
        let mut config = json!({
            "listenAddress": address.to_string(),
            "managementListenAddress": management.to_string(),
            "certificate": file("tls.crt", &pair.certificate),
            "privateKey": file("tls.key", &pair.key),
            "httpPort": settings.http_port,
            "tlsPort": settings.tls_port,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": !keys.is_empty(),
            "externalAccountMACKeys": keys,
            "domainBlocklist": settings.blocked,
            "certificateValidityPeriod": settings.validity.unwrap_or(90 * 86_400),
        });
        if settings.edition == Edition::Newest {
            config["profiles"] = Value::Object(profiles);
            config["keyAlgorithm"] = json!("ecdsa");
            config["caaIdentities"] = json!(["pebble.test"]);
            if let Some((authz, order)) = settings.retry_after {
                config["retryAfter"] = json!({ "authz": authz, "order": order });
            }
        }
        let config = file("pebble.json", &json!({ "pebble": config }).to_string());
        let names = Names::start(namespace, settings.listen, settings.names_lead_to, dir.path());
        let mut pebble = Program::new(program)
            .args(["-config".into(), config.into_os_string()])
            .args(["-strict=false", "-dnsserver", &settings.dns.unwrap_or(names.dns).to_string()])
            .env("PEBBLE_WFE_NONCEREJECT", settings.refused_nonces.to_string())
            .env("PEBBLE_AUTHZREUSE", settings.reused_authorizations.to_string())
            .env("PEBBLE_ALTERNATE_ROOTS", settings.alternate_roots.to_string())
            .env("PEBBLE_CHAIN_LENGTH", settings.chain_length.to_string());
        if !settings.sleeps {
            pebble = pebble.env("PEBBLE_VA_NOSLEEP", "1");
        }
        if settings.always_valid {
            pebble = pebble.env("PEBBLE_VA_ALWAYS_VALID", "1");
        }
        let mut process = Process::start("pebble", namespace, &pebble, &dir.path().join("pebble.log"));
        let tls = pki::client(&own.certificate, &["http/1.1"], None).unwrap();
        process.until("pebble answers", || ask(namespace, address, Some(tls.clone()), ("GET", "/dir", "")).ok());
        Ok(Self {
            process,
            names: Arc::new(names),
            address,
            management,
            namespace: namespace.to_owned(),
            trust: own.certificate,
            tls,
            dir,
        })
    }

    /// What an issuer is given as its server.
    pub fn directory(&self) -> String {
        format!("https://{}/dir", self.address)
    }

    /// PEM of the CA of its own HTTPS (`caBundle`).
    pub fn trust(&self) -> &str {
        &self.trust
    }

    fn manage(&self, method: &str, path: &str, body: &str) -> String {
        let (status, said) =
            ask(&self.namespace, self.management, Some(self.tls.clone()), (method, path, body)).unwrap();
        assert!(status == 200, "pebble {path}: {status} {said}");
        said
    }

    /// PEM of a root of the certificates that it issues: 0, or an alternate one. A new one with each start.
    pub fn root(&self, number: u32) -> String {
        self.manage("GET", &format!("/roots/{number}"), "")
    }

    /// `Valid` or `Revoked`, by the serial number in hexadecimal.
    pub fn status(&self, serial: &str) -> String {
        let said: Value =
            serde_json::from_str(&self.manage("GET", &format!("/cert-status-by-serial/{serial}"), "")).unwrap();
        said["Status"].as_str().unwrap().to_owned()
    }

    /// Newest only: what renewal information says of a certificate (PEM) from now on, as the JSON of RFC 9773 §4.2.
    pub fn set_renewal_window(&self, certificate: &str, answer: &Value) {
        let what = json!({ "Certificate": certificate, "ARIResponse": answer.to_string() });
        self.manage("POST", "/set-renewal-info/", &what.to_string());
    }

    /// All that it said.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.dir.path().join("pebble.log")).unwrap()).into_owned()
    }

    /// Orders that were ever made.
    pub fn orders(&self) -> usize {
        self.log().matches("Added order ").count()
    }

    /// Ends it; its names go on.
    pub fn stop(&mut self) {
        self.process.stop(Duration::from_secs(5));
    }
}
