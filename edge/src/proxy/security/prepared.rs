//! What a worker has made of the texts and keys that its policies name: once, and again when they are others. It holds on to
//! what it was made of, so that a place in memory is never taken for another's.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use edge_config::policy::{ApiKeys, Jwks};
use foldhash::{HashMap, HashMapExt};

use super::api_keys::Clients;
use super::basic::{Successes, Users};
use super::jwt::{KeySet, Verified};
use crate::proxy::secrets::Secrets;
use crate::source::PasswordText;

/// Things of one kind that are kept; with more of them all are made anew.
const MOST: usize = 1024;

/// Of one worker.
#[derive(Default)]
pub struct Prepared {
    users: Kept<PasswordText, Result<Rc<Users>, Arc<str>>>,
    clients: Kept<ApiKeys, ClientsOf>,
    local_keys: Kept<Jwks, Arc<KeySet>>,
    keys_of_texts: Kept<PasswordText, Result<Arc<KeySet>, Arc<str>>>,
    pub successes: Successes,
    pub verified: Verified,
}

/// Clients by their keys, and the texts that they were made of.
type ClientsOf = (Arc<Secrets>, Result<Rc<Clients>, Arc<str>>);

/// By the place of what it was made of.
struct Kept<K, V>(RefCell<HashMap<*const K, (Arc<K>, V)>>);

impl<K, V> Default for Kept<K, V> {
    fn default() -> Self {
        Self(RefCell::new(HashMap::new()))
    }
}

impl<K, V: Clone> Kept<K, V> {
    fn of(&self, key: &Arc<K>, is_current: impl Fn(&V) -> bool, make: impl FnOnce() -> V) -> V {
        let mut kept = self.0.borrow_mut();
        if let Some((_, value)) = kept.get(&Arc::as_ptr(key)).filter(|(_, value)| is_current(value)) {
            return value.clone();
        }
        if kept.len() >= MOST {
            kept.clear();
        }
        let value = make();
        kept.insert(Arc::as_ptr(key), (Arc::clone(key), value.clone()));
        value
    }
}

impl Prepared {
    pub fn users(&self, text: &Arc<PasswordText>) -> Result<Rc<Users>, Arc<str>> {
        self.users.of(text, |_| true, || Users::parse(text.bytes()).map(Rc::new))
    }

    pub fn clients(&self, keys: &Arc<ApiKeys>, secrets: &Arc<Secrets>) -> Result<Rc<Clients>, Arc<str>> {
        let is_current = |(known, _): &(Arc<Secrets>, _)| Arc::ptr_eq(known, secrets);
        self.clients.of(keys, is_current, || (Arc::clone(secrets), Clients::new(keys, secrets).map(Rc::new))).1
    }

    pub fn local_keys(&self, keys: &Arc<Jwks>) -> Arc<KeySet> {
        self.local_keys.of(keys, |_| true, || Arc::new(KeySet::new(keys)))
    }

    pub fn keys_of_text(&self, text: &Arc<PasswordText>) -> Result<Arc<KeySet>, Arc<str>> {
        self.keys_of_texts.of(text, |_| true, || KeySet::parse(text.bytes()).map(Arc::new).map_err(Into::into))
    }
}
