//! What a request has to show before it may pass, as policies and filters say it.

use edge_config::policy::{
    AccessRule, ApiKeys, Authorization, Basic, ClaimTest, Jwt, JwtProvider, KeySource, Missing, PathTest, PathTestKind,
    Place, Security,
};
use edge_config::snapshot::{Listener, Rule};

use super::asked;

/// Rules of authorization that are shown.
const SHOWN: usize = 12;

/// What holds for a rule at a listener.
pub fn of<'s>(rule: &'s Rule, listener: &'s Listener) -> Option<&'s Security> {
    let own = rule.policy.as_ref().and_then(|policy| policy.security.as_deref());
    own.or_else(|| listener.policy.as_ref()?.security.as_deref())
}

/// One line for each step, in their order.
pub fn lines(security: &Security) -> Vec<String> {
    let mut lines = vec![format!("who may pass: {}", security.from)];
    if let Some(why) = &security.closed {
        lines.push(format!("nobody passes: {why}"));
        return lines;
    }
    lines.extend(security.cors.as_ref().map(|_| "CORS as the policy says it".to_owned()));
    if let Some(csrf) = &security.csrf {
        let shadow = csrf.shadow.map(|(part, of)| format!(", only judged for {part} of {of}")).unwrap_or_default();
        let count = csrf.origins.len();
        lines.push(format!("CSRF: POST, PUT, DELETE, PATCH from the same host or {count} other origins{shadow}"));
    }
    lines.extend(security.ext_auth.iter().map(|auth| asked::ext_auth(auth)));
    lines.extend(security.api_keys.as_deref().map(api_keys));
    lines.extend(security.basic.as_ref().map(password));
    lines.extend(security.oidc.iter().flat_map(|login| asked::oidc(login)));
    lines.extend(security.jwt.iter().flat_map(tokens));
    lines.extend(security.authorization.iter().flat_map(authorization));
    lines
}

fn api_keys(keys: &ApiKeys) -> String {
    let places = keys.places.iter().map(|place| match place {
        Place::Header(name) => format!("header {name}"),
        Place::Param(name) => format!("parameter {name}"),
        Place::Cookie(name) => format!("cookie {name}"),
    });
    let places: Vec<String> = places.collect();
    let told = keys.forward_client.as_ref().map(|name| format!(", told in {name}")).unwrap_or_default();
    let taken = if keys.sanitize { ", taken out" } else { "" };
    format!("API key of one of {} clients in {}{told}{taken}", keys.clients.len(), places.join(", "))
}

fn password(basic: &Basic) -> String {
    let told = basic.forward_user.as_ref().map(|name| format!(", told in {name}")).unwrap_or_default();
    format!("password of a user in Secret {} key {}{told}", basic.users.secret, basic.users.key)
}

fn tokens(jwt: &Jwt) -> Vec<String> {
    let missing = match jwt.missing {
        Missing::Refused => "must be there",
        Missing::Passes => "may be missing",
        Missing::PassesEvenBad => "may be missing or bad",
    };
    jwt.providers.iter().map(|provider| token(provider, missing)).collect()
}

fn token(provider: &JwtProvider, missing: &str) -> String {
    let issuer = provider.issuer.as_ref().map(|issuer| format!(" of {issuer}")).unwrap_or_default();
    let keys = match &provider.keys {
        KeySource::Local(keys) => format!("{} keys of the policy", keys.keys.len()),
        KeySource::Secret(reference) => format!("the keys in Secret {}", reference.secret),
        KeySource::Remote(remote) => asked::keys(remote),
    };
    let audiences = match &provider.audiences[..] {
        [] => String::new(),
        list => format!(" for {}", list.join(" or ")),
    };
    format!("token{issuer}{audiences} by {keys} (provider {}), {missing}", provider.name)
}

pub fn authorization(authorization: &Authorization) -> Vec<String> {
    let word = |allow: bool| if allow { "allow" } else { "deny" };
    let line = |rule: &AccessRule| {
        let methods = Some(rule.methods.join(", ")).filter(|methods| !methods.is_empty());
        let clients = rule.clients.as_ref().map(|clients| match clients.len() {
            count @ 0..4 => {
                let ranges: Vec<String> = clients.ranges().take(count).map(|range| range.to_string()).collect();
                ranges.join(", ")
            }
            count => format!("{count} networks"),
        });
        let headers = rule.headers.iter().map(|(name, values)| format!("{name}: {}", values.join(" or ")));
        let what: Vec<String> = methods
            .into_iter()
            .chain(rule.path.as_ref().map(path))
            .chain(clients)
            .chain(headers)
            .chain(rule.token.as_ref().map(claims))
            .collect();
        format!("{} {} ({})", word(rule.allow), what.join("; "), rule.name)
    };
    let more = authorization.rules.len().saturating_sub(SHOWN);
    let shown = authorization.rules.iter().take(SHOWN).map(line);
    let more = (more > 0).then(|| format!("and {more} more rules"));
    shown.chain(more).chain([format!("else {}", word(authorization.allow))]).collect()
}

fn path(test: &PathTest) -> String {
    let not = if test.invert { "not " } else { "" };
    match &test.kind {
        PathTestKind::Exact(path) => format!("{not}{path}"),
        PathTestKind::Prefix(prefix) => format!("{not}{prefix}/…"),
        PathTestKind::Regex(pattern) => format!("{not}~{}", pattern.as_str()),
    }
}

fn claims(test: &ClaimTest) -> String {
    let claims = test.claims.iter().map(|(name, _, values)| format!("{}: {}", name.0, values.join(" or ")));
    let scopes = (!test.scopes.is_empty()).then(|| format!("scopes {}", test.scopes.join(", ")));
    let all: Vec<String> = claims.chain(scopes).collect();
    format!("token of {} with {}", test.provider, all.join(", "))
}
