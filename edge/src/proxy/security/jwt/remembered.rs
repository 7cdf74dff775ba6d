//! Tokens that a worker has verified, by digest: what a signature costs is paid once for each token and set of keys.

use std::cell::RefCell;
use std::sync::Arc;

use aws_lc_rs::digest;
use foldhash::{HashMap, HashMapExt};
use serde_json::{Map, Value};

use super::claims;
use super::keys::{JwtError, KeySet, verify};

/// Of each of two ages; when the younger is full, the older is forgotten.
const MOST: usize = 2048;
/// Claims of tokens that are longer are not kept: a few clients could fill the memory.
const LONGEST: usize = 4096;

type Known = (Arc<Map<String, Value>>, (f64, f64));

#[derive(Default)]
pub struct Verified(RefCell<Ages>);

#[derive(Default)]
struct Ages {
    young: HashMap<Print, Known>,
    old: HashMap<Print, Known>,
}

/// Keys and token. SHA-256: nobody finds another token with the digest of a good one.
type Print = (u64, [u8; 32]);

impl Verified {
    /// The claims of a token that one of the keys signed, and the times between which it is good.
    pub fn of(&self, keys: &KeySet, token: &str) -> Result<Known, JwtError> {
        let mut print = (keys.serial(), [0; 32]);
        print.1.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
        {
            let mut ages = self.0.borrow_mut();
            if let Some(known) = ages.young.get(&print) {
                return Ok(known.clone());
            }
            if let Some(known) = ages.old.remove(&print) {
                ages.put(print, known.clone());
                return Ok(known);
            }
        }
        let found = verify(token, keys)?;
        let times = claims::times(&found)?;
        let known = (Arc::new(found), times);
        if token.len() <= LONGEST {
            self.0.borrow_mut().put(print, known.clone());
        }
        Ok(known)
    }
}

impl Ages {
    fn put(&mut self, print: Print, known: Known) {
        if self.young.len() >= MOST {
            self.old = std::mem::replace(&mut self.young, HashMap::new());
        }
        self.young.insert(print, known);
    }
}
