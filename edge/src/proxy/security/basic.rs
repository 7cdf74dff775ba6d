//! Basic authentication (RFC 7617): the step of [`pass`](super::pass) that asks for a password.
//!
//! A hash that is made to be slow is computed on another thread, a few at a time, and its success is remembered by this
//! worker under a keyed digest for as long as the file of users stays the same. So a browser that sends its password
//! with each of a hundred requests costs one computation, and somebody who guesses costs threads of their own, never the
//! worker.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use edge_config::policy::{Basic, Htpasswd};
use foldhash::{HashMap, HashMapExt};
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use super::password;
use super::prepared::Prepared;
use super::{Refusal, forward};
use crate::proxy::message::{Fields, RequestHead};
use crate::proxy::reason::Reason;
use crate::proxy::secrets::Secrets;

/// Slow hashes at once in this process, and requests that wait for one; more are told to come back.
const AT_ONCE: usize = 2;
const WAITING: usize = 64;
const PATIENCE: Duration = Duration::from_secs(5);
/// A longer `user:password` is none.
const LONGEST: usize = 1024;
/// Successes that a worker remembers, and for how long.
const REMEMBERED: usize = 4096;
const REMEMBERED_FOR: Duration = Duration::from_secs(300);

static SLOW: Semaphore = Semaphore::const_new(AT_ONCE);
static QUEUE: Semaphore = Semaphore::const_new(WAITING);

/// What a worker remembers.
#[derive(Default)]
pub struct Successes(RefCell<HashMap<[u8; 32], Instant>>);

pub async fn pass(
    basic: &Basic,
    secrets: &Secrets,
    prepared: &Prepared,
    request: &mut RequestHead,
) -> Result<(), Refusal> {
    if let Some(name) = &basic.forward_user {
        request.fields.remove(name.as_bytes());
    }
    let text = secrets.text(&basic.users).map_err(|_| Refusal::new(500, Reason::SecretMissing))?;
    let users = prepared.users(text).map_err(|_| Refusal::new(500, Reason::SecretMissing))?;
    let challenge = || {
        // RFC 7617 §2.1; a quoted string has no other quotes, which compile has seen to.
        Refusal::challenge(Reason::BasicAuth, format!("Basic realm=\"{}\", charset=\"UTF-8\"", basic.realm))
    };
    let given = credentials(&request.fields).ok_or_else(challenge)?;
    let (name, password) = given.split();
    if !is_user(&users, name, password, prepared).await? {
        return Err(challenge());
    }
    if let Some(header) = &basic.forward_user {
        forward(&mut request.fields, header, name);
    }
    Ok(())
}

struct Given(Zeroizing<String>, usize);

impl Given {
    fn split(&self) -> (&str, &[u8]) {
        let (name, rest) = self.0.split_at(self.1);
        (name, rest.as_bytes().get(1..).unwrap_or_default())
    }
}

/// The only `Authorization` field, where it is a good one of this scheme.
fn credentials(fields: &Fields) -> Option<Given> {
    let mut all = fields.all(b"authorization");
    let (value, None) = (all.next()?, all.next()) else { return None };
    let (scheme, rest) = value.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"basic ") || rest.len() > LONGEST {
        return None;
    }
    let decoded = Zeroizing::new(STANDARD.decode(rest.trim_ascii()).ok()?);
    let text = Zeroizing::new(std::str::from_utf8(&decoded).ok()?.to_owned());
    let colon = text.find(':').filter(|colon| *colon > 0)?;
    Some(Given(text, colon))
}

async fn is_user(users: &Rc<Users>, name: &str, text: &[u8], prepared: &Prepared) -> Result<bool, Refusal> {
    let known = users.list.get(name);
    let Some(hash) = known.or_else(|| users.list.any()) else { return Ok(false) };
    if !password::is_costly(hash) {
        return Ok(password::is_right(hash, text) && known.is_some());
    }
    let print = users.print(name, text);
    if prepared.successes.is_known(&print) {
        return Ok(true);
    }
    let overloaded = |_| Refusal::new(503, Reason::Overloaded);
    let _waiting = QUEUE.try_acquire().map_err(|_| Refusal::new(503, Reason::Overloaded))?;
    let turn = tokio::time::timeout(PATIENCE, SLOW.acquire()).await.map_err(overloaded)?;
    let _turn = turn.map_err(|_| Refusal::new(503, Reason::Draining))?;
    let (hash, text) = (hash.clone(), Zeroizing::new(text.to_vec()));
    let answer = tokio::task::spawn_blocking(move || password::is_right(&hash, &text)).await;
    let is_right = answer.map_err(|_| Refusal::new(500, Reason::Internal))? && known.is_some();
    if is_right {
        prepared.successes.remember(print);
    }
    Ok(is_right)
}

/// A file of users as a worker has it.
pub struct Users {
    list: Htpasswd,
    /// Only for this file, so that what was right with the one before is not known with the next.
    key: hmac::Key,
}

impl Users {
    pub fn parse(text: &[u8]) -> Result<Self, Arc<str>> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &aws_lc_rs::rand::SystemRandom::new());
        let key = key.map_err(|_| Arc::from("the system has no random numbers"))?;
        Ok(Self { list: Htpasswd::parse(text)?, key })
    }

    fn print(&self, name: &str, password: &[u8]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.key);
        // A name has no colon.
        for part in [name.as_bytes(), b":", password] {
            context.update(part);
        }
        let mut print = [0; 32];
        print.copy_from_slice(context.sign().as_ref());
        print
    }
}

impl Successes {
    fn is_known(&self, print: &[u8; 32]) -> bool {
        self.0.borrow().get(print).is_some_and(|at| at.elapsed() < REMEMBERED_FOR)
    }

    fn remember(&self, print: [u8; 32]) {
        let mut known = self.0.borrow_mut();
        if known.len() >= REMEMBERED {
            known.retain(|_, at| at.elapsed() < REMEMBERED_FOR);
        }
        if known.len() >= REMEMBERED {
            *known = HashMap::new();
        }
        known.insert(print, Instant::now());
    }
}
