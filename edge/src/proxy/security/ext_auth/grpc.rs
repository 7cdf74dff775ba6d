//! An authorizer in Envoy's protocol: envoy.service.auth.v3.Authorization/Check over gRPC (HTTP/2 framing as in gRPC's
//! PROTOCOL-HTTP2). A status of gRPC other than OK is no decision; a status inside of the answer is one.

use std::collections::HashMap;

use bytes::Bytes;
use edge_config::policy::{ExtAuth, Extension};
use prost::Message as _;

use super::message::{
    Address, Allowed, Attributes, CheckRequest, CheckResponse, HeaderOption, HttpRequest, Peer, Request, SocketAddress,
    Timestamp, TlsSession,
};
use super::{Decision, Edit, Edits, How, denial, is_name, is_value};
use crate::proxy::exchange::gate::Gate;
use crate::proxy::exchange::record::unix_seconds;
use crate::proxy::message::{Fields, Length, RequestHead, Scheme, Version};
use crate::proxy::upstream::ask::Answer;

/// What is asked. An error: a secret is not at hand.
pub fn question(
    ext_auth: &ExtAuth,
    gate: &Gate<'_, '_>,
    request: &RequestHead,
) -> Result<(RequestHead, Bytes), String> {
    let mut extensions = HashMap::with_capacity(ext_auth.extensions.len());
    for (name, extension) in &ext_auth.extensions {
        let text = match extension {
            Extension::Text(text) => text.to_string(),
            Extension::Secret(reference) => {
                let text = gate.current.secrets().text(reference)?;
                String::from_utf8_lossy(text.bytes()).into_owned()
            }
        };
        extensions.insert(name.to_string(), text);
    }
    let peer = |address: std::net::SocketAddr| {
        let (address, port_value) = (address.ip().to_canonical().to_string(), Some(u32::from(address.port())));
        let address = Address { socket_address: Some(SocketAddress { address, port_value }) };
        Some(Peer { address: Some(address), principal: String::new() })
    };
    let client = std::net::SocketAddr::new(gate.sender.client, gate.arrival.peer.port());
    let seconds = i64::try_from(unix_seconds()).unwrap_or(i64::MAX);
    let attributes = Attributes {
        source: peer(client),
        destination: peer(gate.arrival.destination()),
        request: Some(Request {
            time: Some(Timestamp { seconds, nanos: 0 }),
            http: Some(http(ext_auth, gate.body.as_ref().filter(|_| ext_auth.body.is_some()), request)),
        }),
        context_extensions: extensions,
        tls_session: gate.arrival.server_name.as_ref().map(|name| TlsSession { sni: name.to_string() }),
    };
    let message = CheckRequest { attributes: Some(attributes) }.encode_to_vec();
    let mut frame = Vec::with_capacity(message.len() + 5);
    frame.push(0);
    frame.extend_from_slice(&u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    frame.extend_from_slice(&message);
    let mut head = RequestHead::default();
    head.method = head.fields.store(b"POST");
    head.set_authority(gate_authority(ext_auth));
    head.set_path("/envoy.service.auth.v3.Authorization/Check");
    head.fields.add(b"content-type", b"application/grpc");
    head.fields.add(b"user-agent", b"edge");
    // For servers that give up with us.
    let timeout = format!("{}m", ext_auth.timeout.as_millis().clamp(1, 99_999_999));
    head.fields.add(b"grpc-timeout", timeout.as_bytes());
    head.te_trailers = true;
    head.length = Length::Unknown;
    Ok((head, frame.into()))
}

/// Servers of gRPC look at no host; it says who is meant.
fn gate_authority(ext_auth: &ExtAuth) -> &str {
    let name = &*ext_auth.owner.key.name;
    if name.is_empty() { "authorizer" } else { name }
}

fn http(ext_auth: &ExtAuth, body: Option<&Bytes>, request: &RequestHead) -> HttpRequest {
    let mut path = request.path().to_owned();
    if let Some(query) = request.query() {
        path.push('?');
        path.push_str(query);
    }
    let scheme = if request.scheme == Scheme::Https { "https" } else { "http" };
    let mut headers: HashMap<String, String> = HashMap::with_capacity(request.fields.len() + 4);
    for (name, value) in
        [(":method", request.method()), (":path", &path), (":authority", request.authority()), (":scheme", scheme)]
    {
        headers.insert(name.to_owned(), value.to_owned());
    }
    let is_shown = |name: &[u8]| match &ext_auth.request_fields {
        None => true,
        Some(all) => all.iter().any(|shown| shown.as_bytes() == name),
    };
    for (name, value) in request.fields.iter().filter(|(name, _)| is_shown(name)) {
        let (name, value) = (String::from_utf8_lossy(name), String::from_utf8_lossy(value));
        headers
            .entry(name.into_owned())
            .and_modify(|known| {
                known.push_str(if known.is_empty() { "" } else { "," });
                known.push_str(&value);
            })
            .or_insert_with(|| value.into_owned());
    }
    let size = match (body, request.length) {
        (Some(body), _) => i64::try_from(body.len()).unwrap_or(i64::MAX),
        (None, Length::Known(length)) => i64::try_from(length).unwrap_or(i64::MAX),
        (None, Length::None) => 0,
        (None, Length::Unknown) => -1,
    };
    let (mut text, mut raw_body) = (String::new(), Vec::new());
    if let Some(body) = body {
        headers.insert("x-envoy-auth-partial-body".to_owned(), "false".to_owned());
        match std::str::from_utf8(body) {
            Ok(body) => text = body.to_owned(),
            Err(_) => raw_body = body.to_vec(),
        }
    }
    let protocol = match request.version {
        Version::Http10 => "HTTP/1.0",
        Version::Http11 => "HTTP/1.1",
        Version::Http2 => "HTTP/2",
        Version::Http3 => "HTTP/3",
    };
    HttpRequest {
        method: request.method().to_owned(),
        headers,
        path,
        host: request.authority().to_owned(),
        scheme: scheme.to_owned(),
        size,
        protocol: protocol.to_owned(),
        body: text,
        raw_body,
    }
}

/// What the answer means.
pub fn decision(answer: &Answer) -> Result<Decision, String> {
    if answer.head.status != 200 {
        return Err(format!("the authorizer answered {}", answer.head.status));
    }
    match answer.grpc_status() {
        Some(0) => {}
        Some(code) => return Err(format!("the authorizer answered grpc-status {code}")),
        None => return Err("the authorizer gave no grpc-status".to_owned()),
    }
    let message = match answer.body.split_at_checked(5) {
        Some(([0, length @ ..], message)) if u32::from_be_bytes(*length_of(length)) as usize == message.len() => {
            message
        }
        _ => return Err("the authorizer's answer is no message of gRPC".to_owned()),
    };
    let response = CheckResponse::decode(message).map_err(|error| format!("the authorizer's answer: {error}"))?;
    let code = response.status.map_or(0, |status| status.code);
    if code == 0 {
        return allowed(response.ok.unwrap_or_default());
    }
    let denied = response.denied.unwrap_or_default();
    let status = denial(denied.status.map_or(0, |status| i64::from(status.code)), 403);
    let mut fields = Fields::default();
    for option in denied.headers {
        let edit = edit(option)?;
        match edit.how {
            How::Append => fields.add(edit.name.as_bytes(), &edit.value),
            _ => fields.set(edit.name.as_bytes(), &edit.value),
        }
    }
    fields.remove_if(|name| std::str::from_utf8(name).is_ok_and(|name| !super::may_be_edited(name)));
    Ok(Decision::Denied { status, fields, body: denied.body })
}

/// A split of five bytes leaves four.
fn length_of(bytes: &[u8]) -> &[u8; 4] {
    bytes.first_chunk().unwrap_or(&[0; 4])
}

fn allowed(ok: Allowed) -> Result<Decision, String> {
    let request = ok.headers.into_iter().map(edit).collect::<Result<Vec<_>, _>>()?;
    let response = ok.response_headers_to_add.into_iter().map(edit).collect::<Result<Vec<_>, _>>()?;
    Ok(Decision::Allowed(Edits {
        request,
        remove: ok.headers_to_remove.into_iter().map(|name| name.to_ascii_lowercase()).collect(),
        response: response.into_iter().map(|edit| (edit.name, edit.value)).collect(),
        set_query: ok.query_parameters_to_set.into_iter().map(|one| (one.key, one.value)).collect(),
        remove_query: ok.query_parameters_to_remove,
    }))
}

/// envoy.config.core.v3.HeaderValueOption. Where it says nothing of how, it takes the place of what is there.
fn edit(option: HeaderOption) -> Result<Edit, String> {
    let header = option.header.unwrap_or_default();
    let value = if header.raw_value.is_empty() { header.value.into_bytes() } else { header.raw_value };
    let name = header.key.to_ascii_lowercase();
    let is_pseudo = name.starts_with(':');
    if !(is_name(&name) || is_pseudo) || !is_value(&value) {
        let shown: String = name.chars().filter(|letter| !letter.is_control()).take(60).collect();
        return Err(format!("the authorizer's field {shown:?} is none"));
    }
    let how = match (option.append_action, option.append) {
        (1, _) => How::AddIfAbsent,
        (2, _) => How::Set,
        (3, _) => How::SetIfPresent,
        (_, Some(append)) if append.value => How::Append,
        _ => How::Set,
    };
    Ok(Edit { name, value, how })
}
