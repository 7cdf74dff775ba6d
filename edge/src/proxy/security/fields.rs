//! Parameters and cookies of a request: found, and taken out.

use std::borrow::Cow;

use crate::proxy::message::{Fields, RequestHead};

/// The first parameter of this name, with its escapes resolved.
pub fn param<'q>(query: &'q str, name: &str) -> Option<Cow<'q, [u8]>> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (*unescaped(key) == *name.as_bytes()).then(|| unescaped(value))
    })
}

/// RFC 3986 §2.1; what is no escape stays.
fn unescaped(text: &str) -> Cow<'_, [u8]> {
    if !text.contains('%') {
        return Cow::Borrowed(text.as_bytes());
    }
    let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut place = 0;
    while let Some(byte) = bytes.get(place) {
        match (byte, digit(bytes.get(place + 1)), digit(bytes.get(place + 2))) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                place += 3;
            }
            _ => {
                out.push(*byte);
                place += 1;
            }
        }
    }
    Cow::Owned(out)
}

pub fn without_param(request: &mut RequestHead, name: &str) {
    let Some(query) = request.query() else { return };
    let is_it = |pair: &&str| *unescaped(pair.split('=').next().unwrap_or_default()) == *name.as_bytes();
    if !query.split('&').any(|pair| is_it(&pair)) {
        return;
    }
    let rest: Vec<&str> = query.split('&').filter(|pair| !is_it(pair)).collect();
    let rest = (!rest.is_empty()).then(|| rest.join("&"));
    request.set_query(rest.as_deref());
}

pub fn without_cookie(fields: &mut Fields, name: &str) {
    let is_it =
        |pair: &[u8]| pair.trim_ascii().strip_prefix(name.as_bytes()).is_some_and(|rest| rest.starts_with(b"="));
    if !fields.all(b"cookie").any(|line| line.split(|byte| *byte == b';').any(is_it)) {
        return;
    }
    let lines: Vec<Vec<u8>> = fields
        .all(b"cookie")
        .map(|line| {
            let pairs = line.split(|byte| *byte == b';').filter(|pair| !is_it(pair));
            pairs.map(<[u8]>::trim_ascii).collect::<Vec<_>>().join(&b"; "[..])
        })
        .filter(|line| !line.is_empty())
        .collect();
    fields.remove(b"cookie");
    for line in lines {
        fields.add(b"cookie", &line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters() {
        for (query, name, expected) in [
            ("a=1&key=x", "key", Some("x")),
            ("key=a%20b%2f", "key", Some("a b/")),
            ("%6bey=x", "key", Some("x")),
            ("key", "key", Some("")),
            ("key=%zz%4", "key", Some("%zz%4")),
            ("akey=1", "key", None),
            ("key=1&key=2", "key", Some("1")),
        ] {
            let found = param(query, name);
            assert_eq!(found.as_deref(), expected.map(str::as_bytes), "{query}");
        }
    }

    #[test]
    fn taken_out() {
        for (query, expected) in
            [("a=1&key=x&b=2", Some("a=1&b=2")), ("key=x&%6Bey=y", None), ("keys=x", Some("keys=x"))]
        {
            let mut request = RequestHead::default();
            request.set_query(Some(query));
            without_param(&mut request, "key");
            assert_eq!(request.query(), expected, "{query}");
        }
        let mut fields = Fields::default();
        fields.add(b"cookie", b"a=1; key=x;b=2");
        fields.add(b"cookie", b"key=y");
        fields.add(b"cookie", b"monkey=z");
        without_cookie(&mut fields, "key");
        assert_eq!(fields.all(b"cookie").collect::<Vec<_>>(), [&b"a=1; b=2"[..], b"monkey=z"]);
    }
}
