use super::*;

fn bytes(hex: &str) -> Vec<u8> {
    let hex: String = hex.split_whitespace().collect();
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn read(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<String>, HpackError> {
    let mut fields = Vec::new();
    decoder.decode(block, |name, value| {
        fields.push(format!("{}: {}", String::from_utf8_lossy(name), String::from_utf8_lossy(value)));
    })?;
    Ok(fields)
}

/// RFC 7541 appendix C.3 and C.4: three requests on one connection, without and with Huffman's code.
#[test]
fn requests_of_the_specification() {
    for blocks in [
        [
            "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
            "8286 84be 5808 6e6f 2d63 6163 6865",
            "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
        ],
        [
            "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
            "8286 84be 5886 a8eb 1064 9cbf",
            "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
        ],
    ] {
        let mut decoder = Decoder::default();
        let authority = ":authority: www.example.com";
        let expected: [&[&str]; 3] = [
            &[":method: GET", ":scheme: http", ":path: /", authority],
            &[":method: GET", ":scheme: http", ":path: /", authority, "cache-control: no-cache"],
            &[":method: GET", ":scheme: https", ":path: /index.html", authority, "custom-key: custom-value"],
        ];
        for (block, expected) in blocks.iter().zip(expected) {
            assert_eq!(read(&mut decoder, &bytes(block)).unwrap(), expected);
        }
    }
}

#[test]
fn old_entries_make_room() {
    let mut decoder = Decoder::default();
    // A table for two entries of this size, then for one.
    let block = bytes("3f27 4001 6101 31 4001 6201 32");
    assert_eq!(read(&mut decoder, &block).unwrap(), ["a: 1", "b: 2"]);
    assert_eq!(read(&mut decoder, &[0xbe]).unwrap(), ["b: 2"]);
    assert_eq!(read(&mut decoder, &[0xbf]).unwrap(), ["a: 1"]);
    assert_eq!(read(&mut decoder, &bytes("3f03 be")).unwrap(), ["b: 2"]);
    assert!(read(&mut decoder, &[0xbf]).is_err());
    // One that is larger than the table empties it.
    let mut large = bytes("4001 63 7f00");
    large.extend_from_slice(&[b'x'; 127]);
    assert_eq!(read(&mut decoder, &large).unwrap().len(), 1);
    assert!(read(&mut decoder, &[0xbe]).is_err());
}

#[test]
fn what_is_no_block_is_refused() {
    for block in [
        "80",
        "c6",
        "ffffffffffff7f",
        "40",
        "4001",
        "400161",
        "40016105",
        "00 ff ff ff ff ff 01",
        "82 20",
        "3fe2 1f",
        "0f ff ff ff 0f 00",
        "4181 ff",
    ] {
        assert!(read(&mut Decoder::default(), &bytes(block)).is_err(), "{block}");
    }
}

#[test]
fn what_is_written_is_read_back() {
    let mut block = Vec::new();
    encode::status(&mut block, 200);
    encode::status(&mut block, 207);
    encode::indexed(&mut block, 7);
    encode::number(&mut block, 28, 1_234_567);
    encode::number(&mut block, 28, 0);
    let long = "v".repeat(40_000);
    for (name, value) in [("cookie", "a=1"), ("x-own", ""), ("content-type", "text/plain"), ("x-long", &long)] {
        encode::field(&mut block, name.as_bytes(), value.as_bytes());
    }
    let fields = read(&mut Decoder::default(), &block).unwrap();
    assert_eq!(
        fields,
        [
            ":status: 200",
            ":status: 207",
            ":scheme: https",
            "content-length: 1234567",
            "content-length: 0",
            "cookie: a=1",
            "x-own: ",
            "content-type: text/plain",
            &format!("x-long: {long}")
        ]
    );
}

/// Whatever comes, nothing panics and memory stays bounded. Deterministic: the seed is the round.
#[test]
fn noise_is_survived() {
    for round in 1..20_000_u64 {
        let mut state = round.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut decoder = Decoder::default();
        let block: Vec<u8> = (0..round % 60)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 56) as u8
            })
            .collect();
        let _ = read(&mut decoder, &block);
        let _ = read(&mut decoder, &block);
    }
}
