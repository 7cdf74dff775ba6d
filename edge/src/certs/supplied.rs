//! Secrets whose certificate is a CA that issues: parsed as a signer when first used, and again only when they change.
//!
//! In: what the source read. Out: a signer, or the reason why there is none.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use edge_acme::local::Signer;
use edge_config::names::CertId;

use super::Supplied;
use crate::source::KeyMaterial;

#[derive(Default)]
pub(super) struct SuppliedSigners(BTreeMap<CertId, Known>);

struct Known {
    from: Supplied,
    signer: Result<Arc<Signer>, String>,
}

impl SuppliedSigners {
    /// Brings the cache to exactly the CAs that are used.
    pub(super) fn update(&mut self, supplied: &BTreeMap<CertId, Supplied>, cas: &BTreeSet<&CertId>) {
        self.0.retain(|id, known| {
            cas.contains(id) && supplied.get(id).is_some_and(|supplied| is_same(supplied, &known.from))
        });
        for id in cas {
            if let Some(from) = supplied.get(*id)
                && !self.0.contains_key(*id)
            {
                let signer = from.as_ref().map_err(Clone::clone).and_then(|material| parse(material));
                self.0.insert((*id).clone(), Known { from: from.clone(), signer });
            }
        }
    }

    pub(super) fn signer(&self, id: &CertId) -> Option<&Result<Arc<Signer>, String>> {
        self.0.get(id).map(|known| &known.signer)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&CertId, &Result<Arc<Signer>, String>)> {
        self.0.iter().map(|(id, known)| (id, &known.signer))
    }
}

fn is_same(a: &Supplied, b: &Supplied) -> bool {
    match (a, b) {
        (Ok(a), Ok(b)) => Arc::ptr_eq(a, b),
        (Err(a), Err(b)) => a == b,
        _ => false,
    }
}

fn parse(material: &KeyMaterial) -> Result<Arc<Signer>, String> {
    let chain = std::str::from_utf8(&material.certificate_pem).map_err(|_| "certificate is not UTF-8".to_owned())?;
    let key = std::str::from_utf8(&material.key_pem).map_err(|_| "private key is not UTF-8".to_owned())?;
    Signer::from_pem(chain, key).map(Arc::new).map_err(|error| error.to_string())
}
