//! Which coding a client is sent (RFC 9110 §12.5.3), and which responses are coded at all.

use edge_config::policy::{Coding, Compressor};

use crate::proxy::message::{Fields, Length, ResponseHead};

/// The coding of those offered that the client likes best; of several that it likes alike the first.
pub fn choose(offered: &[Compressor], request: &Fields) -> Option<Coding> {
    let mut best: Option<(Coding, u16)> = None;
    let identity = weight(request, "identity").unwrap_or(0);
    for compressor in offered {
        let coding = compressor.coding;
        let found = weight(request, coding.token());
        // "x-gzip" is the older name of gzip (§8.4.1.3).
        let found = if coding == Coding::Gzip { found.or_else(|| weight(request, "x-gzip")) } else { found };
        let quality = found.or_else(|| weight(request, "*")).unwrap_or(0);
        if quality > 0 && quality >= identity && best.is_none_or(|(_, most)| quality > most) {
            best = Some((coding, quality));
        }
    }
    best.map(|(coding, _)| coding)
}

/// The quality of a coding in thousandths, where Accept-Encoding names it.
fn weight(request: &Fields, token: &str) -> Option<u16> {
    request.all(b"accept-encoding").find_map(|value| {
        let text = std::str::from_utf8(value).ok()?;
        text.split(',').find_map(|entry| {
            let mut parts = entry.split(';').map(str::trim);
            if !parts.next()?.eq_ignore_ascii_case(token) {
                return None;
            }
            let quality = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
            Some(quality.map_or(1000, thousandths))
        })
    })
}

/// `qvalue = ( "0" [ "." 0*3DIGIT ] ) / ( "1" [ "." 0*3("0") ] )`; what is none is refused by being worth nothing.
fn thousandths(text: &str) -> u16 {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    if part.len() > 3 || !part.bytes().all(|byte| byte.is_ascii_digit()) {
        return 0;
    }
    let part: u16 = format!("{part:0<3}").parse().unwrap_or(0);
    match (whole, part) {
        ("0", part) => part,
        ("1", 0) => 1000,
        _ => 0,
    }
}

/// Whether a response may be coded for a client that wants it. What the client wants is not asked, so that `Vary` is the
/// same for all of them.
pub fn is_codable(offered: &[Compressor], response: &ResponseHead) -> bool {
    let least = offered.iter().map(|compressor| compressor.at_least).min().unwrap_or(u64::MAX);
    let fields = &response.fields;
    // A part of a representation (206) cannot be coded, and the others have no content.
    !matches!(response.status, 100..=199 | 204 | 205 | 206 | 304)
        && is_long_enough(least, response.length)
        && fields.first(b"content-encoding").is_none_or(|coding| coding.eq_ignore_ascii_case(b"identity"))
        && fields.first(b"content-range").is_none()
        && !has_token(fields, b"cache-control", "no-transform")
        && fields.first(b"content-type").is_some_and(is_text)
}

pub fn is_long_enough(least: u64, length: Length) -> bool {
    match length {
        Length::None => false,
        Length::Known(length) => length >= least.max(1),
        Length::Unknown => true,
    }
}

/// Media types that get shorter: text, and what is written as text. gRPC has codings of its own.
fn is_text(content_type: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(content_type) else { return false };
    let essence = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if essence.starts_with("application/grpc") {
        return false;
    }
    essence.starts_with("text/")
        || essence.ends_with("+json")
        || essence.ends_with("+xml")
        || matches!(
            essence.as_str(),
            "application/json"
                | "application/javascript"
                | "application/x-javascript"
                | "application/ecmascript"
                | "application/xml"
                | "application/yaml"
                | "application/x-yaml"
                | "application/x-ndjson"
                | "application/wasm"
                | "application/vnd.ms-fontobject"
                | "font/ttf"
                | "font/otf"
                | "image/bmp"
                | "image/x-icon"
                | "image/vnd.microsoft.icon"
        )
}

/// Whether a list field has a token, whatever its case.
fn has_token(fields: &Fields, name: &[u8], token: &str) -> bool {
    fields
        .all(name)
        .filter_map(|value| std::str::from_utf8(value).ok())
        .any(|value| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(token)))
}

/// Says that the response follows from Accept-Encoding (§12.5.5).
pub fn vary(fields: &mut Fields) {
    if !has_token(fields, b"vary", "accept-encoding") && !has_token(fields, b"vary", "*") {
        fields.add(b"vary", b"Accept-Encoding");
    }
}

/// Makes the head that of the coded response: what was said of the bytes does not hold any more.
pub fn recode(response: &mut ResponseHead, coding: Coding) {
    let fields = &mut response.fields;
    fields.set(b"content-encoding", coding.token().as_bytes());
    // Ranges and digests would be those of other bytes (RFC 9110 §14.2, RFC 9530 §2).
    fields.remove_if(|name| {
        matches!(name, b"accept-ranges" | b"content-md5" | b"digest" | b"content-digest" | b"repr-digest")
    });
    weaken(fields);
    response.length = Length::Unknown;
}

/// A strong entity tag stands for the same bytes, which the coded ones are not (RFC 9110 §8.8.3).
fn weaken(fields: &mut Fields) {
    if let Some(tag) = fields.first(b"etag").filter(|tag| tag.starts_with(b"\"")) {
        let weak = [b"W/", tag].concat();
        fields.set(b"etag", &weak);
    }
}

/// A 304 confirms what the client has: a weakened tag where it asked with one.
pub fn confirm(request: &Fields, response: &mut ResponseHead) {
    let Some(tag) = response.fields.first(b"etag").filter(|tag| tag.starts_with(b"\"")) else { return };
    let weak = [b"W/", tag].concat();
    let asked = request
        .all(b"if-none-match")
        .any(|value| value.split(|byte| *byte == b',').any(|one| one.trim_ascii() == weak.as_slice()));
    if asked {
        response.fields.set(b"etag", &weak);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(pairs: &[(&str, &str)]) -> Fields {
        let mut fields = Fields::default();
        for (name, value) in pairs {
            fields.add(name.as_bytes(), value.as_bytes());
        }
        fields
    }

    fn offered(codings: &[Coding]) -> Vec<Compressor> {
        codings.iter().map(|coding| Compressor { coding: *coding, at_least: 30 }).collect()
    }

    #[test]
    fn the_client_chooses() {
        use Coding::{Brotli, Gzip, Zstd};
        for (accept, expected) in [
            ("", None),
            ("gzip", Some(Gzip)),
            ("x-gzip", Some(Gzip)),
            ("GZIP", Some(Gzip)),
            ("deflate", None),
            ("gzip, deflate, br, zstd", Some(Brotli)),
            ("br;q=0.8, gzip;q=1.0", Some(Gzip)),
            ("br;q=1.0, gzip;q=0.8", Some(Brotli)),
            ("br;q=0, zstd", Some(Zstd)),
            ("*", Some(Brotli)),
            ("br;q=0, *", Some(Gzip)),
            ("*;q=0", None),
            ("gzip;q=0", None),
            ("gzip;q=0.000", None),
            ("gzip;q=0.001", Some(Gzip)),
            ("gzip;q=2", None),
            ("gzip;q=0.0001", None),
            ("gzip ; q=0.5 , zstd ;q=0.6", Some(Zstd)),
            ("identity, gzip;q=0.5", None),
            ("identity;q=0.5, gzip;q=0.5", Some(Gzip)),
            ("gzip;x=1;q=0.3, br;q=0.2", Some(Gzip)),
            (",,;q=1,", None),
        ] {
            let request = fields(&[("accept-encoding", accept)]);
            assert_eq!(choose(&offered(&[Brotli, Gzip, Zstd]), &request), expected, "{accept}");
        }
        let two = fields(&[("accept-encoding", "deflate"), ("accept-encoding", "zstd")]);
        assert_eq!(choose(&offered(&[Brotli, Zstd]), &two), Some(Zstd));
        assert_eq!(choose(&offered(&[Brotli]), &Fields::default()), None);
    }

    #[test]
    fn what_is_coded() {
        let html = ("content-type", "text/html; charset=utf-8");
        for (status, length, pairs, expected) in [
            (200, Length::Known(30), &[html][..], true),
            (404, Length::Unknown, &[html], true),
            (200, Length::Known(29), &[html], false),
            (200, Length::None, &[html], false),
            (206, Length::Unknown, &[html], false),
            (304, Length::Unknown, &[html], false),
            (204, Length::None, &[html], false),
            (200, Length::Unknown, &[], false),
            (200, Length::Unknown, &[("content-type", "image/png")], false),
            (200, Length::Unknown, &[("content-type", "Application/Problem+JSON")], true),
            (200, Length::Unknown, &[("content-type", "text/event-stream")], true),
            (200, Length::Unknown, &[("content-type", "application/grpc-web+json")], false),
            (200, Length::Unknown, &[html, ("content-encoding", "br")], false),
            (200, Length::Unknown, &[html, ("content-encoding", "identity")], true),
            (200, Length::Unknown, &[html, ("cache-control", "public, No-Transform")], false),
            (200, Length::Unknown, &[html, ("cache-control", "no-transformers")], true),
            (200, Length::Unknown, &[html, ("content-range", "bytes 0-1/2")], false),
        ] {
            let response = ResponseHead { status, length, fields: fields(pairs), upgrade: None };
            assert_eq!(is_codable(&offered(&[Coding::Gzip]), &response), expected, "{status} {length:?} {pairs:?}");
        }
    }

    #[test]
    fn the_head_of_a_coded_response() {
        let pairs = [
            ("etag", "\"a\""),
            ("accept-ranges", "bytes"),
            ("repr-digest", "sha-256=:x:"),
            ("vary", "Cookie"),
            ("content-encoding", "identity"),
        ];
        let mut response =
            ResponseHead { status: 200, length: Length::Known(1000), fields: fields(&pairs), upgrade: None };
        vary(&mut response.fields);
        vary(&mut response.fields);
        recode(&mut response, Coding::Brotli);
        let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
        let mut found: Vec<_> =
            response.fields.iter().map(|(name, value)| format!("{}: {}", text(name), text(value))).collect();
        found.sort();
        assert_eq!(found, ["content-encoding: br", "etag: W/\"a\"", "vary: Accept-Encoding", "vary: Cookie"]);
        assert_eq!(response.length, Length::Unknown);
        for (asked, tag, expected) in [
            ("W/\"a\"", "\"a\"", "W/\"a\""),
            ("\"b\", W/\"a\"", "\"a\"", "W/\"a\""),
            ("\"a\"", "\"a\"", "\"a\""),
            ("*", "\"a\"", "\"a\""),
            ("W/\"a\"", "W/\"a\"", "W/\"a\""),
        ] {
            let mut response =
                ResponseHead { status: 304, fields: fields(&[("etag", tag)]), ..ResponseHead::default() };
            confirm(&fields(&[("if-none-match", asked)]), &mut response);
            assert_eq!(text(response.fields.first(b"etag").unwrap()), expected, "{asked}");
        }
    }
}
