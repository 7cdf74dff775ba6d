//! Certificates of Secrets: parsed when first used, and again only when their bytes change.
//!
//! In: PEM. Out: an entry for the table or the reason why there is none; for those named as CA, a signer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aws_lc_rs::digest;
use edge_acme::local::Signer;
use edge_config::names::CertId;

use super::Supplied;
use super::table::{CertEntry, Origin};
use crate::proxy::tls::provider;

#[derive(Default)]
pub(super) struct SuppliedCache {
    entries: BTreeMap<CertId, Cached<CertEntry>>,
    signers: BTreeMap<CertId, Cached<Signer>>,
}

struct Cached<T> {
    sum: [u8; 32],
    result: Result<Arc<T>, String>,
}

impl SuppliedCache {
    /// Brings the cache to exactly what is used of what is supplied.
    pub(super) fn update(
        &mut self,
        supplied: &BTreeMap<CertId, Supplied>,
        used: &BTreeSet<&CertId>,
        cas: &BTreeSet<&CertId>,
    ) {
        update(&mut self.entries, supplied, used, |supplied| {
            CertEntry::from_pem(&supplied.chain, &supplied.key, Origin::Supplied, provider())
                .map_err(|error| error.to_string())
        });
        update(&mut self.signers, supplied, cas, |supplied| {
            let chain = std::str::from_utf8(&supplied.chain).map_err(|_| "certificate is not UTF-8".to_owned())?;
            let key = std::str::from_utf8(&supplied.key).map_err(|_| "private key is not UTF-8".to_owned())?;
            Signer::from_pem(chain, key).map_err(|error| error.to_string())
        });
    }

    pub(super) fn entry(&self, id: &CertId) -> Option<&Result<Arc<CertEntry>, String>> {
        self.entries.get(id).map(|cached| &cached.result)
    }

    pub(super) fn signer(&self, id: &CertId) -> Option<&Result<Arc<Signer>, String>> {
        self.signers.get(id).map(|cached| &cached.result)
    }

    pub(super) fn signers(&self) -> impl Iterator<Item = (&CertId, &Result<Arc<Signer>, String>)> {
        self.signers.iter().map(|(id, cached)| (id, &cached.result))
    }
}

fn update<T>(
    cache: &mut BTreeMap<CertId, Cached<T>>,
    supplied: &BTreeMap<CertId, Supplied>,
    used: &BTreeSet<&CertId>,
    parse: impl Fn(&Supplied) -> Result<T, String>,
) {
    cache.retain(|id, _| used.contains(id) && supplied.contains_key(id));
    for id in used {
        let Some(found) = supplied.get(*id) else { continue };
        let sum = sum(found);
        // The Arc must stay the same for the same certificate: TLS sessions and configurations hang on it.
        if cache.get(*id).is_none_or(|cached| cached.sum != sum) {
            cache.insert((*id).clone(), Cached { sum, result: parse(found).map(Arc::new) });
        }
    }
}

fn sum(supplied: &Supplied) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(&(supplied.chain.len() as u64).to_be_bytes());
    context.update(&supplied.chain);
    context.update(&supplied.key);
    let mut sum = [0; 32];
    sum.copy_from_slice(context.finish().as_ref());
    sum
}
