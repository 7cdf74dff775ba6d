//! Authorization: rules in order, the first that holds decides, and else the default.

use std::net::IpAddr;
use std::sync::Arc;

use serde::Serialize;
use serde_json::{Map, Value};

use super::{ClaimPath, Networks};
use crate::matching::Pattern;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Authorization {
    pub rules: Vec<AccessRule>,
    /// What happens where no rule holds.
    pub allow: bool,
}

/// All that it says must hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AccessRule {
    pub name: Box<str>,
    pub allow: bool,
    /// Empty: any.
    pub methods: Vec<Box<str>>,
    pub path: Option<PathTest>,
    pub clients: Option<Arc<Networks>>,
    /// Name (lower case) and the values of which it must have one.
    pub headers: Vec<(Box<str>, Vec<Box<str>>)>,
    pub token: Option<ClaimTest>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PathTest {
    pub kind: PathTestKind,
    pub invert: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum PathTestKind {
    Exact(Box<str>),
    /// By whole segments, without the slash at the end.
    Prefix(Box<str>),
    Regex(Pattern),
}

/// A token of this provider whose claims and scopes are all as they say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClaimTest {
    pub provider: Box<str>,
    /// The claim, whether it is a list, and the values of which it must be or have one.
    pub claims: Vec<(ClaimPath, bool, Vec<Box<str>>)>,
    pub scopes: Vec<Box<str>>,
}

/// Calls back with each value of a field, by its name in lower case.
pub type Values<'r> = &'r dyn Fn(&str, &mut dyn FnMut(&[u8]));

/// What is asked about.
#[derive(Clone, Copy)]
pub struct Request<'r> {
    pub client: IpAddr,
    pub method: &'r str,
    pub path: &'r str,
    pub header: Values<'r>,
    pub tokens: &'r [Token],
}

/// A token that was verified.
#[derive(Debug, Clone)]
pub struct Token {
    pub provider: Box<str>,
    pub claims: Arc<Map<String, Value>>,
}

impl Authorization {
    /// Whether the request may pass, and by which rule; `None`: by default.
    pub fn decide(&self, request: &Request<'_>) -> (bool, Option<&AccessRule>) {
        match self.rules.iter().find(|rule| rule.holds(request)) {
            Some(rule) => (rule.allow, Some(rule)),
            None => (self.allow, None),
        }
    }

    /// Whether its rules look at nothing but clients' addresses.
    pub fn is_about_addresses(&self) -> bool {
        self.rules.iter().all(|rule| {
            rule.methods.is_empty() && rule.path.is_none() && rule.headers.is_empty() && rule.token.is_none()
        })
    }

    /// The same of a connection, of which nothing but its address is known; see [`Self::is_about_addresses`].
    pub fn admits(&self, client: IpAddr) -> bool {
        let of = |rule: &&AccessRule| rule.clients.as_ref().is_none_or(|clients| clients.contains(client));
        self.rules.iter().find(of).map_or(self.allow, |rule| rule.allow)
    }
}

impl AccessRule {
    fn holds(&self, request: &Request<'_>) -> bool {
        (self.methods.is_empty() || self.methods.iter().any(|method| **method == *request.method))
            && self.path.as_ref().is_none_or(|path| path.holds(request.path))
            && self.clients.as_ref().is_none_or(|clients| clients.contains(request.client))
            && self.headers.iter().all(|(name, values)| self.has(request, name, values))
            && self.token.as_ref().is_none_or(|test| request.tokens.iter().any(|token| test.holds(token)))
    }

    /// A field that is there more than once allows nothing, and denies if one of its values does: what a backend would
    /// make of it is not known.
    fn has(&self, request: &Request<'_>, name: &str, values: &[Box<str>]) -> bool {
        let (mut lines, mut hits) = (0_usize, 0_usize);
        (request.header)(name, &mut |value| {
            lines += 1;
            hits += usize::from(values.iter().any(|wanted| wanted.as_bytes() == value));
        });
        if self.allow { lines == 1 && hits == 1 } else { hits > 0 }
    }
}

impl PathTest {
    fn holds(&self, path: &str) -> bool {
        let is_match = match &self.kind {
            PathTestKind::Exact(exact) => **exact == *path,
            PathTestKind::Prefix(prefix) => {
                path.strip_prefix(&**prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
            PathTestKind::Regex(pattern) => pattern.matches(path.as_bytes()),
        };
        is_match != self.invert
    }
}

impl ClaimTest {
    fn holds(&self, token: &Token) -> bool {
        self.provider == token.provider
            && self.claims.iter().all(|(claim, is_list, values)| {
                let is_wanted =
                    |value: &Value| value.as_str().is_some_and(|value| values.iter().any(|wanted| **wanted == *value));
                match claim.find(&token.claims) {
                    Some(Value::Array(list)) => *is_list && list.iter().any(is_wanted),
                    Some(value) => !is_list && is_wanted(value),
                    None => false,
                }
            })
            && self.scopes.iter().all(|scope| has_scope(&token.claims, scope))
    }
}

/// RFC 8693 §4.2 has one string with spaces; some providers write a list, and `scp`.
fn has_scope(claims: &Map<String, Value>, scope: &str) -> bool {
    ["scope", "scp"].into_iter().filter_map(|name| claims.get(name)).any(|value| match value {
        Value::String(text) => text.split(' ').any(|one| one == scope),
        Value::Array(list) => list.iter().any(|one| one.as_str() == Some(scope)),
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::AddressRange;

    fn rule(allow: bool) -> AccessRule {
        AccessRule {
            name: "r".into(),
            allow,
            methods: Vec::new(),
            path: None,
            clients: None,
            headers: Vec::new(),
            token: None,
        }
    }

    fn ask(
        authorization: &Authorization,
        request: (&str, &str, &str),
        fields: &[(&str, &str)],
        tokens: &[Token],
    ) -> bool {
        let (client, method, path) = request;
        let header = |name: &str, each: &mut dyn FnMut(&[u8])| {
            fields.iter().filter(|(field, _)| *field == name).for_each(|(_, value)| each(value.as_bytes()));
        };
        let request = Request { client: client.parse().unwrap(), method, path, header: &header, tokens };
        authorization.decide(&request).0
    }

    fn path(kind: PathTestKind, invert: bool) -> AccessRule {
        AccessRule { path: Some(PathTest { kind, invert }), ..rule(true) }
    }

    #[test]
    fn first_rule_that_holds_decides() {
        let networks = Networks::new([AddressRange::parse("10.0.0.0/8").unwrap()]);
        let clients = AccessRule { clients: Some(Arc::new(networks)), ..rule(true) };
        let denied = AccessRule { methods: vec!["DELETE".into()], ..rule(false) };
        let both = Authorization { rules: vec![denied, clients], allow: false };
        for (request, expected) in [
            (("10.1.1.1", "GET", "/"), true),
            (("10.1.1.1", "DELETE", "/"), false),
            (("10.1.1.1", "delete", "/"), true),
            (("192.0.2.1", "GET", "/"), false),
            (("::ffff:10.0.0.1", "GET", "/"), true),
        ] {
            assert_eq!(ask(&both, request, &[], &[]), expected, "{request:?}");
        }
        let open = Authorization { rules: Vec::new(), allow: true };
        assert!(ask(&open, ("192.0.2.1", "GET", "/"), &[], &[]));
    }

    #[test]
    fn paths() {
        let prefix = |text: &str| PathTestKind::Prefix(text.into());
        for (rule, text, expected) in [
            (path(PathTestKind::Exact("/a".into()), false), "/a", true),
            (path(PathTestKind::Exact("/a".into()), false), "/a/", false),
            (path(prefix("/a"), false), "/a", true),
            (path(prefix("/a"), false), "/a/b", true),
            (path(prefix("/a"), false), "/ab", false),
            (path(prefix(""), false), "/anything", true),
            (path(prefix("/a"), true), "/ab", true),
            (path(prefix("/a"), true), "/a/b", false),
            (path(PathTestKind::Regex(Pattern::parse("/v[0-9]+/.*").unwrap()), false), "/v2/x", true),
            (path(PathTestKind::Regex(Pattern::parse("/v[0-9]+").unwrap()), false), "/v2/x", false),
        ] {
            let authorization = Authorization { rules: vec![rule], allow: false };
            assert_eq!(ask(&authorization, ("192.0.2.1", "GET", text), &[], &[]), expected, "{authorization:?} {text}");
        }
    }

    #[test]
    fn a_field_that_is_there_twice_opens_nothing_and_hides_nothing() {
        let headers = vec![("x-user".into(), vec!["alice".into(), "root".into()])];
        let allow = Authorization { rules: vec![AccessRule { headers: headers.clone(), ..rule(true) }], allow: false };
        let deny = Authorization { rules: vec![AccessRule { headers, ..rule(false) }], allow: true };
        for (fields, allowed, denied) in [
            (&[("x-user", "alice")][..], true, true),
            (&[("x-user", "bob")], false, false),
            (&[], false, false),
            (&[("x-user", "alice"), ("x-user", "bob")], false, true),
            (&[("x-user", "alice"), ("x-user", "alice")], false, true),
            (&[("x-user", "Alice")], false, false),
        ] {
            assert_eq!(ask(&allow, ("192.0.2.1", "GET", "/"), fields, &[]), allowed, "{fields:?}");
            assert_eq!(!ask(&deny, ("192.0.2.1", "GET", "/"), fields, &[]), denied, "{fields:?}");
        }
    }

    #[test]
    fn claims_and_scopes() {
        let token = |provider: &str, claims: Value| Token {
            provider: provider.into(),
            claims: Arc::new(claims.as_object().unwrap().clone()),
        };
        let claim = |name: &str, is_list: bool, value: &str| {
            (ClaimPath(name.into()), is_list, vec![Box::from("nobody"), value.into()])
        };
        let claims = serde_json::json!({
            "user": { "name": "John Doe", "roles": ["admin", "dev"] },
            "sub": "1", "age": 7, "https://a.example/tier": "gold", "scope": "read add modify",
        });
        for (claims_wanted, scopes, provider, expected) in [
            (vec![claim("user.name", false, "John Doe")], vec![], "example", true),
            (vec![claim("user.name", false, "John Doe")], vec![], "other", false),
            (vec![claim("user.name", true, "John Doe")], vec![], "example", false),
            (vec![claim("user.roles", true, "admin")], vec!["read"], "example", true),
            (vec![claim("user.roles", false, "admin")], vec![], "example", false),
            (vec![claim("https://a.example/tier", false, "gold")], vec![], "example", true),
            (vec![claim("age", false, "7")], vec![], "example", false),
            (vec![claim("user.name.first", false, "John")], vec![], "example", false),
            (vec![], vec!["read", "add"], "example", true),
            (vec![], vec!["ad"], "example", false),
            (vec![claim("sub", false, "1"), claim("sub", false, "2")], vec![], "example", false),
        ] {
            let test = ClaimTest {
                provider: provider.into(),
                claims: claims_wanted,
                scopes: scopes.into_iter().map(Into::into).collect(),
            };
            let text = format!("{test:?}");
            let authorization =
                Authorization { rules: vec![AccessRule { token: Some(test), ..rule(true) }], allow: false };
            let tokens = [token("example", claims.clone())];
            assert_eq!(ask(&authorization, ("192.0.2.1", "GET", "/"), &[], &tokens), expected, "{text}");
            assert!(!ask(&authorization, ("192.0.2.1", "GET", "/"), &[], &[]));
        }
        let scp = token("example", serde_json::json!({ "scp": ["read", 3] }));
        assert!(has_scope(&scp.claims, "read") && !has_scope(&scp.claims, "3"));
    }
}
