//! Canonical heads to HTTP/1.1 bytes. Connection-level fields are ours alone; the rest is what the head says.

use super::writer::{Framing, Writer};
use crate::proxy::message::{Length, RequestHead, ResponseHead, Version};

/// Puts a request head for an endpoint. The authority is always sent as Host (RFC 9112 §3.2).
pub fn request(head: &RequestHead, writer: &mut Writer) {
    let text = |span| head.fields.text(span);
    writer.put(text(head.method));
    writer.put(b" ");
    writer.put(text(head.path));
    if let Some(query) = head.query {
        writer.put(b"?");
        writer.put(text(query));
    }
    writer.put(b" HTTP/1.1\r\nhost: ");
    writer.put(text(head.authority));
    writer.put(b"\r\n");
    head.fields.put_lines(|piece| writer.put(piece));
    let framing = match head.length {
        Length::None => Framing::None,
        Length::Known(length) => {
            put_length(length, writer);
            Framing::Length(length)
        }
        Length::Unknown => {
            writer.put(b"transfer-encoding: chunked\r\n");
            Framing::Chunked
        }
    };
    if let Some(protocol) = head.upgrade {
        writer.put(b"connection: upgrade\r\nupgrade: ");
        writer.put(text(protocol));
        writer.put(b"\r\n");
    } else if head.te_trailers {
        // RFC 9110 §10.1.4: TE is about this connection, so it is named there.
        writer.put(b"te: trailers\r\nconnection: te\r\n");
    }
    writer.begin_body(framing);
}

/// What a response must fit.
#[derive(Debug, Clone, Copy)]
pub struct Client {
    pub version: Version,
    /// The request was HEAD.
    pub is_head: bool,
    /// The connection ends with this response.
    pub close: bool,
}

/// Puts a response head for a client; says whether the connection must end with the body.
pub fn response(head: &ResponseHead, client: Client, writer: &mut Writer) -> bool {
    start_line(head.status, writer);
    head.fields.put_lines(|piece| writer.put(piece));
    if let (101, Some(protocol)) = (head.status, head.upgrade) {
        writer.put(b"connection: upgrade\r\nupgrade: ");
        writer.put(head.fields.text(protocol));
        writer.put(b"\r\n");
        writer.begin_body(Framing::Close);
        return true;
    }
    let mut close = client.close;
    let framing = match head.length {
        // RFC 9110 §8.6: a length may be told without a body for HEAD and 304, and never with 1xx and 204.
        Length::Known(length) if client.is_head || head.status == 304 => {
            put_length(length, writer);
            Framing::None
        }
        _ if head.is_bodiless(client.is_head) => Framing::None,
        Length::None => {
            put_length(0, writer);
            Framing::Length(0)
        }
        Length::Known(length) => {
            put_length(length, writer);
            Framing::Length(length)
        }
        Length::Unknown if client.version == Version::Http10 => {
            close = true;
            Framing::Close
        }
        Length::Unknown => {
            writer.put(b"transfer-encoding: chunked\r\n");
            Framing::Chunked
        }
    };
    match (close, client.version) {
        (true, _) => writer.put(b"connection: close\r\n"),
        // A 1.0 client that asked for it has to be told.
        (false, Version::Http10) => writer.put(b"connection: keep-alive\r\n"),
        (false, _) => {}
    }
    writer.begin_body(framing);
    close
}

/// Puts an interim response.
pub fn interim(head: &ResponseHead, writer: &mut Writer) {
    start_line(head.status, writer);
    head.fields.put_lines(|piece| writer.put(piece));
    writer.begin_body(Framing::None);
}

fn start_line(status: u16, writer: &mut Writer) {
    if status == 200 {
        return writer.put(b"HTTP/1.1 200 OK\r\n");
    }
    writer.put(b"HTTP/1.1 ");
    writer.put_number(u64::from(status));
    writer.put(b" ");
    // The reason phrase of the endpoint carries no meaning (RFC 9112 §4) and is not passed on.
    let reason = http::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
    writer.put(reason.unwrap_or_default().as_bytes());
    writer.put(b"\r\n");
}

fn put_length(length: u64, writer: &mut Writer) {
    writer.put(b"content-length: ");
    writer.put_number(length);
    writer.put(b"\r\n");
}
