//! Local traffic policies as rules of HTTPRoutes. Conditions become matches, actions filters and backends; a rule that
//! cannot be told is left out, and if it refused somebody the whole virtual server is closed.

use super::model::{Action, Condition, Policy, PolicyRule, Test};
use crate::migrate::gateway::{Headers, Rule, filter, path_match, path_modifier, redirect};
use crate::migrate::{NoteKind, Notes};
use crate::yaml::Tree;

/// A rule, for whom it is, and to which pool it sends.
pub(super) struct Translated {
    /// Empty: every host.
    pub hosts: Vec<String>,
    pub rule: Rule,
    pub pool: Option<String>,
    /// Redirects and refusals have no backend.
    pub needs_backend: bool,
}

/// Matches of a rule.
const MOST_MATCHES: usize = 32;

/// The rules of a policy, and whether something that it closes would be open.
pub(super) fn translate(policy: &Policy, notes: &mut Notes) -> (Vec<Translated>, bool) {
    let mut found = Vec::new();
    let mut is_closed = false;
    for rule in &policy.rules {
        match one(rule) {
            Ok((translated, remarks)) => {
                for remark in remarks {
                    policy.place.note(notes, NoteKind::Differs, format!("rule {}: {remark}", rule.name));
                }
                found.push(translated);
            }
            Err(why) => {
                let refuses = rule.actions.contains(&Action::Refuse);
                is_closed |= refuses;
                let closed =
                    if refuses { "; since it refuses requests, the virtual server is kept closed" } else { "" };
                let message = format!("rule {}: {why}; it is left out{closed}", rule.name);
                policy.place.note(notes, NoteKind::NoEquivalent, message);
            }
        }
    }
    if found.len() > 1 {
        let message =
            "rules: of several that match, the one with the more specific host and path counts, not the first";
        policy.place.note(notes, NoteKind::Differs, message);
    }
    (found, is_closed)
}

fn one(rule: &PolicyRule) -> Result<(Translated, Vec<String>), String> {
    let mut remarks = Vec::new();
    let mut hosts = Vec::new();
    let mut paths: Vec<Tree> = Vec::new();
    let mut headers: Vec<Tree> = Vec::new();
    let mut methods: Vec<String> = Vec::new();
    for condition in &rule.conditions {
        match condition {
            Condition::Host(test, values) => {
                if !hosts.is_empty() {
                    return Err("two conditions ask for the host".to_owned());
                }
                for value in values {
                    hosts.push(host(*test, value).ok_or_else(|| format!("no host name stands for {value:?}"))?);
                }
            }
            Condition::Path(test, values) => {
                if !paths.is_empty() {
                    return Err("two conditions ask for the path".to_owned());
                }
                for value in values {
                    let (matches, remark) = path(*test, value)?;
                    paths.push(matches);
                    remarks.extend(remark);
                }
            }
            Condition::Header(name, test, values) => {
                let alternatives: Vec<String> = values.iter().map(|value| pattern(*test, value)).collect();
                let header = match (test, values.as_slice()) {
                    (Test::Equals, [value]) => {
                        Tree::map([("name", name.as_str().into()), ("value", value.as_str().into())])
                    }
                    _ => {
                        let value = if alternatives.is_empty() { ".*".to_owned() } else { alternatives.join("|") };
                        Tree::map([
                            ("type", "RegularExpression".into()),
                            ("name", name.as_str().into()),
                            ("value", value.into()),
                        ])
                    }
                };
                headers.push(header);
            }
            Condition::Method(values) => methods.extend(values.iter().map(|method| method.to_ascii_uppercase())),
            Condition::Other(what) => return Err(format!("condition \"{what}\" has no counterpart")),
        }
    }
    if paths.is_empty() && !(headers.is_empty() && methods.is_empty()) {
        paths.push(path_match("PathPrefix", "/"));
    }
    let mut matches = Vec::new();
    for path in paths {
        let path = if headers.is_empty() { path } else { path.with("headers", headers.clone()) };
        match methods.is_empty() {
            true => matches.push(path),
            false => matches.extend(methods.iter().map(|method| path.clone().with("method", method.as_str()))),
        }
    }
    if matches.len() > MOST_MATCHES {
        return Err(format!("it has {} combinations of paths and methods", matches.len()));
    }
    let mut translated =
        Translated { hosts, rule: Rule { matches, ..Rule::default() }, pool: None, needs_backend: true };
    actions(rule, &mut translated, &mut remarks)?;
    Ok((translated, remarks))
}

fn actions(rule: &PolicyRule, translated: &mut Translated, remarks: &mut Vec<String>) -> Result<(), String> {
    let mut request = Headers::default();
    let mut response = Headers::default();
    let mut rewrite = Tree::map([]);
    let mut filters = Vec::new();
    for action in &rule.actions {
        // TCL in a value is a program.
        let fixed = |text: &str| match text.contains('[') || text.contains('$') || text.starts_with("tcl:") {
            true => Err(format!("{text:?} is computed for each request")),
            false => Ok(text.to_owned()),
        };
        match action {
            Action::Forward(pool) => translated.pool = Some(pool.clone()),
            Action::Redirect(location, status) => {
                let to =
                    redirect_to(location, *status).ok_or_else(|| format!("no redirect stands for {location:?}"))?;
                filters.push(redirect(to));
                translated.needs_backend = false;
            }
            Action::Replace(name, value) if name.eq_ignore_ascii_case("host") => rewrite.put("hostname", fixed(value)?),
            Action::Insert(name, value) => request.add.push((name.clone(), fixed(value)?)),
            Action::Replace(name, value) => request.set.push((name.clone(), fixed(value)?)),
            Action::Remove(name) => request.remove.push(name.clone()),
            Action::InsertInResponse(name, value) => response.add.push((name.clone(), fixed(value)?)),
            Action::RemoveFromResponse(name) => response.remove.push(name.clone()),
            Action::ReplacePath(path) => rewrite.put("path", path_modifier("ReplaceFullPath", &fixed(path)?)),
            Action::Refuse => {
                translated.needs_backend = false;
                remarks.push("requests are answered with 500 where the connection was closed".to_owned());
            }
            Action::Nothing => {}
            Action::Other(what) => return Err(format!("action \"{what}\" has no counterpart")),
        }
    }
    if translated.needs_backend {
        filters.extend(request.of_request());
        filters.extend(response.of_response());
        if rewrite != Tree::map([]) {
            filters.push(filter("URLRewrite", "urlRewrite", rewrite));
        }
    }
    translated.rule.filters = filters;
    Ok(())
}

fn host(test: Test, value: &str) -> Option<String> {
    let value = value.to_ascii_lowercase();
    let is_name = value.chars().all(|c| c.is_ascii_alphanumeric() || "-.".contains(c));
    match test {
        _ if !is_name => None,
        Test::Equals if !value.starts_with('.') => Some(value),
        // `*.example.com` is at least one label more.
        Test::EndsWith if value.starts_with('.') => Some(format!("*{value}")),
        _ => None,
    }
}

fn path(test: Test, value: &str) -> Result<(Tree, Option<String>), String> {
    Ok(match test {
        Test::Equals => (path_match("Exact", value), None),
        Test::StartsWith if value.starts_with('/') => {
            let remark = (!value.ends_with('/'))
                .then(|| format!("path {value:?} matches whole segments; {value}x was taken as well"));
            (path_match("PathPrefix", value), remark)
        }
        Test::Exists => (path_match("PathPrefix", "/"), None),
        _ => (path_match("RegularExpression", &pattern(test, value)), None),
    })
}

/// A regular expression for the whole of a value.
fn pattern(test: Test, value: &str) -> String {
    let mut quoted = String::new();
    for c in value.chars() {
        if c.is_ascii_punctuation() && !"/-_~%&=:;,@!'\"`<> ".contains(c) {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    match test {
        Test::Equals => quoted,
        Test::StartsWith => format!("{quoted}.*"),
        Test::EndsWith => format!(".*{quoted}"),
        Test::Contains => format!(".*{quoted}.*"),
        Test::Exists => ".*".to_owned(),
    }
}

/// A location as BIG-IP writes it: a URL, or one made of the request's host and URI.
fn redirect_to(location: &str, status: u16) -> Option<Tree> {
    let text = location.strip_prefix("tcl:").unwrap_or(location);
    let (text, keeps_path) = match text.strip_suffix("[HTTP::uri]") {
        Some(rest) => (rest, true),
        None => (text, false),
    };
    let mut to = Tree::map([]);
    let path = match text.split_once("://") {
        Some((scheme @ ("http" | "https"), rest)) => {
            to.put("scheme", scheme);
            match rest.strip_prefix("[HTTP::host]").or_else(|| rest.strip_prefix("[getfield [HTTP::host] \":\" 1]")) {
                Some(rest) => rest,
                None => {
                    let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
                    let (host, port) = match authority.split_once(':') {
                        Some((host, port)) => (host, Some(port.parse::<u16>().ok()?)),
                        None => (authority, None),
                    };
                    to.put("hostname", self::host(Test::Equals, host)?);
                    if let Some(port) = port {
                        to.put("port", port);
                    }
                    path
                }
            }
        }
        Some(_) => return None,
        None => text,
    };
    if path.contains(['[', '$', '?', '#']) || (keeps_path && !path.trim_end_matches('/').is_empty()) {
        return None;
    }
    if !keeps_path {
        if !path.is_empty() && !path.starts_with('/') {
            return None;
        }
        to.put("path", path_modifier("ReplaceFullPath", if path.is_empty() { "/" } else { path }));
    }
    let status = if matches!(status, 301 | 302 | 303 | 307 | 308) { status } else { 302 };
    Some(to.with("statusCode", status))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations() {
        for (location, good) in [
            ("tcl:https://[HTTP::host][HTTP::uri]", true),
            ("https://www.example.com/new", true),
            ("tcl:https://www.example.com:8443[HTTP::uri]", true),
            ("/login", true),
            ("tcl:https://[string tolower [HTTP::host]]/x", false),
            ("https://a/?x=[HTTP::query]", false),
        ] {
            assert_eq!(redirect_to(location, 302).is_some(), good, "{location}");
        }
    }

    #[test]
    fn tests_of_texts() {
        assert_eq!(host(Test::EndsWith, ".Example.com").as_deref(), Some("*.example.com"));
        assert_eq!(host(Test::Contains, "shop"), None);
        assert_eq!(pattern(Test::EndsWith, ".jpg"), ".*\\.jpg");
        assert_eq!(pattern(Test::Contains, "a+b"), ".*a\\+b.*");
    }
}
