//! What an HTTPRouteFilter changes about a request: host and path by other means than URLRewrite, and a credential. The
//! result is checked as that of any rewrite: what is no host or path is refused, never sent.

use edge_config::snapshot::{Credential, Extension, HostEdit};

use super::headers::{is_authority, is_editable};
use super::rewrite::is_path;
use crate::proxy::message::RequestHead;

/// Why a request cannot be sent as it is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("the rewritten path is no path")]
    Path,
    #[error("the rewritten host is no host")]
    Host,
    /// It comes from the client.
    #[error("the header with the host has none")]
    HostOfClient,
}

/// Rewrites host and path. `backend` is the name of the backend, where it has one. After an error the request is not to be
/// sent.
pub fn rewrite(extension: &Extension, backend: Option<&str>, head: &mut RequestHead) -> Result<(), Refused> {
    if let Some(host) = &extension.host {
        let (found, fault) = match host {
            HostEdit::Backend => (backend.map(str::to_owned), Refused::Host),
            HostEdit::Field(name) => {
                let value = head.fields.first(name.as_bytes()).filter(|value| !value.is_empty());
                let text = value.map(|value| String::from_utf8_lossy(value).into_owned());
                (text, Refused::HostOfClient)
            }
            HostEdit::Path(substitution) if substitution.is_match(head.path()) => {
                let text = substitution.apply(head.path()).map_err(|_| Refused::Host)?;
                (Some(String::from_utf8_lossy(&text).into_owned()), Refused::Host)
            }
            HostEdit::Path(_) => (None, Refused::Host),
        };
        if let Some(host) = found {
            if !is_authority(&host) {
                return Err(fault);
            }
            head.set_authority(&host);
            if extension.hides_host {
                head.fields.remove(b"x-forwarded-host");
            }
        }
    }
    if let Some(substitution) = &extension.path {
        let path = substitution.apply(head.path()).map_err(|_| Refused::Path)?;
        let path = std::str::from_utf8(&path).map_err(|_| Refused::Path)?.to_owned();
        if !is_path(&path) {
            return Err(Refused::Path);
        }
        head.set_path(&path);
    }
    Ok(())
}

/// Adds a credential, unless the client has sent one that goes before it.
pub fn inject(credential: &Credential, secret: &[u8], head: &mut RequestHead) {
    let name = credential.field.as_bytes();
    if !is_editable(&credential.field) || (!credential.replaces && head.fields.first(name).is_some()) {
        return;
    }
    head.fields.set(name, secret);
}

/// A credential as a field can carry it: without the newline that files end with; `None` where it is no value of a field.
pub fn field_value(secret: &[u8]) -> Option<&[u8]> {
    let secret = secret.trim_ascii();
    let is_clean = secret.iter().all(|byte| *byte == b'\t' || (*byte >= 0x20 && *byte != 0x7f));
    (is_clean && !secret.is_empty()).then_some(secret)
}

#[cfg(test)]
mod tests {
    use edge_config::issuer::SecretRef;
    use edge_config::names::ObjectKey;
    use edge_config::snapshot::Substitution;

    use super::*;

    fn request(path: &str) -> RequestHead {
        let mut head = RequestHead::default();
        head.set_authority("a.example:8080");
        head.set_path(path);
        head.fields.add(b"x-host", b"h.example");
        head.fields.add(b"x-bad", b"h.example/x");
        head.fields.add(b"x-forwarded-host", b"a.example:8080");
        head
    }

    fn regex(pattern: &str, substitution: &str) -> Substitution {
        Substitution::parse(pattern, substitution).unwrap()
    }

    #[test]
    fn hosts_and_paths() {
        let host = |host| Extension { host: Some(host), ..Extension::default() };
        let field = |name: &str| host(HostEdit::Field(name.into()));
        let path = |pattern, text| Extension { path: Some(regex(pattern, text)), ..Extension::default() };
        let tenant = regex("^/tenant/([a-z0-9-]+)/.*", r"\1.example.internal");
        let both = Extension { path: Some(regex("^/tenant/[^/]+", "")), ..host(HostEdit::Path(tenant.clone())) };
        for (extension, from, expected) in [
            (field("x-host"), "/p", Ok(("h.example", "/p"))),
            (field("x-none"), "/p", Ok(("a.example:8080", "/p"))),
            (field("x-bad"), "/p", Err(Refused::HostOfClient)),
            (host(HostEdit::Backend), "/p", Ok(("b.internal", "/p"))),
            (host(HostEdit::Path(tenant)), "/tenant/t1/api", Ok(("t1.example.internal", "/tenant/t1/api"))),
            (both, "/tenant/t1/api", Ok(("t1.example.internal", "/api"))),
            (host(HostEdit::Path(regex("/x", "y z"))), "/x", Err(Refused::Host)),
            (host(HostEdit::Path(regex("/x", "y"))), "/p", Ok(("a.example:8080", "/p"))),
            (path("^/service/([^/]+)(/.*)$", r"\2/i/\1"), "/service/foo/v1", Ok(("a.example:8080", "/v1/i/foo"))),
            (path("^/", ""), "/p", Err(Refused::Path)),
            (path("p", ".."), "/p/q", Err(Refused::Path)),
            (path("p", "a b"), "/p", Err(Refused::Path)),
        ] {
            let mut head = request(from);
            let result = rewrite(&extension, Some("b.internal"), &mut head);
            assert_eq!(result.map(|()| (head.authority(), head.path())), expected, "{extension:?}");
        }
        let mut head = request("/p");
        let hidden = Extension { hides_host: true, ..field("x-host") };
        rewrite(&hidden, None, &mut head).unwrap();
        assert_eq!(head.fields.first(b"x-forwarded-host"), None);
    }

    #[test]
    fn credentials() {
        let secret = SecretRef { secret: ObjectKey::new("n", "s"), key: "credential".into() };
        for (field, replaces, expected) in
            [("authorization", false, "Basic x"), ("x-host", false, "h.example"), ("x-host", true, "Basic x")]
        {
            let mut head = request("/");
            let credential = Credential { field: field.into(), replaces, secret: secret.clone() };
            inject(&credential, b"Basic x", &mut head);
            assert_eq!(head.fields.first(field.as_bytes()), Some(expected.as_bytes()), "{field} {replaces}");
        }
        for (text, expected) in [("Bearer a\n", Some("Bearer a")), ("a\nb", None), ("\n", None), ("", None)] {
            assert_eq!(field_value(text.as_bytes()), expected.map(str::as_bytes), "{text:?}");
        }
    }
}
