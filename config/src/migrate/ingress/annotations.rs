//! What ingress-nginx's annotations say, as typed values. Annotations flow in with their places; what is known becomes a
//! [`Manner`], what is not becomes a note.

use crate::migrate::gateway::{self, Headers};
use crate::migrate::read::Found;
use crate::migrate::{NoteKind, Notes};
use crate::problem::Origin;
use crate::yaml::{Tree, Value};

const PREFIX: &str = "nginx.ingress.kubernetes.io/";

/// How an Ingress is to be served.
#[derive(Debug, Clone, Default)]
pub(super) struct Manner {
    pub rewrite: Option<String>,
    /// Paths of its hosts are regular expressions.
    pub is_regex: bool,
    pub ssl_redirect: Option<bool>,
    /// URL and status.
    pub redirect: Option<(String, u16)>,
    pub app_root: Option<String>,
    pub aliases: Vec<String>,
    pub canary: Option<Canary>,
    pub affinity: Option<Affinity>,
    pub protocol: Protocol,
    pub passthrough: bool,
    pub cors: Option<Cors>,
    pub request_headers: Headers,
    pub response_headers: Headers,
    /// The Host that backends see.
    pub upstream_host: Option<String>,
    /// The name that backends' certificates have.
    pub backend_name: Option<String>,
    pub least_request: bool,
    /// What makes requests alike that go to the same endpoint.
    pub hash: Option<HashKey>,
    /// Networks of clients: (let in, kept out).
    pub allow: Vec<String>,
    pub deny: Vec<String>,
    /// A protection that has no equivalent: nobody is let in.
    pub is_closed: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Protocol {
    #[default]
    Http,
    Https,
    Grpc,
    Grpcs,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum HashKey {
    Source,
    Header(String),
    Cookie(String),
    Query(String),
}

impl HashKey {
    /// One variable of nginx, as far as a BackendTrafficPolicy has it.
    fn parse(text: &str) -> Option<Self> {
        let name = text.strip_prefix('$')?;
        let name = name.strip_prefix('{').and_then(|name| name.strip_suffix('}')).unwrap_or(name);
        let is_name =
            |name: &&str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        let after = |prefix| name.strip_prefix(prefix).filter(is_name);
        match name {
            "remote_addr" | "binary_remote_addr" => return Some(Self::Source),
            _ => {}
        }
        let header = after("http_").map(|name| Self::Header(name.replace('_', "-")));
        let cookie = || after("cookie_").map(|name| Self::Cookie(name.to_owned()));
        header.or_else(cookie).or_else(|| after("arg_").map(|name| Self::Query(name.to_owned())))
    }

    pub fn tree(&self) -> Tree {
        let named = |name: &str| Tree::map([("name", name.into())]);
        let list = |name: &str| -> Tree { vec![named(name)].into() };
        match self {
            Self::Source => gateway::by_source(),
            Self::Header(name) => Tree::map([("type", "Headers".into()), ("headers", list(name))]),
            Self::Cookie(name) => Tree::map([("type", "Cookie".into()), ("cookie", named(name))]),
            Self::Query(name) => Tree::map([("type", "QueryParams".into()), ("queryParams", list(name))]),
        }
    }
}

#[derive(Debug, Clone, Default)]
pub(super) struct Canary {
    pub weight: u32,
    pub total: u32,
    pub header: Option<String>,
    pub value: Option<String>,
    pub pattern: Option<String>,
    pub cookie: Option<String>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Affinity {
    pub name: String,
    /// Seconds.
    pub max_age: Option<u64>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Cors {
    pub origins: Option<String>,
    pub methods: Option<String>,
    pub headers: Option<String>,
    pub expose: Option<String>,
    pub credentials: Option<bool>,
    pub max_age: Option<u32>,
}

/// Values that concern nginx's own memory and connections; Edge hands on bytes as they come.
const BUFFERS: [&str; 12] = [
    "proxy-buffering",
    "proxy-buffer-size",
    "proxy-buffers-number",
    "proxy-busy-buffers-size",
    "proxy-max-temp-file-size",
    "proxy-request-buffering",
    "client-body-buffer-size",
    "proxy-http-version",
    "http2-push-preload",
    "enable-access-log",
    "enable-rewrite-log",
    "service-upstream",
];

/// What there is for the whole of an edge instead of one Ingress.
const GLOBAL: [(&str, &str); 8] = [
    ("proxy-connect-timeout", "[proxy] connect_timeout of edge.toml holds for all"),
    ("proxy-read-timeout", "[proxy] stream_idle_timeout of edge.toml holds for all"),
    ("proxy-send-timeout", "[proxy] stream_idle_timeout of edge.toml holds for all"),
    ("session-cookie-path", "the cookie is for the path that the rule matches"),
    ("session-cookie-samesite", "the cookie says SameSite=Strict"),
    ("session-cookie-secure", "the cookie is Secure where the client speaks HTTPS"),
    ("ssl-ciphers", "Edge offers the suites of rustls, TLS 1.2 and 1.3"),
    ("proxy-ssl-verify", "Edge always verifies endpoints that it speaks TLS to"),
];

/// Protections: without them something would be open that was closed.
const GUARDS: [(&str, &str); 8] = [
    ("auth-type", "basic authentication"),
    ("auth-url", "authentication by another server"),
    ("auth-tls-secret", "client certificates of one host; spec.tls.frontend of a Gateway has them for a port"),
    ("auth-tls-verify-client", "client certificates"),
    ("enable-modsecurity", "a web application firewall"),
    ("modsecurity-snippet", "a web application firewall"),
    ("enable-owasp-core-rules", "a web application firewall"),
    ("auth-snippet", "authentication"),
];

/// Members of a protection that is told by another annotation.
const BESIDE: [&str; 14] = [
    "auth-secret",
    "auth-secret-type",
    "auth-realm",
    "auth-signin",
    "auth-method",
    "auth-response-headers",
    "auth-cache-key",
    "auth-tls-verify-depth",
    "auth-tls-error-page",
    "auth-tls-pass-certificate-to-upstream",
    "session-cookie-name",
    "session-cookie-max-age",
    "session-cookie-expires",
    "affinity-mode",
];

const OTHERS: [&str; 6] = ["traefik.", "haproxy", "alb.ingress", "konghq.com", "appgw.ingress", "projectcontour.io"];

struct Reader<'f, 'n> {
    object: &'f Found<'f>,
    notes: &'n mut Notes,
    seen: Vec<&'static str>,
}

impl Reader<'_, '_> {
    fn origin(&self, name: &str) -> Origin {
        let annotations = self.object.at("metadata.annotations");
        let entry = annotations.and_then(|node| node.entry(&format!("{PREFIX}{name}")));
        entry.map_or_else(|| self.object.origin(), |entry| self.object.place.origin(entry.mark))
    }

    fn note(&mut self, kind: NoteKind, name: &str, message: impl std::fmt::Display) {
        let origin = self.origin(name);
        self.notes.add(kind, Some(&origin), &self.object.subject(), format!("{name}: {message}"));
    }

    fn text(&mut self, name: &'static str) -> Option<String> {
        self.seen.push(name);
        let full = format!("{PREFIX}{name}");
        let value = self.object.at("metadata.annotations")?.member(&full)?.as_str()?.trim().to_owned();
        (!value.is_empty()).then_some(value)
    }

    fn flag(&mut self, name: &'static str) -> Option<bool> {
        let text = self.text(name)?;
        match text.as_str() {
            "true" | "on" | "1" => Some(true),
            "false" | "off" | "0" => Some(false),
            _ => {
                self.note(NoteKind::Fault, name, format!("{text:?} is neither true nor false"));
                None
            }
        }
    }

    fn number<T: std::str::FromStr>(&mut self, name: &'static str) -> Option<T> {
        let text = self.text(name)?;
        let number = text.parse().ok();
        if number.is_none() {
            self.note(NoteKind::Fault, name, format!("{text:?} is no number"));
        }
        number
    }

    fn list(&mut self, name: &'static str) -> Vec<String> {
        let text = self.text(name).unwrap_or_default();
        text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
    }

    fn networks(&mut self, name: &'static str) -> Vec<String> {
        let mut networks = Vec::new();
        for text in self.list(name) {
            let full = match text.parse::<std::net::IpAddr>() {
                Ok(address) => Some(format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 })),
                Err(_) => text.parse::<ipnet::IpNet>().ok().map(|network| network.trunc().to_string()),
            };
            match full {
                Some(full) => networks.push(full),
                None => self.note(NoteKind::Fault, name, format!("{text:?} is no network")),
            }
        }
        networks
    }
}

pub(super) fn read(object: &Found<'_>, notes: &mut Notes) -> Manner {
    let mut reader = Reader { object, notes, seen: Vec::new() };
    let mut manner = Manner::default();
    paths(&mut reader, &mut manner);
    canary(&mut reader, &mut manner);
    backends(&mut reader, &mut manner);
    headers(&mut reader, &mut manner);
    guards(&mut reader, &mut manner);
    rest(&mut reader);
    manner
}

fn paths(reader: &mut Reader<'_, '_>, manner: &mut Manner) {
    manner.rewrite = reader.text("rewrite-target");
    manner.is_regex = reader.flag("use-regex").unwrap_or(false) || manner.rewrite.is_some();
    manner.ssl_redirect = reader.flag("ssl-redirect");
    if reader.flag("force-ssl-redirect") == Some(true) {
        manner.ssl_redirect = Some(true);
    }
    let permanent = reader.text("permanent-redirect");
    let permanent_code = reader.number("permanent-redirect-code");
    let temporal = reader.text("temporal-redirect");
    let temporal_code = reader.number("temporal-redirect-code");
    manner.redirect = temporal
        .map(|url| (url, temporal_code.unwrap_or(302)))
        .or(permanent.map(|url| (url, permanent_code.unwrap_or(301))));
    manner.app_root = reader.text("app-root");
    manner.aliases = reader.list("server-alias");
    manner.passthrough = reader.flag("ssl-passthrough").unwrap_or(false);
    if reader.flag("from-to-www-redirect") == Some(true) {
        reader.note(
            NoteKind::NoEquivalent,
            "from-to-www-redirect",
            "the other name is served by nothing; write an HTTPRoute for it with a RequestRedirect to this one",
        );
    }
}

fn canary(reader: &mut Reader<'_, '_>, manner: &mut Manner) {
    let weight = reader.number("canary-weight").unwrap_or(0);
    let total = reader.number("canary-weight-total").unwrap_or(100);
    let canary = Canary {
        weight,
        total,
        header: reader.text("canary-by-header"),
        value: reader.text("canary-by-header-value"),
        pattern: reader.text("canary-by-header-pattern"),
        cookie: reader.text("canary-by-cookie"),
    };
    if reader.flag("canary") == Some(true) {
        manner.canary = Some(canary);
    }
}

fn backends(reader: &mut Reader<'_, '_>, manner: &mut Manner) {
    if let Some(kind) = reader.text("affinity") {
        if kind == "cookie" {
            let name = reader.text("session-cookie-name").unwrap_or_else(|| "INGRESSCOOKIE".to_owned());
            let max_age = reader.number("session-cookie-max-age");
            let expires = reader.number("session-cookie-expires");
            manner.affinity = Some(Affinity { name, max_age: max_age.or(expires) });
        } else {
            reader.note(NoteKind::NoEquivalent, "affinity", format!("{kind:?} is not known, expected cookie"));
        }
    }
    match reader.text("backend-protocol").map(|text| text.to_ascii_uppercase()).as_deref() {
        None | Some("HTTP") => {}
        Some("HTTPS") => manner.protocol = Protocol::Https,
        Some("GRPC") => manner.protocol = Protocol::Grpc,
        Some("GRPCS") => manner.protocol = Protocol::Grpcs,
        Some(other) => {
            let message = format!("{other} is not spoken to endpoints; they are spoken to in HTTP/1.1");
            reader.note(NoteKind::NoEquivalent, "backend-protocol", message);
        }
    }
    manner.upstream_host = reader.text("upstream-vhost");
    manner.backend_name = reader.text("proxy-ssl-name");
    match reader.text("load-balance").as_deref() {
        None | Some("round_robin") => {}
        Some("ewma" | "least_conn") => manner.least_request = true,
        Some(other) => {
            let message = format!("{other:?} has no counterpart; requests go round in turn");
            reader.note(NoteKind::NoEquivalent, "load-balance", message);
        }
    }
    if let Some(key) = reader.text("upstream-hash-by") {
        manner.hash = HashKey::parse(&key);
        if manner.hash.is_none() {
            let message = format!(
                "{key} is no part of a BackendTrafficPolicy, which hashes by one of $remote_addr, $http_NAME, $cookie_NAME \
                 and $arg_NAME; an UpstreamSettingsPolicy of the Service hashes by what else NGINX knows"
            );
            reader.note(NoteKind::NoEquivalent, "upstream-hash-by", message);
        }
    }
    if let Some(size) = reader.text("proxy-body-size")
        && size != "0"
    {
        let message = format!("bodies are not limited (here to {size}); let the application refuse larger ones");
        reader.note(NoteKind::NoEquivalent, "proxy-body-size", message);
    }
}

fn headers(reader: &mut Reader<'_, '_>, manner: &mut Manner) {
    let cors = Cors {
        origins: reader.text("cors-allow-origin"),
        methods: reader.text("cors-allow-methods"),
        headers: reader.text("cors-allow-headers"),
        expose: reader.text("cors-expose-headers"),
        credentials: reader.flag("cors-allow-credentials"),
        max_age: reader.number("cors-max-age"),
    };
    if reader.flag("enable-cors") == Some(true) {
        manner.cors = Some(cors);
    }
    if let Some(prefix) = reader.text("x-forwarded-prefix") {
        manner.request_headers.set.push(("X-Forwarded-Prefix".to_owned(), prefix));
    }
    for name in ["configuration-snippet", "server-snippet", "stream-snippet"] {
        let Some(text) = reader.text(name) else { continue };
        let known = (name == "configuration-snippet").then(|| super::snippet::headers(&text)).flatten();
        match known {
            Some(headers) => {
                manner.request_headers.set.extend(headers.request);
                manner.response_headers.set.extend(headers.response_set);
                manner.response_headers.add.extend(headers.response_add);
            }
            None if super::snippet::is_guard(&text) => {
                manner.is_closed = true;
                let message = "nginx's language has no counterpart, and this refuses requests: a SecurityPolicy keeps \
                    the routes closed (403) until you say in it who may come in";
                reader.note(NoteKind::NoEquivalent, name, message);
            }
            None => {
                let message = "nginx's language has no counterpart; what it does must become filters of the routes";
                reader.note(NoteKind::NoEquivalent, name, message);
            }
        }
    }
}

/// What becomes of protections that cannot be translated.
const CLOSED: &str = "a SecurityPolicy keeps the routes closed (403) until you say in it who may come in, so that nothing is \
    open that was closed";

fn guards(reader: &mut Reader<'_, '_>, manner: &mut Manner) {
    for name in ["whitelist-source-range", "allowlist-source-range"] {
        manner.allow.extend(reader.networks(name));
    }
    manner.deny = reader.networks("denylist-source-range");
    for (name, what) in GUARDS {
        let Some(value) = reader.text(name) else { continue };
        if value == "false" || value == "off" {
            continue;
        }
        manner.is_closed = true;
        reader.note(NoteKind::NoEquivalent, name, format!("{what} has no equivalent; {CLOSED}"));
    }
}

fn rest(reader: &mut Reader<'_, '_>) {
    for (name, instead) in GLOBAL {
        if reader.text(name).is_some() {
            reader.note(NoteKind::Differs, name, format!("not for one Ingress: {instead}"));
        }
    }
    for name in BUFFERS {
        if reader.text(name).is_some() {
            reader.note(
                NoteKind::Differs,
                name,
                "concerns nginx's own memory and files; Edge hands on bytes as they come",
            );
        }
    }
    for name in BESIDE {
        reader.text(name);
    }
    let Some(Value::Mapping(entries)) = reader.object.at("metadata.annotations").map(|node| &node.value) else {
        return;
    };
    for entry in entries {
        let origin = reader.object.place.origin(entry.mark);
        let subject = reader.object.subject();
        if let Some(name) = entry.key.strip_prefix(PREFIX) {
            if !reader.seen.contains(&name) {
                let message = format!("{name}: has no counterpart in Edge");
                reader.notes.add(NoteKind::NoEquivalent, Some(&origin), &subject, message);
            }
        } else if OTHERS.iter().any(|prefix| entry.key.starts_with(prefix)) {
            let message = format!("annotation {}: only those of ingress-nginx are understood", entry.key);
            reader.notes.add(NoteKind::NoEquivalent, Some(&origin), &subject, message);
        }
    }
}
