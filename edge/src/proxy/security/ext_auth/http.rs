//! An authorizer over HTTP: it gets the request's method, path and some fields. 200 lets it pass, 5xx is no decision, and
//! everything else is the answer to the client.

use bytes::Bytes;
use edge_config::policy::{ExtAuth, ExtAuthPath};

use super::{Decision, Edit, Edits, How};
use crate::proxy::exchange::gate::Gate;
use crate::proxy::message::{Fields, Length, RequestHead};
use crate::proxy::upstream::ask::Answer;

/// What is asked.
pub fn question(
    ext_auth: &ExtAuth,
    path: &ExtAuthPath,
    gate: &Gate<'_, '_>,
    request: &RequestHead,
) -> (RequestHead, Bytes) {
    let mut head = RequestHead::default();
    head.method = head.fields.store(request.method().as_bytes());
    head.set_authority(request.authority());
    match path {
        ExtAuthPath::Before(prefix) => {
            head.set_path(&format!("{}{}", prefix.trim_end_matches('/'), request.path()));
            head.query = request.query().map(|query| head.fields.store(query.as_bytes()));
        }
        ExtAuthPath::Instead(path) => {
            let (path, query) = path.split_once('?').map_or((&**path, None), |(path, query)| (path, Some(query)));
            head.set_path(path);
            head.query = query.map(|query| head.fields.store(query.as_bytes()));
        }
    }
    head.scheme = request.scheme;
    let is_shown = |name: &[u8]| {
        name == b"authorization" || ext_auth.request_fields.iter().flatten().any(|shown| shown.as_bytes() == name)
    };
    for (name, value) in request.fields.iter().filter(|(name, _)| is_shown(name)) {
        head.fields.add(name, value);
    }
    let body = gate.body.clone().unwrap_or_default();
    // HEAD and GET with nothing in them stay as they are.
    head.length = match body.len() {
        0 if matches!(head.method(), "GET" | "HEAD" | "OPTIONS" | "DELETE" | "TRACE") => Length::None,
        length => Length::Known(length as u64),
    };
    (head, body)
}

/// What the answer means.
pub fn decision(answer: &Answer, answer_fields: &[Box<str>]) -> Result<Decision, String> {
    match answer.head.status {
        200 => {
            let fields = &answer.head.fields;
            let edits = answer_fields.iter().flat_map(|name| {
                // The first takes the place of what is there, the others come behind it.
                fields.all(name.as_bytes()).enumerate().map(|(place, value)| Edit {
                    name: name.to_string(),
                    value: value.to_vec(),
                    how: if place == 0 { How::Set } else { How::Append },
                })
            });
            Ok(Decision::Allowed(Edits { request: edits.collect(), ..Edits::default() }))
        }
        status @ 500.. => Err(format!("the authorizer answered {status}")),
        status => {
            let mut fields = Fields::default();
            for (name, value) in answer.head.fields.iter() {
                fields.add(name, value);
            }
            Ok(Decision::Denied { status, fields, body: answer.body.clone() })
        }
    }
}
