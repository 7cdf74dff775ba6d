//! Requests against a snapshot, decided as the data plane decides them.
//!
//! `METHOD URL [@VIP] [sni=NAME] [header:value …] → outcome`, where the URL's scheme is http, https, tls, tcp or udp. The
//! VIP may be left out where only one Gateway has the port.

use edge_config::Compiled;
use edge_config::matching::RequestView;
use edge_config::snapshot::{Action, Backend, ListenerId, ListenerServe, PortServe, Snapshot, Target, Transport};

use super::print;

pub fn table(text: &str, compiled: &Compiled) -> String {
    let mut out = String::new();
    for line in text.lines() {
        let request = line.split('→').next().unwrap_or_default().trim_end();
        out.push_str(request);
        if !request.is_empty() && !request.starts_with('#') {
            out.push_str(" → ");
            out.push_str(&outcome(request, &compiled.snapshot));
        }
        out.push('\n');
    }
    out
}

fn outcome(request: &str, snapshot: &Snapshot) -> String {
    let mut words = request.split_whitespace();
    let (method, url) = (words.next().unwrap(), words.next().unwrap_or_else(|| panic!("no URL: {request}")));
    let (mut vip, mut sni) = (None, None);
    let mut fields: Vec<(String, String)> = Vec::new();
    for word in words {
        if let Some(address) = word.strip_prefix('@') {
            vip = Some(address.parse::<std::net::IpAddr>().unwrap());
        } else if let Some(name) = word.strip_prefix("sni=") {
            sni = Some(name);
        } else {
            let (name, value) = word.split_once(':').unwrap_or_else(|| panic!("no header: {word}"));
            fields.push((name.to_owned(), value.to_owned()));
        }
    }
    let (scheme, rest) = url.split_once("://").unwrap();
    let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().unwrap()),
        None => (authority, if scheme == "http" { 80 } else { 443 }),
    };
    let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
    let transport = if scheme == "udp" { Transport::Udp } else { Transport::Tcp };
    let mut sockets = snapshot.sockets.iter().filter(|socket| {
        socket.address.port() == port
            && socket.transport == transport
            && vip.is_none_or(|vip| vip == socket.address.ip())
    });
    let Some(socket) = sockets.next() else { return "connection refused".to_owned() };
    assert!(sockets.next().is_none(), "{request}: several VIPs have the port; name one with @");
    let view = RequestView { host, method, path, query, fields: &fields[..] };
    match (&snapshot.ports[socket.port.index()].serve, scheme) {
        (PortServe::Http { hosts }, "http") => match hosts.best(host) {
            None => "404 no listener".to_owned(),
            Some(listener) => http(snapshot, *listener, &view),
        },
        (PortServe::Tls { names }, _) => {
            let Some(listener) = names.best(sni.unwrap_or(host)) else { return "closed: no listener".to_owned() };
            match &snapshot.listeners[listener.index()].serve {
                // HTTPRoute docs: a Host that another listener of the port would take is misdirected.
                ListenerServe::Https { .. } if names.best(host) != Some(listener) => "421 misdirected".to_owned(),
                ListenerServe::Https { .. } => http(snapshot, *listener, &view),
                ListenerServe::TlsTerminate { routes, .. } | ListenerServe::TlsPassthrough { routes } => {
                    routes.best(sni.unwrap_or(host)).map_or("closed: no route".to_owned(), print::stream)
                }
                _ => unreachable!("a TLS port has TLS listeners"),
            }
        }
        (PortServe::Tcp { listener } | PortServe::Udp { listener }, _) => {
            match &snapshot.listeners[listener.index()].serve {
                ListenerServe::Tcp { route: Some(route) } | ListenerServe::Udp { route: Some(route) } => {
                    print::stream(route)
                }
                _ => "closed: no route".to_owned(),
            }
        }
        (PortServe::Http { .. }, _) => "not HTTP".to_owned(),
    }
}

fn http(snapshot: &Snapshot, listener: ListenerId, view: &RequestView<'_, [(String, String)]>) -> String {
    let listener = &snapshot.listeners[listener.index()];
    let (ListenerServe::Http { routes } | ListenerServe::Https { routes, .. }) = &listener.serve else {
        unreachable!("an HTTP port has HTTP listeners");
    };
    let Some(found) = routes.find(view) else { return format!("404 ({})", listener.name) };
    let rule = &snapshot.rules[found.rule.index()];
    let what = match &rule.action {
        Action::Redirect(redirect) => format!("{} redirect", redirect.status),
        Action::Refuse { status, .. } => status.to_string(),
        Action::Respond(answer) => format!("{} from the configuration", answer.status.unwrap_or(200)),
        Action::Forward(list) => list.iter().map(share).collect::<Vec<_>>().join(", "),
    };
    let policy = |policy: &Option<std::sync::Arc<edge_config::policy::RulePolicy>>| {
        policy.as_ref().and_then(|policy| policy.security.clone())
    };
    let what = match policy(&rule.policy).or_else(|| policy(&listener.policy)) {
        Some(security) => print::asks(&security).unwrap_or_else(|refused| refused) + &what,
        None => what,
    };
    let prefix = if found.prefix > 0 { format!(" prefix {}", &view.path[..found.prefix]) } else { String::new() };
    format!("{what} ({}; {} #{}{prefix})", listener.name, rule.route, rule.index)
}

fn share(backend: &Backend) -> String {
    match &backend.target {
        Target::Upstream(_) => format!("{} × {}", backend.reference, backend.weight),
        Target::Invalid { status, .. } => format!("{status} × {}", backend.weight),
    }
}
