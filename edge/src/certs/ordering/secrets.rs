//! Secret texts of issuers: from the Secrets at hand and from files, read when they are needed.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use edge_acme::dns::provider::{self, SecretResult};
use edge_acme::order::{SecretText, Secrets};
use edge_config::issuer::{AcmeIssuer, SecretSource};
use zeroize::Zeroizing;

use crate::certs::SecretTexts;
use crate::certs::offer::{AccountKey, account_key};

/// Of a file with a secret, or with CA certificates.
const MOST_BYTES: u64 = 1 << 20;

/// What a Present for DNS-01 reads.
pub struct Texts(pub Arc<SecretTexts>);

impl provider::Secrets for Texts {
    fn read<'a>(&'a self, source: &'a SecretSource) -> SecretResult<'a> {
        // Small local files: nobody waits for them noticeably, and nothing else runs on this thread but orders.
        Box::pin(std::future::ready(read(&self.0, source)))
    }
}

/// One newline at the end of a file does not count.
fn read(texts: &SecretTexts, source: &SecretSource) -> Result<Zeroizing<Vec<u8>>, String> {
    match source {
        SecretSource::Object(reference) => match texts.get(reference) {
            Some(Ok(text)) => Ok(Zeroizing::new(text.bytes().to_vec())),
            // It names the Secret.
            Some(Err(reason)) => Err(reason.clone()),
            None => Err(format!("Secret {} is not read yet", reference.secret)),
        },
        SecretSource::File(path) => {
            let mut bytes = file(path)?;
            if bytes.last() == Some(&b'\n') {
                bytes.pop();
            }
            Ok(bytes)
        }
    }
}

fn file(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let mut bytes = Zeroizing::new(Vec::with_capacity(4096));
    File::open(path).map_err(failed)?.take(MOST_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(format!("{}: longer than {MOST_BYTES} bytes", path.display()));
    }
    Ok(bytes)
}

/// What an account of an issuer is opened with, or why it cannot be now. `known`: a record of it is at hand.
pub fn of_account(issuer: &AcmeIssuer, texts: &SecretTexts, known: bool) -> Result<Secrets, String> {
    let mut secrets = Secrets::default();
    if let Some(external) = &issuer.external_account {
        secrets.external_key = Some(text(read(texts, &external.key)?, "the key of the external account")?);
    }
    if let Some(path) = issuer.trust_file.as_ref().filter(|_| issuer.trust.is_none()) {
        secrets.trust = Some(file(path)?.as_slice().into());
    }
    match account_key(texts, issuer) {
        AccountKey::Usable(pem) => {
            secrets.account_key = Some(text(Zeroizing::new(pem.to_vec()), "the key of the account")?);
        }
        AccountKey::Missing(_) if !known && !issuer.create_account => {
            return Err("it has no account key, and none is to be made (disableAccountKeyGeneration)".into());
        }
        AccountKey::Missing(_) => {}
        // What the store has is good enough.
        AccountKey::Unknown(_) if known => {}
        AccountKey::Unknown(reason) => return Err(reason),
    }
    Ok(secrets)
}

/// Whether it is not known yet what a Secret holds that an issuer names for its account.
pub fn is_unread(issuer: &AcmeIssuer, texts: &SecretTexts) -> bool {
    let external = issuer.external_account.as_ref().is_some_and(|external| match &external.key {
        SecretSource::Object(reference) => !texts.contains_key(reference),
        SecretSource::File(_) => false,
    });
    external || matches!(account_key(texts, issuer), AccountKey::Unknown(_))
}

fn text(bytes: Zeroizing<Vec<u8>>, what: &str) -> Result<SecretText, String> {
    let text = std::str::from_utf8(&bytes).map_err(|_| format!("{what} is no text"))?;
    Ok(SecretText::new(text.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use edge_config::issuer::SecretRef;
    use edge_config::names::ObjectKey;

    use super::*;

    #[test]
    fn what_is_wrong_with_a_secret_names_it_once() {
        let reference = SecretRef { secret: ObjectKey::parse("a/eab"), key: "hmac".into() };
        let source = SecretSource::Object(reference.clone());
        let why = |texts: &SecretTexts| read(texts, &source).unwrap_err();
        assert_eq!(why(&SecretTexts::new()), "Secret a/eab is not read yet");
        let lost = SecretTexts::from([(reference, Err("Secret a/eab is in no file".to_owned()))]);
        assert_eq!(why(&lost), "Secret a/eab is in no file");
    }
}
