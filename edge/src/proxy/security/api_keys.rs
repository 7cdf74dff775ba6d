//! API keys: the step of [`pass`](super::pass) that asks for one.
//!
//! Keys are looked up by a keyed digest, so the time that it takes says nothing about how much of a key was right.

use std::borrow::Cow;
use std::sync::Arc;

use aws_lc_rs::hmac;
use edge_config::policy::{ApiKeys, Place};
use foldhash::{HashMap, HashMapExt};

use super::fields::{param, without_cookie, without_param};
use super::{Refusal, forward};
use crate::proxy::filters::session::cookies;
use crate::proxy::message::RequestHead;
use crate::proxy::reason::Reason;
use crate::proxy::secrets::Secrets;

/// A longer key is none.
const LONGEST: usize = 8192;

/// Clients by the digests of their keys.
pub struct Clients {
    key: hmac::Key,
    names: HashMap<[u8; 32], Box<str>>,
}

impl Clients {
    /// An error says which Secret cannot be used; then nobody passes, for whose keys are missing is not known.
    pub fn new(keys: &ApiKeys, secrets: &Secrets) -> Result<Self, Arc<str>> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &aws_lc_rs::rand::SystemRandom::new());
        let key = key.map_err(|_| Arc::from("the system has no random numbers"))?;
        let mut clients = Self { key, names: HashMap::with_capacity(keys.clients.len()) };
        for (name, reference) in &keys.clients {
            let wrong = |why: &str| Arc::from(format!("Secret {} key {name}: {why}", reference.secret));
            // A client that is new waits for its key; the others need not.
            let Some(text) = secrets.known(reference) else { continue };
            let text = text.map_err(wrong)?.bytes().trim_ascii_end();
            if text.is_empty() {
                return Err(wrong("is empty"));
            }
            if clients.names.insert(clients.print(text), name.clone()).is_some() {
                return Err(wrong("is the key of another client, too"));
            }
        }
        match clients.names.is_empty() {
            true => Err(Arc::from("no key is read yet")),
            false => Ok(clients),
        }
    }

    fn print(&self, text: &[u8]) -> [u8; 32] {
        let mut print = [0; 32];
        print.copy_from_slice(hmac::sign(&self.key, text).as_ref());
        print
    }

    fn of(&self, text: &[u8]) -> Option<&str> {
        (text.len() <= LONGEST).then(|| self.names.get(&self.print(text)).map(AsRef::as_ref)).flatten()
    }
}

pub fn pass(keys: &ApiKeys, clients: &Clients, request: &mut RequestHead) -> Result<(), Refusal> {
    if let Some(name) = &keys.forward_client {
        request.fields.remove(name.as_bytes());
    }
    let refused = || Refusal::challenge(Reason::ApiKey, "ApiKey".to_owned());
    let given = keys.places.iter().find_map(|place| given(place, request)).ok_or_else(refused)?;
    let client = clients.of(&given).ok_or_else(refused)?;
    if keys.sanitize {
        for place in &keys.places {
            match place {
                Place::Header(name) => request.fields.remove(name.as_bytes()),
                Place::Param(name) => without_param(request, name),
                Place::Cookie(name) => without_cookie(&mut request.fields, name),
            }
        }
    }
    if let Some(header) = &keys.forward_client {
        forward(&mut request.fields, header, client);
    }
    Ok(())
}

/// The key at a place, where there is one and only one: of two nobody knows which one counts.
fn given<'r>(place: &'r Place, request: &'r RequestHead) -> Option<Cow<'r, [u8]>> {
    let found = match place {
        Place::Header(name) => {
            let mut values = request.fields.all(name.as_bytes());
            let (value, None) = (values.next()?, values.next()) else { return Some(Cow::Borrowed(b"")) };
            // `Authorization: Bearer KEY` is how documented clients send it.
            let bearer = (&**name == "authorization").then(|| value.split_at_checked(7)).flatten();
            let bearer = bearer.filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer "));
            Cow::Borrowed(bearer.map_or(value, |(_, rest)| rest.trim_ascii()))
        }
        Place::Param(name) => param(request.query()?, name)?,
        Place::Cookie(name) => Cow::Borrowed(cookies(&request.fields, name).next()?),
    };
    Some(found).filter(|found| !found.is_empty())
}
