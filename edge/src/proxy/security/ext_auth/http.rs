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
    let body = ext_auth.body.and(gate.body.clone()).unwrap_or_default();
    // HEAD and GET with nothing in them stay as they are.
    head.length = match body.len() {
        0 if matches!(head.method(), "GET" | "HEAD" | "OPTIONS" | "DELETE" | "TRACE") => Length::None,
        length => Length::Known(length as u64),
    };
    (head, body)
}

/// What the answer means.
pub fn decision(answer: &Answer, answer_fields: Option<&[Box<str>]>) -> Result<Decision, String> {
    match answer.head.status {
        200 => {
            let is_told = |name: &str| match answer_fields {
                Some(named) => named.iter().any(|told| **told == *name),
                None => !is_about_the_answer(name),
            };
            let mut request: Vec<Edit> = Vec::new();
            for (name, value) in answer.head.fields.iter() {
                let Some(name) = std::str::from_utf8(name).ok().filter(|name| is_told(name)) else { continue };
                // The first takes the place of what is there, the others come behind it.
                let how = if request.iter().any(|edit| edit.name == name) { How::Append } else { How::Set };
                request.push(Edit { name: name.to_owned(), value: value.to_vec(), how });
            }
            Ok(Decision::Allowed(Edits { request, ..Edits::default() }))
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

/// Fields that say what the body of the authorizer's answer is, or who made it and when (RFC 9110 §8, §6.6.1, §10.2.4): in a
/// request they would be about another body. What frames a message is never taken from elsewhere, see `may_be_edited`.
fn is_about_the_answer(name: &str) -> bool {
    matches!(
        name,
        "content-type"
            | "content-encoding"
            | "content-language"
            | "content-location"
            | "content-range"
            | "date"
            | "server"
            | "etag"
            | "last-modified"
    )
}
