//! Whom a policy asks before a request passes, in words.

use edge_config::policy::{ClientId, ExtAuth, ExtAuthPath, ExtAuthProtocol, Oidc, RemoteKeys};

use crate::control::span;

/// Where remote keys come from.
pub fn keys(remote: &RemoteKeys) -> String {
    let via = through(remote.via.as_deref());
    format!("the keys at {}{via}, fetched again after {}", remote.uri, span::exact(remote.keep))
}

/// An authorizer.
pub fn ext_auth(asked: &ExtAuth) -> String {
    let how = match &asked.protocol {
        ExtAuthProtocol::Grpc => "in Envoy's gRPC protocol".to_owned(),
        ExtAuthProtocol::Http { path: ExtAuthPath::Before(path), .. } if path.is_empty() => "over HTTP".to_owned(),
        ExtAuthProtocol::Http { path: ExtAuthPath::Before(path), .. } => format!("over HTTP below {path}"),
        ExtAuthProtocol::Http { path: ExtAuthPath::Instead(path), .. } => format!("over HTTP at {path}"),
    };
    let without = match asked.fail_open {
        true => "all pass".to_owned(),
        false => format!("{}", asked.status_on_error),
    };
    let body = asked.body.map(|most| format!(", bodies of up to {most} bytes included")).unwrap_or_default();
    format!(
        "authorizer asked {how}{body} by {}; without an answer in {}: {without}",
        asked.owner,
        span::exact(asked.timeout)
    )
}

/// A login.
pub fn oidc(login: &Oidc) -> Vec<String> {
    let client = match &login.client_id {
        ClientId::Text(id) => format!(" as {id}"),
        ClientId::Secret(_) => String::new(),
    };
    let via = through(login.provider.via.as_deref());
    let mut lines = vec![format!("login at {}{via}{client} by {}", login.provider.issuer, login.owner)];
    let refresh = match login.refresh_ttl {
        Some(ttl) => format!("sessions are prolonged for up to {}", span::exact(ttl)),
        None => "sessions end with their tokens".to_owned(),
    };
    lines.push(format!("login ends at {}, logout at {}; {refresh}", login.callback, login.logout_path));
    lines
}

fn through(service: Option<&str>) -> String {
    service.map(|_| " through backends of its own".to_owned()).unwrap_or_default()
}
