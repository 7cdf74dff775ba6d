//! Rows as nodes: the parts that need nothing but the row.

use std::borrow::Cow;

use super::Fact;
use crate::control::rates::Rate;
use crate::control::view::{CertificateRow, EndpointRow, Health};

/// Something that a lane may show.
pub(super) struct Entry<'m, T> {
    pub id: String,
    pub health: Cow<'m, Health>,
    pub of: T,
}

impl<'m, T> Entry<'m, T> {
    pub fn new(id: String, health: &'m Health, of: T) -> Self {
        Self { id, health: Cow::Borrowed(health), of }
    }

    pub fn owned(id: String, health: Health, of: T) -> Self {
        Self { id, health: Cow::Owned(health), of }
    }
}

pub(super) fn certificate(row: &CertificateRow) -> (String, String, Option<Rate>) {
    let end = row.not_after.as_deref().and_then(|end| end.get(..10)).map(|day| format!(" · ends {day}"));
    (row.secret.clone(), format!("{}{}", row.source, end.unwrap_or_default()), None)
}

pub(super) fn certificate_facts(row: &CertificateRow) -> Vec<Fact> {
    let mut facts = vec![Fact::new("names", few(&row.names, 20)), Fact::new("from", &*row.source)];
    facts.extend(row.not_after.as_ref().map(|end| Fact::new("ends", &**end)));
    facts.extend(row.renews_at.as_ref().map(|at| Fact::new("renewed at", &**at)));
    facts
}

pub(super) fn endpoint(row: &EndpointRow) -> (String, String, Option<Rate>) {
    let node = if row.node.is_empty() { String::new() } else { format!(" · {}", row.node) };
    (row.address.clone(), format!("{}{node}", row.target), None)
}

pub(super) fn endpoint_facts(row: &EndpointRow) -> Vec<Fact> {
    let target = (!row.target.is_empty()).then(|| Fact::new("is", &*row.target));
    let node = (!row.node.is_empty()).then(|| Fact::new("node", &*row.node));
    target.into_iter().chain(node).collect()
}

/// The first of many.
pub(super) fn few(all: &[String], most: usize) -> String {
    let more = all.len().saturating_sub(most);
    let text = all.iter().take(most).map(String::as_str).collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{text} and {more} more") } else { text }
}
