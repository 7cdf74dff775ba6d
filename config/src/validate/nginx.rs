//! NGINX Gateway Fabric's kinds, by the rules of their CRDs (v2.6).

use super::Faults;
use super::policy::targets;
use crate::gateway::PolicyTargetRef;
use crate::names::Kind;
use crate::nginx::{
    AuthenticationFilterSpec, AuthenticationType, ClaimMatchType, ClientSettingsPolicySpec, JwtKeySource,
    LoadBalancingMethod, NginxAuthorization, NginxContext, NginxDuration, NginxJwtAuth, NginxOidcAuth, NginxSize,
    ProxySettingsPolicySpec, RateLimitLogLevel, RateLimitPolicySpec, RequireType, Snippet, SnippetsFilterSpec,
    SnippetsPolicySpec, UpstreamSettingsPolicySpec,
};
use crate::yaml::Quoted;

/// Which kinds a policy may have as targets.
const ROUTES_TOO: [Kind; 3] = [Kind::Gateway, Kind::HTTPRoute, Kind::GRPCRoute];

pub fn upstream_settings_policy(spec: &UpstreamSettingsPolicySpec, faults: &mut Faults) {
    targets(&spec.target_refs, faults);
    if let Some(method) = &spec.load_balancing_method {
        let path = "spec.loadBalancingMethod";
        faults.known(path, method.as_str(), method.is_known(), LoadBalancingMethod::KNOWN);
    }
    if let Some(key) = &spec.hash_method_key {
        // `^\$[a-z_]+$`
        let is_variable = key
            .strip_prefix('$')
            .is_some_and(|name| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'));
        if !is_variable {
            faults.error("spec.hashMethodKey", format!("{} is no NGINX variable", Quoted(key)));
        }
    }
}

pub fn client_settings_policy(spec: &ClientSettingsPolicySpec, faults: &mut Faults) {
    kinds("spec.targetRef", std::slice::from_ref(&spec.target_ref), &ROUTES_TOO, faults);
    if let Some(body) = &spec.body {
        size("spec.body.maxSize", body.max_size.as_ref(), faults);
        size("spec.body.bufferSize", body.buffer_size.as_ref(), faults);
        duration("spec.body.timeout", body.timeout.as_ref(), faults);
    }
    let Some(keep) = &spec.keep_alive else { return };
    duration("spec.keepAlive.time", keep.time.as_ref(), faults);
    duration("spec.keepAlive.minTimeout", keep.min_timeout.as_ref(), faults);
    if let Some(timeout) = &keep.timeout {
        duration("spec.keepAlive.timeout.server", timeout.server.as_ref(), faults);
        duration("spec.keepAlive.timeout.header", timeout.header.as_ref(), faults);
        if timeout.header.is_some() && timeout.server.is_none() {
            faults.error("spec.keepAlive.timeout", "has header without server, expected both");
        }
    }
}

pub fn proxy_settings_policy(spec: &ProxySettingsPolicySpec, faults: &mut Faults) {
    inherited_targets(&spec.target_refs, faults);
    if let Some(buffering) = &spec.buffering {
        size("spec.buffering.bufferSize", buffering.buffer_size.as_ref(), faults);
        size("spec.buffering.busyBuffersSize", buffering.busy_buffers_size.as_ref(), faults);
        if let Some(buffers) = &buffering.buffers {
            size("spec.buffering.buffers.size", Some(&buffers.size), faults);
            if !(2..=256).contains(&buffers.number) {
                let message = format!("{} is out of range, expected 2 to 256", buffers.number);
                faults.error("spec.buffering.buffers.number", message);
            }
        }
    }
    if let Some(timeout) = &spec.timeout {
        duration("spec.timeout.connect", timeout.connect.as_ref(), faults);
        duration("spec.timeout.read", timeout.read.as_ref(), faults);
        duration("spec.timeout.send", timeout.send.as_ref(), faults);
    }
}

pub fn rate_limit_policy(spec: &RateLimitPolicySpec, faults: &mut Faults) {
    inherited_targets(&spec.target_refs, faults);
    let Some(limit) = &spec.rate_limit else { return };
    if let Some(level) = &limit.log_level {
        faults.known("spec.rateLimit.logLevel", level.as_str(), level.is_known(), RateLimitLogLevel::KNOWN);
    }
    if let Some(code) = limit.reject_code.filter(|code| !(400..=599).contains(code)) {
        faults.error("spec.rateLimit.rejectCode", format!("{code} is out of range, expected 400 to 599"));
    }
    for (index, rule) in limit.local.iter().flat_map(|local| &local.rules).enumerate() {
        let path = format!("spec.rateLimit.local.rules[{index}]");
        size(&format!("{path}.zoneSize"), rule.zone_size.as_ref(), faults);
        if rule.rate.parse().is_none() {
            let message = format!("{} is no rate, expected one such as \"10r/s\" or \"600r/m\"", Quoted(&rule.rate.0));
            faults.error(format_args!("{path}.rate"), message);
        }
        if rule.delay.is_some() && rule.no_delay == Some(true) {
            faults.error(&path, "has both delay and noDelay, expected one of them");
        }
        // `^(?:[^ \t\r\n;{}#$]+|\$\w+)+$`
        let mut parts = rule.key.split('$');
        let is_text = |text: &str| !text.contains([' ', '\t', '\r', '\n', ';', '{', '}', '#']);
        let is_name = |part: &str| part.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
        let is_key = !rule.key.is_empty()
            && parts.next().is_none_or(is_text)
            && parts.all(|part| is_name(part) && is_text(part));
        if !is_key {
            let message = format!("{} is no key, expected text and NGINX variables", Quoted(&rule.key));
            faults.error(format_args!("{path}.key"), message);
        }
    }
}

pub fn snippets_filter(spec: &SnippetsFilterSpec, faults: &mut Faults) {
    if spec.snippets.is_empty() {
        faults.error("spec.snippets", "is empty, expected at least one item");
    }
    snippets(&spec.snippets, faults);
}

pub fn snippets_policy(spec: &SnippetsPolicySpec, faults: &mut Faults) {
    targets(&spec.target_refs, faults);
    kinds("spec.targetRefs", &spec.target_refs, &[Kind::Gateway], faults);
    snippets(&spec.snippets, faults);
}

fn snippets(snippets: &[Snippet], faults: &mut Faults) {
    faults.at_most("spec.snippets", snippets.len(), 4);
    for (index, snippet) in snippets.iter().enumerate() {
        let path = format!("spec.snippets[{index}]");
        let context = &snippet.context;
        faults.known(format_args!("{path}.context"), context.as_str(), context.is_known(), NginxContext::KNOWN);
        if snippet.value.is_empty() {
            faults.error(format_args!("{path}.value"), "is empty");
        }
        if snippets[..index].iter().any(|earlier| earlier.context == *context) {
            faults.error(format_args!("{path}.context"), format!("{} is there twice", Quoted(context.as_str())));
        }
    }
}

pub fn authentication_filter(spec: &AuthenticationFilterSpec, faults: &mut Faults) {
    let kind = &spec.kind;
    faults.known("spec.type", kind.as_str(), kind.is_known(), AuthenticationType::KNOWN);
    for (of, member, is_there) in [
        (AuthenticationType::Basic, "basic", spec.basic.is_some()),
        (AuthenticationType::Jwt, "jwt", spec.jwt.is_some()),
        (AuthenticationType::Oidc, "oidc", spec.oidc.is_some()),
    ] {
        match (*kind == of, is_there) {
            (true, false) => faults.error("spec", format!("`{member}` is missing, expected it for type {of}")),
            (false, true) => faults.error(format_args!("spec.{member}"), format!("belongs to type {of} only")),
            _ => {}
        }
    }
    if let Some(jwt) = &spec.jwt {
        token(jwt, faults);
    }
    if let Some(oidc) = &spec.oidc {
        login(oidc, faults);
    }
}

fn token(jwt: &NginxJwtAuth, faults: &mut Faults) {
    let source = &jwt.source;
    faults.known("spec.jwt.source", source.as_str(), source.is_known(), JwtKeySource::KNOWN);
    for (of, member, is_there) in
        [(JwtKeySource::File, "file", jwt.file.is_some()), (JwtKeySource::Remote, "remote", jwt.remote.is_some())]
    {
        match (*source == of, is_there) {
            (true, false) => faults.error("spec.jwt", format!("`{member}` is missing, expected it for source {of}")),
            (false, true) => faults.error(format_args!("spec.jwt.{member}"), format!("belongs to source {of} only")),
            _ => {}
        }
    }
    if let Some(remote) = &jwt.remote {
        https("spec.jwt.remote.uri", &remote.uri, faults);
        faults.at_most("spec.jwt.remote.caCertificateRefs", remote.ca_certificate_refs.len(), 1);
    }
    duration("spec.jwt.keyCache", jwt.key_cache.as_ref(), faults);
    duration("spec.jwt.leeway", jwt.leeway.as_ref(), faults);
    authorization("spec.jwt.authorization", jwt.authorization.as_ref(), faults);
}

fn login(oidc: &NginxOidcAuth, faults: &mut Faults) {
    https("spec.oidc.issuer", &oidc.issuer, faults);
    if let Some(url) = &oidc.config_url {
        https("spec.oidc.configURL", url, faults);
    }
    if oidc.client_id.is_empty() {
        faults.error("spec.oidc.clientID", "is empty");
    }
    faults.at_most("spec.oidc.caCertificateRefs", oidc.ca_certificate_refs.len(), 1);
    faults.at_most("spec.oidc.extraAuthArgs", oidc.extra_auth_args.len(), 16);
    for name in oidc.extra_auth_args.keys() {
        let is_fine = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        if name.is_empty() || !name.bytes().all(is_fine) {
            faults.error("spec.oidc.extraAuthArgs", format!("{} is no name of an argument", Quoted(name)));
        }
    }
    if let Some(uri) = oidc.redirect_uri.as_ref().filter(|uri| !uri.starts_with('/')) {
        https("spec.oidc.redirectURI", uri, faults);
    }
    if let Some(session) = &oidc.session {
        duration("spec.oidc.session.timeout", session.timeout.as_ref(), faults);
    }
    if let Some(logout) = &oidc.logout {
        for (member, path) in [("uri", &logout.uri), ("frontChannelLogoutURI", &logout.front_channel_logout_uri)] {
            if let Some(path) = path.as_ref().filter(|path| !path.starts_with('/')) {
                let message = format!("{} is no path, expected one that begins with '/'", Quoted(path));
                faults.error(format_args!("spec.oidc.logout.{member}"), message);
            }
        }
    }
    authorization("spec.oidc.authorization", oidc.authorization.as_ref(), faults);
}

fn authorization(path: &str, authorization: Option<&NginxAuthorization>, faults: &mut Faults) {
    let Some(authorization) = authorization else { return };
    let require = |path: String, require: Option<&RequireType>, faults: &mut Faults| {
        if let Some(require) = require {
            faults.known(path, require.as_str(), require.is_known(), RequireType::KNOWN);
        }
    };
    require(format!("{path}.require"), authorization.require.as_ref(), faults);
    if authorization.rules.is_empty() {
        faults.error(format_args!("{path}.rules"), "is empty, expected at least one item");
    }
    faults.at_most(format_args!("{path}.rules"), authorization.rules.len(), 32);
    for (index, rule) in authorization.rules.iter().enumerate() {
        let path = format!("{path}.rules[{index}]");
        require(format!("{path}.require"), rule.require.as_ref(), faults);
        if rule.claims.is_empty() {
            faults.error(format_args!("{path}.claims"), "is empty, expected at least one item");
        }
        faults.at_most(format_args!("{path}.claims"), rule.claims.len(), 32);
        for (index, claim) in rule.claims.iter().enumerate() {
            let path = format!("{path}.claims[{index}]");
            let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"_/-".contains(&byte);
            if claim.name.is_empty() || claim.name.len() > 253 || !claim.name.bytes().all(is_name) {
                faults.error(format_args!("{path}.name"), format!("{} is no name of a claim", Quoted(&claim.name)));
            }
            if rule.claims[..index].iter().any(|earlier| earlier.name == claim.name) {
                faults.error(format_args!("{path}.name"), format!("{} is there twice", Quoted(&claim.name)));
            }
            if let Some(kind) = &claim.match_type {
                faults.known(format_args!("{path}.match"), kind.as_str(), kind.is_known(), ClaimMatchType::KNOWN);
            }
            if let Some(field) = &claim.proxy_set_header {
                let is_field = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
                if field.is_empty() || field.len() > 253 || !field.bytes().all(is_field) {
                    let message = format!("{} is no name of a header field", Quoted(field));
                    faults.error(format_args!("{path}.proxySetHeader"), message);
                }
            }
            if claim.values.is_empty() {
                faults.error(format_args!("{path}.values"), "is empty, expected at least one item");
            }
            faults.at_most(format_args!("{path}.values"), claim.values.len(), 32);
        }
    }
}

/// Those of an inherited policy: Gateways, or routes, never both.
fn inherited_targets(refs: &[PolicyTargetRef], faults: &mut Faults) {
    targets(refs, faults);
    kinds("spec.targetRefs", refs, &ROUTES_TOO, faults);
    let gateways = refs.iter().filter(|target| target.kind == Kind::Gateway.as_str()).count();
    if gateways > 0 && gateways < refs.len() {
        faults.error("spec.targetRefs", "has a Gateway beside routes, expected either");
    }
}

fn kinds(path: &str, refs: &[PolicyTargetRef], known: &[Kind], faults: &mut Faults) {
    for target in refs {
        if !Kind::of(&target.group, &target.kind).is_some_and(|kind| known.contains(&kind)) {
            let names: Vec<&str> = known.iter().map(|kind| kind.as_str()).collect();
            let message =
                format!("{} of group {:?} is no target, expected {}", target.kind, target.group, names.join(", "));
            faults.error(path, message);
        }
    }
}

fn duration(path: &str, text: Option<&NginxDuration>, faults: &mut Faults) {
    if let Some(text) = text.filter(|text| text.parse().is_none()) {
        let message = format!("{} is no duration, expected one such as \"60s\" or \"500ms\"", Quoted(&text.0));
        faults.error(path, message);
    }
}

fn size(path: &str, text: Option<&NginxSize>, faults: &mut Faults) {
    if let Some(text) = text.filter(|text| text.parse().is_none()) {
        let message = format!("{} is no size, expected one such as \"1024\", \"8k\" or \"1m\"", Quoted(&text.0));
        faults.error(path, message);
    }
}

fn https(path: &str, url: &str, faults: &mut Faults) {
    if url.strip_prefix("https://").is_none_or(|rest| rest.is_empty() || rest.starts_with('/')) {
        faults.error(path, format!("{} is no URL, expected one with https://", Quoted(url)));
    }
}
