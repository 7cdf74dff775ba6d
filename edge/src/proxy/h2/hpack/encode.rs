//! Writing header blocks: the static table where it has the field or its name, literals without indexing for the rest.

/// A response's `:status`.
pub fn status(into: &mut Vec<u8>, status: u16) {
    let index = match status {
        200 => 8,
        204 => 9,
        206 => 10,
        304 => 11,
        400 => 12,
        404 => 13,
        500 => 14,
        _ => {
            let digits = [100, 10, 1].map(|unit| b'0' + (status / unit % 10) as u8);
            // Literal without indexing, the name of entry 8, three bytes.
            into.extend_from_slice(&[8, 3]);
            return into.extend_from_slice(&digits);
        }
    };
    into.push(0x80 | index);
}

/// A whole entry of the static table.
pub fn indexed(into: &mut Vec<u8>, index: u8) {
    into.push(0x80 | index);
}

/// A field by the place of its name in the static table; the value in parts.
pub fn with_name(into: &mut Vec<u8>, index: u8, value: &[&[u8]]) {
    integer(into, 0, 4, usize::from(index));
    integer(into, 0, 7, value.iter().map(|part| part.len()).sum());
    for part in value {
        into.extend_from_slice(part);
    }
}

/// A field. Secrets are marked as never to be indexed, by whoever re-encodes them (§7.1.3).
pub fn field(into: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    let flag =
        if matches!(name, b"authorization" | b"cookie" | b"set-cookie" | b"proxy-authorization") { 0x10 } else { 0 };
    let index = place(name);
    integer(into, flag, 4, index);
    if index == 0 {
        string(into, name);
    }
    string(into, value);
}

/// A number as a field's value.
pub fn number(into: &mut Vec<u8>, index: u8, number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    let mut rest = number;
    loop {
        at -= 1;
        if let Some(digit) = digits.get_mut(at) {
            *digit = b'0' + (rest % 10) as u8;
        }
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    with_name(into, index, &[digits.get(at..).unwrap_or_default()]);
}

fn string(into: &mut Vec<u8>, text: &[u8]) {
    integer(into, 0, 7, text.len());
    into.extend_from_slice(text);
}

/// §5.1.
fn integer(into: &mut Vec<u8>, flags: u8, bits: u32, value: usize) {
    let mask = (1 << bits) - 1;
    if value < mask {
        return into.push(flags | value as u8);
    }
    into.push(flags | mask as u8);
    let mut rest = value - mask;
    while rest >= 0x80 {
        into.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    into.push(rest as u8);
}

/// Where the static table has this name; 0: nowhere.
fn place(name: &[u8]) -> usize {
    match name {
        b"accept-charset" => 15,
        b"accept-encoding" => 16,
        b"accept-language" => 17,
        b"accept-ranges" => 18,
        b"accept" => 19,
        b"access-control-allow-origin" => 20,
        b"age" => 21,
        b"allow" => 22,
        b"authorization" => 23,
        b"cache-control" => 24,
        b"content-disposition" => 25,
        b"content-encoding" => 26,
        b"content-language" => 27,
        b"content-length" => 28,
        b"content-location" => 29,
        b"content-range" => 30,
        b"content-type" => 31,
        b"cookie" => 32,
        b"date" => 33,
        b"etag" => 34,
        b"expect" => 35,
        b"expires" => 36,
        b"from" => 37,
        b"host" => 38,
        b"if-match" => 39,
        b"if-modified-since" => 40,
        b"if-none-match" => 41,
        b"if-range" => 42,
        b"if-unmodified-since" => 43,
        b"last-modified" => 44,
        b"link" => 45,
        b"location" => 46,
        b"max-forwards" => 47,
        b"proxy-authenticate" => 48,
        b"proxy-authorization" => 49,
        b"range" => 50,
        b"referer" => 51,
        b"refresh" => 52,
        b"retry-after" => 53,
        b"server" => 54,
        b"set-cookie" => 55,
        b"strict-transport-security" => 56,
        b"user-agent" => 58,
        b"vary" => 59,
        b"via" => 60,
        b"www-authenticate" => 61,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_where_the_table_has_them() {
        for (index, (name, _)) in super::super::table::STATIC.iter().enumerate() {
            let found = place(name.as_bytes());
            assert!(name.starts_with(':') || *name == "transfer-encoding" || found == index + 1, "{name}");
        }
    }
}
