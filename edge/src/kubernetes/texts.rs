//! Secret texts that issuers and policies need: tokens of DNS providers, keys of account bindings, keys of accounts,
//! passwords and keys of clients.
//!
//! In: the members of Secrets that are needed, all of them. Out: their texts, or why one is not there. Each Secret has a
//! watch of its own, for the watch of all Secrets does not keep such values; nothing but the members that are named is
//! kept, the rest of a Secret is wiped as it is read. While the API server is away, what was read stays, over a restart,
//! too: it is in the store ([`encode`], [`decode`]), sealed as keys are.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use edge_config::issuer::SecretRef;
use edge_config::names::ObjectKey;
use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::Secret;
use kube::runtime::watcher::{self, Event};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use zeroize::{Zeroize as _, Zeroizing};

use super::backoff::Backoff;
use super::client::Api;
use crate::certs::SecretTexts;
use crate::source::PasswordText;

/// Secrets that are followed, at most: each issuer and each policy has a few.
const MOST_SECRETS: usize = 512;

pub type Needed = Arc<BTreeSet<SecretRef>>;
type Out = Arc<watch::Sender<Arc<SecretTexts>>>;

/// What is at hand, one member of a Secret on each line: `NAMESPACE/NAME MEMBER BASE64`.
pub fn encode(texts: &SecretTexts) -> Zeroizing<Vec<u8>> {
    let known = || texts.iter().filter_map(|(reference, text)| Some((reference, text.as_ref().ok()?)));
    let length = |(reference, text): (&SecretRef, &Arc<PasswordText>)| {
        let SecretRef { secret, key } = reference;
        secret.namespace.len() + secret.name.len() + key.len() + 4 + text.bytes().len().div_ceil(3) * 4
    };
    // Grown in one piece: a reallocation would leave parts behind in freed memory.
    let mut bytes = Zeroizing::new(Vec::with_capacity(known().map(length).sum()));
    for (SecretRef { secret, key }, text) in known() {
        bytes.extend_from_slice(format!("{secret} {key} ").as_bytes());
        let start = bytes.len();
        bytes.resize(start + text.bytes().len().div_ceil(3) * 4, b'=');
        // It has the room that it needs.
        let length = STANDARD.encode_slice(text.bytes(), &mut bytes[start..]).unwrap_or_default();
        bytes.truncate(start + length);
        bytes.push(b'\n');
    }
    bytes
}

/// What [`encode`] made; lines of another form are left out.
pub fn decode(bytes: &[u8]) -> SecretTexts {
    let line = |line: &[u8]| {
        let mut parts = line.splitn(3, |byte| *byte == b' ');
        let mut text = || std::str::from_utf8(parts.next()?).ok();
        let (secret, key) = (text()?, text()?);
        let decoded = STANDARD.decode(parts.next()?).ok()?;
        Some((reference(&ObjectKey::parse(secret), key), Ok(Arc::new(PasswordText::new(decoded)))))
    };
    bytes.split(|byte| *byte == b'\n').filter_map(line).collect()
}

/// Follows what is needed until nobody needs anything any more.
pub async fn run(api: Api, mut needed: watch::Receiver<Option<Needed>>, out: watch::Sender<Arc<SecretTexts>>) {
    let out = Arc::new(out);
    let mut followers: BTreeMap<ObjectKey, Follower> = BTreeMap::new();
    // Before anybody has said what is needed, all of what was needed last is.
    while needed.changed().await.is_ok() {
        let Some(references) = needed.borrow_and_update().clone() else { continue };
        let mut secrets: BTreeMap<ObjectKey, BTreeSet<Box<str>>> = BTreeMap::new();
        for reference in references.iter() {
            secrets.entry(reference.secret.clone()).or_default().insert(reference.key.clone());
        }
        followers.retain(|secret, follower| secrets.get(secret) == Some(&follower.members));
        put(&out, |texts| texts.retain(|reference, _| references.contains(reference)));
        for (secret, members) in secrets {
            if followers.contains_key(&secret) {
                continue;
            }
            if followers.len() >= MOST_SECRETS {
                let why = format!("more than {MOST_SECRETS} Secrets are named by issuers and policies");
                put(&out, |texts| tell(texts, &secret, &members, &why));
                continue;
            }
            let task = tokio::spawn(follow(api.clone(), secret.clone(), members.clone(), Arc::clone(&out)));
            followers.insert(secret, Follower { members, task });
        }
    }
}

struct Follower {
    members: BTreeSet<Box<str>>,
    task: JoinHandle<()>,
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn follow(api: Api, secret: ObjectKey, members: BTreeSet<Box<str>>, out: Out) {
    let mut backoff = Backoff::default();
    loop {
        if let Some(client) = api.client().await {
            let secrets = kube::Api::namespaced(client, &secret.namespace);
            let config = watcher::Config::default().fields(&format!("metadata.name={}", secret.name));
            let mut events = watcher::watcher(secrets, config).boxed();
            let mut is_found = false;
            while let Some(event) = events.next().await {
                match event {
                    Ok(Event::Init) => is_found = false,
                    Ok(Event::InitApply(found) | Event::Apply(found)) => {
                        is_found = true;
                        take(&out, &secret, &members, found);
                    }
                    Ok(Event::InitDone) if is_found => backoff.reset(),
                    Ok(Event::InitDone | Event::Delete(_)) => {
                        backoff.reset();
                        put(&out, |texts| tell(texts, &secret, &members, &format!("Secret {secret} does not exist")));
                    }
                    Err(error) => {
                        let why = format!("Secret {secret} cannot be read: {error}");
                        tracing::debug!("{why}");
                        // What was read before stays; a Secret that was never read says why.
                        put(&out, |texts| {
                            let is_read = |member: &str| texts.contains_key(&reference(&secret, member));
                            let unread: BTreeSet<_> =
                                members.iter().filter(|member| !is_read(member.as_ref())).cloned().collect();
                            if is_refused(&error) {
                                tell(texts, &secret, &unread, &why);
                            }
                        });
                        break;
                    }
                }
            }
        }
        tokio::time::sleep(backoff.next(None)).await;
    }
}

/// Whether the API server answered, and said no.
pub(super) fn is_refused(error: &watcher::Error) -> bool {
    let error = match error {
        watcher::Error::InitialListFailed(error) | watcher::Error::WatchStartFailed(error) => error,
        watcher::Error::WatchError(status) => return status.code == 403,
        _ => return false,
    };
    matches!(error, kube::Error::Api(status) if status.code == 403)
}

fn reference(secret: &ObjectKey, member: &str) -> SecretRef {
    SecretRef { secret: secret.clone(), key: member.into() }
}

fn take(out: &Out, secret: &ObjectKey, members: &BTreeSet<Box<str>>, mut found: Secret) {
    let mut data = found.data.take().unwrap_or_default();
    put(out, |texts| {
        for member in members {
            let text = match data.remove(&**member) {
                Some(text) => Ok(Arc::new(PasswordText::new(text.0))),
                None => Err(format!("Secret {secret} has no member {member}")),
            };
            let place = texts.entry(reference(secret, member)).or_insert_with(|| text.clone());
            // The same text stays the same value.
            if *place != text {
                *place = text;
            }
        }
    });
    data.values_mut().for_each(|value| value.0.zeroize());
}

fn tell(texts: &mut SecretTexts, secret: &ObjectKey, members: &BTreeSet<Box<str>>, why: &str) {
    for member in members {
        texts.insert(reference(secret, member), Err(why.to_owned()));
    }
}

/// Changes what is published, and wakes readers where that made a difference.
fn put(out: &Out, change: impl FnOnce(&mut SecretTexts)) {
    out.send_if_modified(|known| {
        let mut texts = SecretTexts::clone(known);
        change(&mut texts);
        let is_new = texts != **known;
        if is_new {
            *known = Arc::new(texts);
        }
        is_new
    });
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;

    use super::*;

    #[test]
    fn the_store_gives_back_what_it_got() {
        let secret = ObjectKey::parse("n/s");
        let text = |bytes: &[u8]| Ok(Arc::new(PasswordText::new(bytes.to_vec())));
        let mut texts = SecretTexts::new();
        for (key, bytes) in [("a", &b""[..]), ("token", b"t"), ("tsig.key", b"\0\n \xff")] {
            texts.insert(reference(&secret, key), text(bytes));
        }
        let known = texts.clone();
        texts.insert(reference(&secret, "gone"), Err("Secret n/s has no member gone".to_owned()));
        let bytes = encode(&texts);
        assert_eq!(decode(&bytes), known);
        assert_eq!(decode(b"n/s a\nn/s b !\n\xff c dA==\nn/s d dA==\n").len(), 1);
        assert_eq!(decode(b""), SecretTexts::new());
    }

    #[test]
    fn only_what_is_named_is_kept() {
        let out: Out = Arc::new(watch::channel(Arc::default()).0);
        let seen = out.subscribe();
        let secret = ObjectKey::parse("n/s");
        let members = BTreeSet::from(["token".into(), "other".into()]);
        let found = |pairs: &[(&str, &str)]| Secret {
            data: Some(pairs.iter().map(|(k, v)| ((*k).to_owned(), ByteString(v.as_bytes().to_vec()))).collect()),
            ..Secret::default()
        };
        take(&out, &secret, &members, found(&[("token", "t"), ("more", "m")]));
        let first = seen.borrow().clone();
        assert_eq!(first.len(), 2);
        assert_eq!(first[&reference(&secret, "token")].as_ref().unwrap().bytes(), b"t");
        assert_eq!(first[&reference(&secret, "other")].as_ref().unwrap_err(), "Secret n/s has no member other");
        take(&out, &secret, &members, found(&[("token", "t"), ("more", "changed")]));
        assert!(Arc::ptr_eq(&first, &seen.borrow()), "nothing that is needed changed");
        put(&out, |texts| tell(texts, &secret, &members, "gone"));
        assert!(seen.borrow().values().all(Result::is_err));
        assert!(!format!("{first:?}").contains("\"t\""));
    }
}
