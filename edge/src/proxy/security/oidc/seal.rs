//! Cookies that only the edges can read or make: AES-256-GCM-SIV under a key that every edge derives for itself.
//!
//! The key comes from the client secret, the policy, the issuer and the client (OpenID Connect Core 1.0 §10.2 derives keys
//! from client secrets, §16.19 asks them to be strong), so edges need nothing in common but the configuration, and a new
//! client secret ends every session. What a cookie is for and the hosts that it is for are authenticated with it: a cookie
//! of another policy, host or purpose does not open. Standards: RFC 5116, RFC 8452 (a nonce that repeats reveals no more
//! than equality).

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::{hmac, rand};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use edge_config::policy::Oidc;

/// What is not opened for its mere length.
const LONGEST: usize = 64 << 10;

pub struct Seal {
    key: LessSafeKey,
}

/// What a cookie is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Session,
    Login,
}

impl Seal {
    /// `None`: the crypto library refuses to work.
    pub fn new(oidc: &Oidc, client_id: &str, client_secret: &[u8]) -> Option<Self> {
        // Lengths stand before the texts, so that no two lists of them are alike.
        let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, client_secret));
        context.update(b"edge oidc cookies v1");
        for part in [oidc.owner.to_string().as_str(), &*oidc.provider.issuer, client_id] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part.as_bytes());
        }
        let key = UnboundKey::new(&AES_256_GCM_SIV, context.sign().as_ref()).ok()?;
        Some(Self { key: LessSafeKey::new(key) })
    }

    /// In base64url.
    pub fn seal(&self, purpose: Purpose, hosts: &str, plain: &[u8]) -> Option<String> {
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).ok()?;
        let mut sealed = plain.to_vec();
        let aad = Aad::from(scope(purpose, hosts));
        self.key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut sealed).ok()?;
        sealed.splice(0..0, nonce);
        Some(URL_SAFE_NO_PAD.encode(sealed))
    }

    pub fn open(&self, purpose: Purpose, hosts: &str, text: &[u8]) -> Option<Vec<u8>> {
        if text.len() > LONGEST {
            return None;
        }
        let mut sealed = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (nonce, rest) = sealed.split_at_mut_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let plain = self.key.open_in_place(nonce, Aad::from(scope(purpose, hosts)), rest).ok()?;
        Some(plain.to_vec())
    }
}

fn scope(purpose: Purpose, hosts: &str) -> Vec<u8> {
    let purpose: &[u8] = match purpose {
        Purpose::Session => b"session\0",
        Purpose::Login => b"login\0",
    };
    [purpose, hosts.as_bytes()].concat()
}
