//! CORS: answers preflights, and says on other responses who may read them. What the backend says of CORS is replaced, so
//! that two policies never mix. An origin that is not allowed gets no CORS field at all; its browser does the rest.
//!
//! Standards: HTTPCORSFilter of Gateway API v1.6.1, Fetch §3.2 (CORS protocol).

use edge_config::snapshot::{Cors, Origin};

use crate::proxy::digits::decimal;
use crate::proxy::message::{Fields, Length, RequestHead, ResponseHead};

/// Answers a preflight: an OPTIONS request with Origin and Access-Control-Request-Method (Fetch §3.2.2). Anything else is
/// left to the backend, and `response` untouched.
pub fn answer_preflight(cors: &Cors, request: &RequestHead, response: &mut ResponseHead) -> bool {
    let fields = &request.fields;
    let (Some(origin), Some(method)) = (fields.first(b"origin"), fields.first(b"access-control-request-method")) else {
        return false;
    };
    if request.method() != "OPTIONS" {
        return false;
    }
    response.clear();
    response.status = 204;
    response.length = Length::None;
    let Some(echoed) = allow_origin(cors, origin, &mut response.fields) else { return true };
    let out = &mut response.fields;
    // "If the configuration contains the wildcard `*` in allowMethods and allowCredentials is set to true, the gateway
    // must not return `*` … Instead, it must return a single HTTP method": the requested one. Same for headers.
    if has_wildcard(&cors.allow_methods) {
        let method =
            if cors.allow_credentials { Some(method).filter(|method| is_token(method)) } else { Some(&b"*"[..]) };
        if let Some(method) = method {
            out.add(b"access-control-allow-methods", method);
        }
    } else {
        add_list(out, b"access-control-allow-methods", &cors.allow_methods);
    }
    if !has_wildcard(&cors.allow_headers) {
        add_list(out, b"access-control-allow-headers", &cors.allow_headers);
    } else if !cors.allow_credentials {
        out.add(b"access-control-allow-headers", b"*");
    } else {
        for names in fields.all(b"access-control-request-headers").filter(|names| is_name_list(names)) {
            out.add(b"access-control-allow-headers", names);
        }
    }
    let mut digits = [0; 20];
    out.add(b"access-control-max-age", decimal(u64::from(cors.max_age), &mut digits));
    expose(cors, out);
    vary(echoed, out);
    true
}

/// Decorates the response to any other request, also one that Edge made. `origin` is that of the request.
pub fn decorate(cors: &Cors, origin: Option<&[u8]>, fields: &mut Fields) {
    fields.remove_if(|name| {
        matches!(
            name,
            b"access-control-allow-origin"
                | b"access-control-allow-credentials"
                | b"access-control-allow-methods"
                | b"access-control-allow-headers"
                | b"access-control-expose-headers"
                | b"access-control-max-age"
        )
    });
    let echoed = match origin.map(|origin| allow_origin(cors, origin, fields)) {
        Some(Some(echoed)) => {
            expose(cors, fields);
            echoed
        }
        // A cache must not give this answer to an origin that is allowed.
        Some(None) | None => !cors.allow_origins.is_empty() && !is_constant(cors),
    };
    vary(echoed, fields);
}

/// Whether the policy allows an origin.
pub fn is_allowed(cors: &Cors, origin: &[u8]) -> bool {
    let Some(origin) = std::str::from_utf8(origin).ok().filter(|text| is_visible(text)) else { return false };
    cors.allow_origins.iter().any(|allowed| match allowed {
        Origin::Any => true,
        Origin::Exact(exact) => without_default_port(exact).eq_ignore_ascii_case(without_default_port(origin)),
        Origin::Wildcard { before, after } => below(origin, before, after),
    })
}

/// Writes the allowed origin; says whether the answer depends on the request's origin.
fn allow_origin(cors: &Cors, origin: &[u8], out: &mut Fields) -> Option<bool> {
    if !is_allowed(cors, origin) {
        return None;
    }
    let constant = is_constant(cors);
    out.add(b"access-control-allow-origin", if constant { b"*" } else { origin });
    if cors.allow_credentials {
        out.add(b"access-control-allow-credentials", b"true");
    }
    Some(!constant)
}

/// Any origin, without credentials: `*` for everybody.
fn is_constant(cors: &Cors) -> bool {
    !cors.allow_credentials && cors.allow_origins.contains(&Origin::Any)
}

fn vary(by_origin: bool, fields: &mut Fields) {
    let covers = |value: &[u8]| {
        value.split(|byte| *byte == b',').any(|name| {
            let name = name.trim_ascii();
            name == b"*" || name.eq_ignore_ascii_case(b"origin")
        })
    };
    if by_origin && !fields.all(b"vary").any(covers) {
        fields.add(b"vary", b"Origin");
    }
}

fn expose(cors: &Cors, out: &mut Fields) {
    if !has_wildcard(&cors.expose_headers) {
        add_list(out, b"access-control-expose-headers", &cors.expose_headers);
    } else if !cors.allow_credentials {
        out.add(b"access-control-expose-headers", b"*");
    }
    // "… set to true, the gateway cannot use the `*`": what is named beside it still counts.
    else if cors.expose_headers.len() > 1 {
        for name in cors.expose_headers.iter().filter(|name| ***name != *"*") {
            out.add(b"access-control-expose-headers", name.as_bytes());
        }
    }
}

fn has_wildcard(list: &[Box<str>]) -> bool {
    list.iter().any(|item| **item == *"*")
}

/// One field with all items, since clients exist that read the first field only.
fn add_list(out: &mut Fields, name: &[u8], items: &[Box<str>]) {
    match items {
        [] => {}
        [one] => out.add(name, one.as_bytes()),
        many => out.add(name, many.join(", ").as_bytes()),
    }
}

/// "If not included, port `80` is assumed for `http` scheme origins, and port `443` is assumed for `https` origins."
fn without_default_port(origin: &str) -> &str {
    let port = match origin.get(..8) {
        Some(scheme) if scheme.eq_ignore_ascii_case("https://") => ":443",
        _ if origin.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case("http://")) => ":80",
        _ => return origin,
    };
    origin.strip_suffix(port).unwrap_or(origin)
}

/// "`*` is a greedy match to the left, including any number of DNS labels"; it stands for at least one character, and for
/// a host only: never for a port, a path or user information.
fn below(origin: &str, before: &str, after: &str) -> bool {
    let (Some(head), Some(rest)) = (origin.get(..before.len()), origin.get(before.len()..)) else { return false };
    if !head.eq_ignore_ascii_case(before) {
        return false;
    }
    let scheme_rest = |text: &str| -> usize {
        let port = if before.eq_ignore_ascii_case("https://") { ":443" } else { ":80" };
        text.strip_suffix(port).map_or(text.len(), str::len)
    };
    let (rest, after) = (&rest[..scheme_rest(rest)], &after[..scheme_rest(after)]);
    let Some(at) = rest.len().checked_sub(after.len()) else { return false };
    let (Some(host), Some(tail)) = (rest.get(..at), rest.get(at..)) else { return false };
    let is_host = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'))
        && !host.starts_with('.')
        || after.is_empty() && is_ipv6(host)
        || after.starts_with(':') && is_ipv6(host);
    !host.is_empty() && is_host && tail.eq_ignore_ascii_case(after)
}

fn is_ipv6(text: &str) -> bool {
    text.strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'))
        .is_some_and(|text| text.parse::<std::net::Ipv6Addr>().is_ok())
}

fn is_visible(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// RFC 9110 §5.6.2.
fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

fn is_name_list(text: &[u8]) -> bool {
    text.split(|byte| *byte == b',').all(|name| is_token(name.trim_ascii()))
}

#[cfg(test)]
#[path = "cors_tests.rs"]
mod tests;
