use super::*;

fn read(section: &[u8]) -> Result<Vec<(String, String)>, QpackError> {
    let mut fields = Vec::new();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    decode(section, |name, value| fields.push((text(name), text(value))))?;
    Ok(fields)
}

fn pairs(fields: &[(&str, &str)]) -> Vec<(String, String)> {
    fields.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

/// RFC 9204 appendix B.1, and each other form once.
#[test]
fn forms_of_the_specification() {
    let path = b"\x00\x00\x51\x0b/index.html";
    assert_eq!(read(path), Ok(pairs(&[(":path", "/index.html")])));
    assert_eq!(read(&[0, 0, 0xd1, 0xd7]), Ok(pairs(&[(":method", "GET"), (":scheme", "https")])));
    // Entry 98 needs a second byte.
    assert_eq!(read(&[0, 0, 0xff, 98 - 63]), Ok(pairs(&[("x-frame-options", "sameorigin")])));
    assert_eq!(read(b"\x00\x00\x23abc\x011"), Ok(pairs(&[("abc", "1")])));
    assert_eq!(read(b"\x00\x00\x33abc\x011"), Ok(pairs(&[("abc", "1")])), "never to be indexed");
    // "www.example.com" in Huffman's code, RFC 7541 C.4.1.
    let coded = b"\x00\x00\x50\x8c\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff";
    assert_eq!(read(coded), Ok(pairs(&[(":authority", "www.example.com")])));
    assert_eq!(read(&[0, 0]), Ok(Vec::new()));
}

#[test]
fn what_needs_a_dynamic_table_is_refused() {
    for section in [
        &b"\x01\x00\x80"[..],     // something was inserted
        b"\x00\x80",              // a negative base
        b"\x00\x00\x80",          // indexed
        b"\x00\x00\x10",          // indexed behind the base
        b"\x00\x00\x40\x01a",     // the name indexed
        b"\x00\x00\x00\x01a",     // the name indexed behind the base
        b"\x00\x00\xff\x24",      // beyond the static table
        b"\x00\x00\x5f\x7f\x01a", // the same for a name
        b"\x00\x00\x23ab",        // cut short
        b"\x00\x00\x23abc",
        b"\x00\x00\x23abc\x05val",
        b"\x00\x00\xff\xff\xff\xff\xff\xff\x01",
        b"\x00\x00\x50\x81\x00", // bad padding
        b"\x00",
        b"",
    ] {
        assert!(read(section).is_err(), "{section:x?}");
    }
}

#[test]
fn what_is_written_is_read_back() {
    for status in 100..600 {
        if status == 101 {
            continue;
        }
        let mut head = ResponseHead { status, length: Length::Known(1234567), ..ResponseHead::default() };
        head.fields.add(b"content-type", b"text/plain; charset=utf-8");
        head.fields.add(b"x-own", b"");
        head.fields.add(b"set-cookie", &[b'x'; 300]);
        head.fields.add("x-a-name-that-is-longer-than-seven-bytes".as_bytes(), b"value");
        let mut section = Vec::new();
        put_response(&head, &mut section).unwrap();
        let fields = read(&section).unwrap();
        assert_eq!(fields[0], (":status".to_owned(), status.to_string()));
        let has_length = fields.contains(&("content-length".to_owned(), "1234567".to_owned()));
        assert_eq!(has_length, status >= 200 && status != 204, "{status}");
        assert!(fields.contains(&("set-cookie".to_owned(), "x".repeat(300))));
        assert_eq!(fields.len(), 5 + usize::from(has_length));
    }
    for status in [0, 99, 101, 600] {
        let head = ResponseHead { status, ..ResponseHead::default() };
        assert!(put_response(&head, &mut Vec::new()).is_err(), "{status}");
    }
    let mut fields = Fields::default();
    fields.add(b"X", b"upper case");
    assert!(put_fields(&fields, &mut Vec::new()).is_err());
}

/// Whatever the bytes are, they are read or refused.
#[test]
fn random_bytes_never_panic() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for round in 0..200_000 {
        let mut section = vec![0_u8; round % 40];
        for byte in &mut section {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = (state >> 33) as u8;
        }
        if let Some(start) = section.get_mut(..2) {
            start.fill(0);
        }
        let _ = read(&section);
    }
}
