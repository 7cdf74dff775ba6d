//! One object's status: what is there, merged with what Edge wants to say. Pure.
//!
//! In: `status` as the API has it, the one that `edge_config::status` renders, our controller names and the time. Out:
//! the members of `status` that must change, or nothing. What others wrote stays as it is: conditions of types that Edge
//! does not write, and entries of other controllers.
//!
//! Standards: Gateway API v1.6.1, the duties listed at GatewayStatus.Conditions ("read-modify-write", "MUST NOT remove
//! or reorder Conditions that they are not directly responsible for", "if the observedGeneration of a Condition is
//! greater … MUST NOT perform the update"), RouteStatus.Parents, PolicyStatus.Ancestors; metav1.Condition.

use edge_config::names::{Kind, ObjectRef};
use edge_config::report::CONDITION_TYPES;
use serde_json::{Map, Value, json};

/// Who writes, and when.
pub struct Author<'a> {
    /// Entries under these controller names are ours.
    pub controllers: &'a [String],
    /// RFC 3339, whole seconds, UTC.
    pub now: &'a str,
    /// Where edges of other groups write under the same names: whether this edge knows what a reference in an object of
    /// a namespace leads to. An entry for what it does not know is theirs.
    pub others: Option<&'a IsKnown<'a>>,
}

/// Whether a reference in an object of a namespace leads to something that this edge reads.
pub type IsKnown<'a> = dyn Fn(&str, &Value) -> bool + 'a;

/// Names of our own have this prefix, so nobody else's condition type begins with it.
const OWN_PREFIX: &str = "edge.internal/";

// The bounds of the CRDs; a status that is past one of them is refused as a whole.
const MOST_CONDITIONS: usize = 8;
const PARENTS: (&str, usize) = ("parentRef", 32);
const ANCESTORS: (&str, usize) = ("ancestorRef", 16);
/// Entries that are told apart by their controller alone.
const CONTROLLERS: (&str, usize) = ("controllerName", 16);
const MOST_LISTENERS: usize = 64;
const MOST_ADDRESSES: usize = 16;
const MOST_FEATURES: usize = 64;
const LONGEST_MESSAGE: usize = 32_768;

impl Author<'_> {
    /// The members of `status` to write, so that it says what is wanted; `None` where it does already. Without a wanted
    /// status nothing of ours may stay, as far as it bears our name.
    pub fn changes(&self, object: &ObjectRef, seen: &Value, wanted: Option<&Value>) -> Option<Map<String, Value>> {
        let mut changes = Map::new();
        let mut put = |name: &str, value: Value| {
            if !is_same(&seen[name], &value) {
                changes.insert(name.to_owned(), value);
            }
        };
        let home = &*object.key.namespace;
        match (object.kind, wanted) {
            (Kind::HTTPRoute | Kind::GRPCRoute | Kind::TLSRoute | Kind::TCPRoute | Kind::UDPRoute, wanted) => {
                let entries = wanted.map(|wanted| list(&wanted["parents"])).unwrap_or_default();
                put("parents", self.entries(home, list(&seen["parents"]), entries, &PARENTS));
            }
            (
                Kind::BackendTLSPolicy
                | Kind::ClientTrafficPolicy
                | Kind::BackendTrafficPolicy
                | Kind::SecurityPolicy
                | Kind::UpstreamSettingsPolicy
                | Kind::ClientSettingsPolicy
                | Kind::ProxySettingsPolicy
                | Kind::RateLimitPolicy
                | Kind::SnippetsPolicy,
                wanted,
            ) => {
                let entries = wanted.map(|wanted| list(&wanted["ancestors"])).unwrap_or_default();
                put("ancestors", self.entries(home, list(&seen["ancestors"]), entries, &ANCESTORS));
            }
            (Kind::AuthenticationFilter | Kind::SnippetsFilter, wanted) => {
                let entries = wanted.map(|wanted| list(&wanted["controllers"])).unwrap_or_default();
                put("controllers", self.entries(home, list(&seen["controllers"]), entries, &CONTROLLERS));
            }
            (Kind::Backend, Some(wanted)) => {
                put("conditions", self.shared_conditions(list(&seen["conditions"]), list(&wanted["conditions"])));
            }
            (Kind::Gateway, Some(wanted)) => {
                put("conditions", self.conditions(list(&seen["conditions"]), list(&wanted["conditions"])));
                put("addresses", first(list(&wanted["addresses"]), MOST_ADDRESSES));
                put("listeners", self.listeners(list(&seen["listeners"]), list(&wanted["listeners"])));
                put("attachedListenerSets", wanted["attachedListenerSets"].clone());
            }
            (Kind::ListenerSet, Some(wanted)) => {
                put("conditions", self.conditions(list(&seen["conditions"]), list(&wanted["conditions"])));
                put("listeners", self.listeners(list(&seen["listeners"]), list(&wanted["listeners"])));
            }
            (Kind::GatewayClass, Some(wanted)) => {
                put("conditions", self.conditions(list(&seen["conditions"]), list(&wanted["conditions"])));
                put("supportedFeatures", features(list(&wanted["supportedFeatures"])));
            }
            _ => {}
        }
        (!changes.is_empty()).then_some(changes)
    }

    /// The members of the status of a Certificate or an Issuer that must change; those that are not wanted stay.
    pub fn certificate_changes(&self, seen: &Value, wanted: &Value) -> Option<Map<String, Value>> {
        let is_wanted = |kind: &Value| list(&wanted["conditions"]).iter().any(|condition| condition["type"] == *kind);
        let is_kept = |condition: &&Value| {
            !["Ready", "Issuing"].iter().any(|own| condition["type"] == *own) || is_wanted(&condition["type"])
        };
        let known: Vec<Value> = list(&seen["conditions"]).iter().filter(is_kept).cloned().collect();
        let mut changes = Map::new();
        for (name, value) in wanted.as_object().into_iter().flatten() {
            let value = match name.as_str() {
                "conditions" => self.conditions(&known, list(value)),
                // What cert-manager keeps there beside it stays.
                _ => value.clone(),
            };
            let is_there = match (&seen[name], &value) {
                (Value::Object(seen), Value::Object(wanted)) => {
                    wanted.iter().all(|(name, value)| seen.get(name) == Some(value))
                }
                (seen, wanted) => is_same(seen, wanted),
            };
            if !is_there {
                changes.insert(name.clone(), value);
            }
        }
        (!changes.is_empty()).then_some(changes)
    }

    /// `status.parents` or `status.ancestors`. Ours stay where they are, those of others too; new ones go to the end.
    fn entries(&self, home: &str, seen: &[Value], wanted: &[Value], &(reference, most): &(&str, usize)) -> Value {
        let same = |a: &Value, b: &Value| a["controllerName"] == b["controllerName"] && a[reference] == b[reference];
        let mut out: Vec<Value> = Vec::with_capacity(wanted.len());
        for entry in seen {
            let controller = entry["controllerName"].as_str().unwrap_or_default();
            if !self.controllers.iter().any(|ours| ours == controller) {
                out.push(entry.clone());
            } else if let Some(wanted) = wanted.iter().find(|wanted| same(entry, wanted))
                && !out.iter().any(|done| same(done, entry))
            {
                let conditions = self.conditions(list(&entry["conditions"]), list(&wanted["conditions"]));
                let mut entry = entry.clone();
                entry["conditions"] = conditions;
                out.push(entry);
            } else if self.others.is_some_and(|is_known| !is_known(home, &entry[reference])) {
                out.push(entry.clone());
            }
        }
        for entry in wanted {
            if out.len() >= most {
                break;
            }
            if !out.iter().any(|done| same(done, entry)) {
                let mut entry = entry.clone();
                entry["conditions"] = self.conditions(&[], list(&entry["conditions"]));
                out.push(entry);
            }
        }
        Value::Array(out)
    }

    fn listeners(&self, seen: &[Value], wanted: &[Value]) -> Value {
        let one = |wanted: &Value| {
            let known = seen.iter().find(|entry| entry["name"] == wanted["name"]);
            let known = known.map(|entry| list(&entry["conditions"])).unwrap_or_default();
            let mut entry = wanted.clone();
            entry["conditions"] = self.conditions(known, list(&wanted["conditions"]));
            entry
        };
        wanted.iter().take(MOST_LISTENERS).map(one).collect()
    }

    fn conditions(&self, seen: &[Value], wanted: &[Value]) -> Value {
        let mut out: Vec<Value> = Vec::with_capacity(seen.len().max(wanted.len()));
        for known in seen {
            let kind = known["type"].as_str().unwrap_or_default();
            match wanted.iter().find(|wanted| wanted["type"] == kind) {
                Some(wanted) => out.push(self.condition(Some(known), wanted)),
                None if is_own(kind) && !is_newer(known, wanted) => {}
                None => out.push(known.clone()),
            }
        }
        for wanted in wanted {
            if out.len() >= MOST_CONDITIONS {
                break;
            }
            if !out.iter().any(|done| done["type"] == wanted["type"]) {
                out.push(self.condition(None, wanted));
            }
        }
        Value::Array(out)
    }

    /// The same where every controller writes the same conditions, without its name: who says the same in other words is
    /// left alone, so that two that agree do not write for ever.
    fn shared_conditions(&self, seen: &[Value], wanted: &[Value]) -> Value {
        let same = |a: &Value, b: &Value| {
            ["type", "status", "reason", "observedGeneration"].iter().all(|name| a[name] == b[name])
        };
        let one = |wanted: &Value| match seen.iter().find(|known| same(known, wanted)) {
            Some(known) if known["message"].as_str().is_some_and(|message| !message.is_empty()) => {
                json!({"type": known["type"], "status": known["status"], "reason": known["reason"],
                    "observedGeneration": known["observedGeneration"], "message": known["message"]})
            }
            _ => wanted.clone(),
        };
        let wanted: Vec<Value> = wanted.iter().map(one).collect();
        self.conditions(seen, &wanted)
    }

    fn condition(&self, known: Option<&Value>, wanted: &Value) -> Value {
        let generation = |condition: &Value| condition["observedGeneration"].as_i64().unwrap_or_default();
        let message = cut(wanted["message"].as_str().unwrap_or_default());
        let mut since = self.now;
        if let Some(known) = known {
            if generation(known) > generation(wanted) {
                return known.clone();
            }
            let is_same = ["status", "reason", "observedGeneration"].iter().all(|name| known[name] == wanted[name]);
            if is_same && known["message"] == message {
                return known.clone();
            }
            if known["status"] == wanted["status"]
                && let Some(time) = known["lastTransitionTime"].as_str().filter(|time| !time.is_empty())
            {
                since = time;
            }
        }
        json!({
            "type": wanted["type"],
            "status": wanted["status"],
            "observedGeneration": wanted["observedGeneration"],
            "lastTransitionTime": since,
            "reason": wanted["reason"],
            "message": message,
        })
    }
}

fn is_own(kind: &str) -> bool {
    CONDITION_TYPES.contains(&kind) || kind.starts_with(OWN_PREFIX)
}

/// Whether a condition was written by somebody who knows a later generation than we do.
fn is_newer(known: &Value, wanted: &[Value]) -> bool {
    let ours = wanted.iter().filter_map(|condition| condition["observedGeneration"].as_i64()).max();
    matches!((known["observedGeneration"].as_i64(), ours), (Some(theirs), Some(ours)) if theirs > ours)
}

fn features(wanted: &[Value]) -> Value {
    let mut names: Vec<&str> = wanted.iter().filter_map(|feature| feature["name"].as_str()).collect();
    // GatewayClassStatus.SupportedFeatures: "sorted in ascending alphabetical order by the Name key".
    names.sort_unstable();
    names.dedup();
    names.iter().take(MOST_FEATURES).map(|name| json!({ "name": name })).collect()
}

fn first(list: &[Value], most: usize) -> Value {
    list.iter().take(most).cloned().collect()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// An absent list is an empty one.
fn is_same(seen: &Value, wanted: &Value) -> bool {
    seen == wanted || (seen.is_null() && wanted.as_array().is_some_and(Vec::is_empty))
}

/// As much of a message as the API takes, ending at a character.
fn cut(message: &str) -> &str {
    let mut end = message.len().min(LONGEST_MESSAGE);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    &message[..end]
}

#[cfg(test)]
mod tests;
