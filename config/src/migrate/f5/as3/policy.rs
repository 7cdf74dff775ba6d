//! Endpoint policies of AS3.

use super::{Reader, entries, list, number_of, text_of};
use crate::migrate::f5::model::{Action, Condition, Place, Policy, PolicyRule, Test};
use crate::yaml::Node;

impl Reader<'_> {
    pub(super) fn policy(&mut self, name: String, node: &Node<'_>, place: Place) {
        let rules = list(node.member("rules"))
            .into_iter()
            .map(|rule| PolicyRule {
                name: text_of(rule, "name").unwrap_or_default().to_owned(),
                conditions: list(rule.member("conditions")).into_iter().flat_map(condition).collect(),
                actions: list(rule.member("actions")).into_iter().flat_map(|one| self.action(one)).collect(),
            })
            .collect();
        self.model.policies.insert(name, Policy { place, rules });
    }

    fn action(&self, node: &Node<'_>) -> Vec<Action> {
        let kind = text_of(node, "type").unwrap_or_default();
        let is_response = text_of(node, "event") == Some("response");
        let other = || vec![Action::Other(kind.to_owned())];
        match kind {
            "forward" => {
                let pool = node.member("select").and_then(|select| select.member("pool"));
                pool.and_then(|pool| self.pointer(pool)).map_or_else(other, |pool| vec![Action::Forward(pool)])
            }
            "httpRedirect" => {
                let status = number_of(node, "code").and_then(|code| u16::try_from(code).ok()).unwrap_or(302);
                text_of(node, "location").map_or_else(other, |to| vec![Action::Redirect(to.to_owned(), status)])
            }
            "httpHeader" => {
                let pair = |key: &str| {
                    let member = node.member(key)?;
                    let value = text_of(member, "value").unwrap_or_default().to_owned();
                    Some((text_of(member, "name")?.to_owned(), value))
                };
                let mut found = Vec::new();
                if let Some((name, value)) = pair("insert") {
                    found.push(if is_response {
                        Action::InsertInResponse(name, value)
                    } else {
                        Action::Insert(name, value)
                    });
                }
                if let Some((name, _)) = pair("remove") {
                    found.push(if is_response { Action::RemoveFromResponse(name) } else { Action::Remove(name) });
                }
                if let Some((name, value)) = pair("replace").filter(|_| !is_response) {
                    found.push(Action::Replace(name, value));
                }
                if found.is_empty() { other() } else { found }
            }
            "httpUri" => {
                let replace = node.member("replace");
                let path = replace.and_then(|replace| text_of(replace, "path").or_else(|| text_of(replace, "value")));
                path.map_or_else(other, |path| vec![Action::ReplacePath(path.to_owned())])
            }
            "drop" | "shutdown" => vec![Action::Refuse],
            "log" => vec![Action::Nothing],
            _ => other(),
        }
    }
}

/// One condition of AS3 may ask for several things, all of which must hold.
fn condition(node: &Node<'_>) -> Vec<Condition> {
    let kind = text_of(node, "type").unwrap_or_default();
    let test = |member: &Node<'_>| -> Option<(Test, Vec<String>)> {
        let values = list(member.member("values")).into_iter().filter_map(Node::as_str).map(str::to_owned).collect();
        let test = match text_of(member, "operand").unwrap_or("equals") {
            "equals" => Test::Equals,
            "starts-with" => Test::StartsWith,
            "ends-with" => Test::EndsWith,
            "contains" => Test::Contains,
            "exists" => Test::Exists,
            _ => return None,
        };
        Some((test, values))
    };
    const BESIDE: [&str; 6] = ["type", "name", "event", "index", "normalized", "caseSensitive"];
    let mut found = Vec::new();
    let is_response = text_of(node, "event") == Some("response");
    for entry in entries(node).iter().filter(|entry| !BESIDE.contains(&&*entry.key)) {
        let one = test(&entry.value).filter(|_| !is_response).and_then(|(test, values)| match (kind, &*entry.key) {
            ("httpHost", "host" | "all") | ("httpUri", "host") => Some(Condition::Host(test, values)),
            ("httpUri", "path") => Some(Condition::Path(test, values)),
            ("httpMethod", "all") if test == Test::Equals => Some(Condition::Method(values)),
            ("httpHeader", "all") => match text_of(node, "name")? {
                name if name.eq_ignore_ascii_case("host") => Some(Condition::Host(test, values)),
                name => Some(Condition::Header(name.to_owned(), test, values)),
            },
            _ => None,
        });
        found.push(one.unwrap_or_else(|| Condition::Other(format!("{kind} {}", entry.key))));
    }
    if found.is_empty() { vec![Condition::Other(kind.to_owned())] } else { found }
}
