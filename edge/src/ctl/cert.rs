//! `edgectl cert`: certificates of a running edge, shown, renewed, revoked, taken in and given out.

use std::fs::OpenOptions;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::StatusCode;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use super::args::{Cert, Format};
use super::client::{Client, ClientError};
use super::run::{RunError, Terminal, print, write};
use crate::control::api::certificates::{Ask, Done, Exported};
use crate::control::certificates::view::{Budget, CertificateList, CertificateRow, CertificateWhy, Served, Shown};
use crate::control::view::State;

/// A CA may be slow to revoke.
const PATIENCE: Duration = Duration::from_secs(75);
/// Of all files of an import.
const MOST_BYTES: u64 = 48 << 10;

#[derive(Debug, thiserror::Error)]
pub enum CertError {
    #[error("{0}")]
    Read(PathBuf, #[source] std::io::Error),
    #[error("{0}: larger than {MOST_BYTES} bytes")]
    Large(PathBuf),
    #[error("{0}: not PEM: {1}")]
    Pem(PathBuf, String),
    #[error("no private key in these files; expected a block PRIVATE KEY beside the certificates")]
    NoKey,
    #[error("more than one private key in these files")]
    Keys,
    #[error("no certificate in these files")]
    NoCertificate,
    #[error("a private key is not written to a terminal: name a file with --key FILE")]
    Terminal,
    #[error("edged gives no private key of {0}")]
    Withheld(String),
    #[error("{0}")]
    Write(PathBuf, #[source] std::io::Error),
}

impl CertError {
    pub fn code(&self) -> u8 {
        match self {
            Self::Read(..) | Self::Large(_) | Self::Pem(..) | Self::NoKey | Self::Keys | Self::NoCertificate => 2,
            Self::Terminal => super::run::USAGE,
            Self::Withheld(_) => 1,
            Self::Write(..) => 74,
        }
    }
}

pub fn run(client: &Client, cert: &Cert, format: Format, terminal: &mut Terminal<'_>) -> Result<u8, RunError> {
    let named = |name: &str| Ask { name: name.to_owned(), ..Ask::default() };
    match cert {
        Cert::List { all } => {
            let found: CertificateList = client.get("/v1/certificates")?;
            print(terminal, format, &found, *all)?;
            Ok(found.certificates.iter().map(code).max().unwrap_or(0))
        }
        Cert::Show { name } => {
            let Some(found) = looked_up::<Shown>(client, "show", &named(name), terminal)? else { return Ok(2) };
            print(terminal, format, &found, true)?;
            Ok(code(&found.row))
        }
        Cert::Why { name } => {
            let Some(found) = looked_up::<CertificateWhy>(client, "why", &named(name), terminal)? else { return Ok(2) };
            print(terminal, format, &found, true)?;
            Ok(code(&found.row))
        }
        Cert::Budget => {
            let found: Budget = client.get("/v1/certificates/budget")?;
            print(terminal, format, &found, true)?;
            Ok(u8::from(found.limits.iter().any(|row| row.next.is_some())))
        }
        Cert::Renew { name } => done(client, "renew", &named(name), format, terminal),
        Cert::Revoke { name, reason } => {
            done(client, "revoke", &Ask { reason: Some((*reason).into()), ..named(name) }, format, terminal)
        }
        Cert::Import { files, name } => {
            let (chain, key) = read(files)?;
            let ask = Ask { chain: Some(chain), key: Some(key), ..named(name.as_deref().unwrap_or_default()) };
            done(client, "import", &ask, format, terminal)
        }
        Cert::Export { name, key } => export(client, named(name), key.as_deref(), terminal),
    }
}

/// How a certificate counts in the exit code.
fn code(row: &CertificateRow) -> u8 {
    let is_bare = matches!(row.served, Served::Placeholder | Served::Nothing);
    let is_stood_in_for = row.served == Served::StandIn && row.health.state != State::Up;
    match row.health.state {
        State::Down => 2,
        _ if is_bare || is_stood_in_for => 2,
        State::Up => 0,
        State::Degraded | State::Pending => 1,
    }
}

fn post<T: DeserializeOwned>(client: &Client, what: &str, ask: &Ask) -> Result<T, ClientError> {
    // Plain texts, for which encoding cannot fail.
    let body = serde_json::to_vec(ask).unwrap_or_default();
    client.post(&format!("/v1/certificates/{what}"), body, PATIENCE)
}

/// `None`: there is no such certificate, which is told.
fn looked_up<T: DeserializeOwned>(
    client: &Client,
    what: &str,
    ask: &Ask,
    terminal: &mut Terminal<'_>,
) -> Result<Option<T>, RunError> {
    match post(client, what, ask) {
        Ok(found) => Ok(Some(found)),
        Err(ClientError::Refused { status: StatusCode::NOT_FOUND, message }) => {
            // The sentence is the answer: there may be a reason why there is no certificate.
            write(terminal, format!("{message}\n").as_bytes())?;
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

fn done(client: &Client, what: &str, ask: &Ask, format: Format, terminal: &mut Terminal<'_>) -> Result<u8, RunError> {
    let done: Done = post(client, what, ask)?;
    print(terminal, format, &done, true)?;
    Ok(0)
}

fn export(client: &Client, ask: Ask, key: Option<&Path>, terminal: &mut Terminal<'_>) -> Result<u8, RunError> {
    let to_stdout = key == Some(Path::new("-"));
    if to_stdout && terminal.is_terminal {
        return Err(CertError::Terminal.into());
    }
    let ask = Ask { with_key: key.is_some(), ..ask };
    let found: Exported = post(client, "export", &ask)?;
    let Some(path) = key else {
        write(terminal, found.chain.as_bytes())?;
        return Ok(0);
    };
    let pem = found.key.ok_or(CertError::Withheld(found.certificate))?;
    if !to_stdout {
        write_private(path, pem.as_bytes()).map_err(|error| CertError::Write(path.to_owned(), error))?;
    }
    write(terminal, found.chain.as_bytes())?;
    if to_stdout {
        write(terminal, pem.as_bytes())?;
    }
    Ok(0)
}

/// A new file that its owner alone may read; one that is there is not written over.
pub(super) fn write_private(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

/// The certificates in their order, and the one private key.
fn read(files: &[PathBuf]) -> Result<(String, Zeroizing<String>), CertError> {
    let (mut chain, mut keys) = (String::new(), Vec::new());
    let mut left = MOST_BYTES;
    for path in files {
        let failed = |error| CertError::Read(path.clone(), error);
        let mut text = Zeroizing::new(String::with_capacity(16 << 10));
        let file = std::fs::File::open(path).map_err(failed)?;
        let read = file.take(left + 1).read_to_string(&mut text).map_err(failed)?;
        left = left.checked_sub(read as u64).ok_or_else(|| CertError::Large(path.clone()))?;
        let mut rest = text.as_str();
        while let Some(start) = rest.find("-----BEGIN ") {
            let open = |reason: &str| CertError::Pem(path.clone(), reason.to_owned());
            let block = &rest[start..];
            let label = block["-----BEGIN ".len()..].split("-----").next().unwrap_or_default();
            let end = format!("-----END {label}-----");
            let stop = block.find(&end).ok_or_else(|| open(&format!("block {label} does not end")))? + end.len();
            match label {
                "CERTIFICATE" => {
                    chain.push_str(&block[..stop]);
                    chain.push('\n');
                }
                "PRIVATE KEY" | "EC PRIVATE KEY" | "RSA PRIVATE KEY" => {
                    keys.push(Zeroizing::new(format!("{}\n", &block[..stop])));
                }
                // What openssl writes beside an EC key.
                "EC PARAMETERS" => {}
                "ENCRYPTED PRIVATE KEY" => return Err(open("the private key is encrypted: decrypt it first")),
                other => return Err(open(&format!("block {other}, expected CERTIFICATE or PRIVATE KEY"))),
            }
            rest = &block[stop..];
        }
    }
    if chain.is_empty() {
        return Err(CertError::NoCertificate);
    }
    let key = keys.pop().ok_or(CertError::NoKey)?;
    if keys.is_empty() { Ok((chain, key)) } else { Err(CertError::Keys) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_an_import() {
        let at = tempfile::tempdir().unwrap();
        let block = |label: &str, text: &str| format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n");
        let (one, two) = (block("CERTIFICATE", "one"), block("CERTIFICATE", "two"));
        let (key, encrypted) = (block("PRIVATE KEY", "key"), block("ENCRYPTED PRIVATE KEY", "x"));
        for (name, files, expected) in [
            ("one file", vec![format!("{key}subject=x\n{one}{two}")], Ok(())),
            ("two files", vec![format!("{one}{two}"), format!("{}{key}", block("EC PARAMETERS", "p"))], Ok(())),
            ("no key", vec![one.clone()], Err("no private key in these files")),
            ("two keys", vec![one.clone(), key.clone(), key.clone()], Err("more than one private key")),
            ("no certificate", vec![key.clone()], Err("no certificate in these files")),
            ("encrypted", vec![one.clone(), encrypted], Err("the private key is encrypted")),
            ("cut", vec!["-----BEGIN CERTIFICATE-----\n".to_owned()], Err("block CERTIFICATE does not end")),
            ("other", vec![block("X509 CRL", "x")], Err("block X509 CRL, expected CERTIFICATE")),
            ("large", vec!["x".repeat(50_000)], Err("larger than 49152 bytes")),
        ] {
            let paths: Vec<PathBuf> = files
                .iter()
                .enumerate()
                .map(|(place, text)| {
                    let path = at.path().join(place.to_string());
                    std::fs::write(&path, text).unwrap();
                    path
                })
                .collect();
            match (read(&paths), expected) {
                (Ok((chain, found)), Ok(())) => {
                    assert_eq!(chain, format!("{one}{two}"), "{name}");
                    assert_eq!(*found, key, "{name}");
                }
                (Err(error), Err(expected)) => assert!(error.to_string().contains(expected), "{name}: {error}"),
                (found, expected) => panic!("{name}: {:?}, expected {expected:?}", found.map(|_| ())),
            }
        }
    }
}
