//! Which policies cannot do what they are for, because somebody whom they ask is away. Pure: what is known and the time
//! flow in; one line for each policy flows out, which does not change more often than people and API servers can bear.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use edge_config::names::ObjectRef;
use edge_config::policy::{Provider, Security};

use super::discovery;
use super::{Known, ProviderState, keys_of};

/// One line each, by the policy or filter.
pub type Lines = Arc<BTreeMap<ObjectRef, String>>;

/// So long a login that failed says something of its provider, unless a later one does.
pub const FRESH: Duration = Duration::from_secs(600);
/// Between changes of what is told of one policy.
const CALM: Duration = Duration::from_secs(60);

impl Known {
    /// What is wrong for each policy at this moment.
    pub fn troubles<'s>(
        &self,
        policies: impl Iterator<Item = &'s Security>,
        now: Instant,
    ) -> BTreeMap<ObjectRef, String> {
        let mut found: BTreeMap<ObjectRef, String> = BTreeMap::new();
        let is_well = self.keys.values().all(|state| state.trouble.is_none())
            && self.providers.values().all(|state| state.trouble.is_none() && state.away.is_none());
        if is_well {
            return found;
        }
        for policy in policies {
            if let Some(oidc) = &policy.oidc
                && let Some(line) = self.of_provider(&oidc.provider, now)
            {
                found.entry(oidc.owner.clone()).or_insert(line);
            }
            for (jwt, keys) in policy.jwt.iter().flat_map(|jwt| policy.remote_keys().map(move |keys| (jwt, keys))) {
                let state = self.keys.get(&**keys);
                let Some((state, why)) = state.and_then(|state| Some((state, state.trouble.as_ref()?))) else {
                    continue;
                };
                let what = match &state.set {
                    Some(_) => "the last good ones stay in force",
                    None => "nobody passes by a token of theirs",
                };
                let line = format!("keys of {} cannot be fetched ({what}): {why}", keys.uri);
                found.entry(jwt.owner.clone()).or_insert(line);
            }
        }
        found
    }

    fn of_provider(&self, provider: &Arc<Provider>, now: Instant) -> Option<String> {
        let state: &ProviderState = self.providers.get(provider)?;
        let issuer = &provider.issuer;
        if let Some((at, why)) = &state.away
            && now.saturating_duration_since(*at) < FRESH
        {
            return Some(format!("the OpenID provider {issuer} gives no tokens, so nobody can log in: {why}"));
        }
        // What the policy says itself needs no discovery.
        let needs_discovery = discovery::given(provider).is_none();
        if let Some(why) = state.trouble.as_ref().filter(|_| needs_discovery) {
            let what = match &state.endpoints {
                Some(_) => "what it said last stays in force",
                None => "nobody can log in",
            };
            return Some(format!("the OpenID provider {issuer} cannot be discovered ({what}): {why}"));
        }
        let keys = keys_of(provider, state.endpoints.as_ref()?)?;
        let known = self.keys.get(&keys)?;
        let why = known.trouble.as_ref()?;
        let what = match &known.set {
            Some(_) => "the last good ones stay in force",
            None => "nobody can log in",
        };
        Some(format!("keys of the OpenID provider {issuer} cannot be fetched ({what}): {why}"))
    }
}

/// What is told: a line stays as it is for a minute after it changed, whatever happens meanwhile.
#[derive(Debug, Default)]
pub struct Told {
    lines: Lines,
    changed: BTreeMap<ObjectRef, Instant>,
}

impl Told {
    pub fn lines(&self) -> &Lines {
        &self.lines
    }

    pub fn settle(&mut self, mut found: BTreeMap<ObjectRef, String>, now: Instant) {
        self.changed.retain(|_, at| now.saturating_duration_since(*at) < CALM);
        let calm: Vec<&ObjectRef> = self.changed.keys().collect();
        for object in calm {
            match self.lines.get(object) {
                Some(line) => drop(found.insert(object.clone(), line.clone())),
                None => drop(found.remove(object)),
            }
        }
        if found == *self.lines {
            return;
        }
        let moved = |object: &&ObjectRef| found.get(*object) != self.lines.get(*object);
        let moved: Vec<ObjectRef> = found.keys().chain(self.lines.keys()).filter(moved).cloned().collect();
        self.changed.extend(moved.into_iter().map(|object| (object, now)));
        self.lines = Arc::new(found);
    }
}

#[cfg(test)]
mod tests {
    use edge_config::names::{Kind, ObjectKey};

    use super::*;

    #[test]
    fn a_line_changes_at_most_once_a_minute() {
        let start = Instant::now();
        let policy = ObjectRef::new(Kind::SecurityPolicy, ObjectKey::new("shop", "login"));
        let other = ObjectRef::new(Kind::SecurityPolicy, ObjectKey::new("shop", "other"));
        let of = |lines: &[(&ObjectRef, &str)]| -> BTreeMap<ObjectRef, String> {
            lines.iter().map(|(object, line)| ((*object).clone(), (*line).to_owned())).collect()
        };
        let mut told = Told::default();
        for (second, found, expected) in [
            (0, of(&[]), of(&[])),
            (1, of(&[(&policy, "refused")]), of(&[(&policy, "refused")])),
            (2, of(&[]), of(&[(&policy, "refused")])),
            (3, of(&[(&policy, "slow"), (&other, "away")]), of(&[(&policy, "refused"), (&other, "away")])),
            (60, of(&[(&other, "away")]), of(&[(&policy, "refused"), (&other, "away")])),
            (61, of(&[(&other, "away")]), of(&[(&other, "away")])),
            (62, of(&[(&policy, "refused")]), of(&[(&other, "away")])),
            (121, of(&[(&policy, "refused")]), of(&[(&policy, "refused")])),
        ] {
            told.settle(found, start + Duration::from_secs(second));
            assert_eq!(**told.lines(), expected, "after {second} s");
        }
    }
}
