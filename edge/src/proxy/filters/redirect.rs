//! RequestRedirect: the `Location` of the answer (HTTPRequestRedirectFilter).

use edge_config::snapshot::{Redirect, Scheme as ToScheme};

use super::rewrite::{InvalidPath, is_path, parts};
use crate::proxy::message::{RequestHead, Scheme};

/// The value of `Location`. `prefix` is as for [`super::rewrite::apply`]. The query is kept.
pub fn location(
    redirect: &Redirect,
    head: &RequestHead,
    listener_port: u16,
    prefix: usize,
) -> Result<String, InvalidPath> {
    let scheme = redirect.scheme.unwrap_or(match head.scheme {
        Scheme::Http => ToScheme::Http,
        Scheme::Https => ToScheme::Https,
    });
    let (scheme, well_known) = match scheme {
        ToScheme::Http => ("http", 80),
        ToScheme::Https => ("https", 443),
    };
    // "If redirect scheme is not-empty, the redirect port MUST be the well-known port associated with the redirect
    // scheme. … If redirect scheme is empty, the redirect port MUST be the Gateway Listener port."
    let port = redirect.port.unwrap_or(if redirect.scheme.is_some() { well_known } else { listener_port });
    let host = redirect.hostname.as_deref().unwrap_or(head.host());

    let mut location = String::with_capacity(64 + head.path().len());
    if !host.is_empty() {
        location.push_str(scheme);
        location.push_str("://");
        push_escaped(&mut location, host);
        // "Implementations SHOULD NOT add the port number" 80 with HTTP and 443 with HTTPS.
        if port != well_known {
            location.push(':');
            location.push_str(&port.to_string());
        }
    }
    let path_at = location.len();
    match &redirect.path {
        Some(edit) => {
            let (covered, replacement) = parts(edit, head.path(), prefix);
            location.push_str(replacement);
            location.push_str(head.path().get(covered..).unwrap_or_default());
            if !is_path(&location[path_at..]) {
                return Err(InvalidPath);
            }
        }
        // `OPTIONS *` asks about the server as a whole, which has no path (RFC 9110 §7.1).
        None if head.path() == "*" => {}
        None => push_escaped(&mut location, head.path()),
    }
    // Without a host (HTTP/1.0) this is a relative reference, in which two slashes would begin an authority (RFC 3986 §4.2).
    if host.is_empty() && location.starts_with("//") {
        location.insert_str(0, "/.");
    }
    if let Some(query) = head.query() {
        location.push('?');
        push_escaped(&mut location, query);
    }
    Ok(location)
}

/// Copies what may stand in a URI; the rest, which lenient clients send, is percent-encoded.
fn push_escaped(out: &mut String, text: &str) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for byte in text.bytes() {
        // RFC 3986 §2.2, §2.3; brackets for IPv6 literals, and since queries carry them unescaped in practice.
        if byte.is_ascii_alphanumeric() || b"-._~:/?[]@!$&'()*+,;=%".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push(char::from(DIGITS[usize::from(byte >> 4)]));
            out.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
    }
}

#[cfg(test)]
mod tests {
    use edge_config::snapshot::PathEdit;

    use super::*;

    fn request(scheme: Scheme, host: &str, target: &str) -> RequestHead {
        let mut head = RequestHead { scheme, ..RequestHead::default() };
        head.set_authority(&format!("{host}:9999"));
        head.host = head.fields.store(host.as_bytes());
        let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        head.set_path(path);
        head.query = query.map(|query| head.fields.store(query.as_bytes()));
        head
    }

    fn redirect() -> Redirect {
        Redirect { scheme: None, hostname: None, path: None, port: None, status: 302 }
    }

    #[test]
    fn scheme_and_port() {
        use Scheme::{Http, Https};
        let (http, https) = (Some(ToScheme::Http), Some(ToScheme::Https));
        for (from, listener, scheme, port, expected) in [
            (Http, 80, None, None, "http://a.example/p"),
            (Http, 8080, None, None, "http://a.example:8080/p"),
            (Https, 443, None, None, "https://a.example/p"),
            (Https, 8443, None, None, "https://a.example:8443/p"),
            (Http, 443, None, None, "http://a.example:443/p"),
            (Https, 80, None, None, "https://a.example:80/p"),
            (Http, 80, https, None, "https://a.example/p"),
            (Http, 8080, https, None, "https://a.example/p"),
            (Https, 8443, http, None, "http://a.example/p"),
            (Http, 8080, http, None, "http://a.example/p"),
            (Http, 80, None, Some(80), "http://a.example/p"),
            (Http, 8080, None, Some(80), "http://a.example/p"),
            (Http, 80, None, Some(443), "http://a.example:443/p"),
            (Http, 80, None, Some(8443), "http://a.example:8443/p"),
            (Http, 80, https, Some(443), "https://a.example/p"),
            (Http, 80, https, Some(8443), "https://a.example:8443/p"),
            (Http, 80, https, Some(80), "https://a.example:80/p"),
            (Https, 443, http, Some(443), "http://a.example:443/p"),
        ] {
            let redirect = Redirect { scheme, port, ..redirect() };
            assert_eq!(
                location(&redirect, &request(from, "a.example", "/p"), listener, 0).unwrap(),
                expected,
                "{from:?} on {listener} to {scheme:?} {port:?}"
            );
        }
    }

    #[test]
    fn host_path_and_query() {
        let host = |name: &str| Redirect { hostname: Some(name.into()), ..redirect() };
        let full = |path: &str| Redirect { path: Some(PathEdit::Full(path.into())), ..redirect() };
        let prefix = |path: &str| Redirect { path: Some(PathEdit::Prefix(path.into())), ..redirect() };
        for (redirect, from, target, covered, expected) in [
            (host("b.example"), "a.example", "/p?q=1", 0, Ok("http://b.example/p?q=1")),
            (redirect(), "[2001:db8::1]", "/p", 0, Ok("http://[2001:db8::1]/p")),
            (redirect(), "a.example", "/?", 0, Ok("http://a.example/?")),
            (redirect(), "a.example", "*", 0, Ok("http://a.example")),
            (redirect(), "a.example", "//evil.example/p", 0, Ok("http://a.example//evil.example/p")),
            (redirect(), "", "//evil.example/p", 0, Ok("/.//evil.example/p")),
            (redirect(), "a.example", "/a\"<b>|{c}", 0, Ok("http://a.example/a%22%3Cb%3E%7C%7Bc%7D")),
            (redirect(), "a.example", "/%41?x=%20'", 0, Ok("http://a.example/%41?x=%20'")),
            (full("/x"), "a.example", "/foo/bar?q", 4, Ok("http://a.example/x?q")),
            (full(""), "a.example", "/foo/bar", 4, Ok("http://a.example/")),
            (prefix("/x"), "a.example", "/foo/bar?q", 4, Ok("http://a.example/x/bar?q")),
            (prefix(""), "a.example", "/foo", 4, Ok("http://a.example/")),
            (prefix("/"), "a.example", "/foo/bar", 4, Ok("http://a.example/bar")),
            (prefix("//"), "", "/foo", 4, Ok("/.//")),
            (full("/a b"), "a.example", "/", 0, Err(InvalidPath)),
            (full("/a\r\nx: y"), "a.example", "/", 0, Err(InvalidPath)),
        ] {
            let found = location(&redirect, &request(Scheme::Http, from, target), 80, covered);
            assert_eq!(found.as_deref(), expected.as_ref().map(|text| *text), "{redirect:?} of {from} {target}");
        }
    }
}
