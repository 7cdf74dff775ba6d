//! Protocol buffers, written field by field into bytes that are there already: a span costs no allocation and no message
//! of intermediate values. What is written is read back with prost in the tests, and by an OpenTelemetry collector.

use std::borrow::Cow;

/// Longer texts are cut: a client's words must not fill the queue.
pub const LONGEST: usize = 1024;

const VARINT: usize = 0;
const FIXED64: usize = 1;
const LENGTH: usize = 2;
const FIXED32: usize = 5;

/// `Span.attributes`, `Resource.attributes`: the number of the field.
pub type Field = usize;

fn tag(out: &mut Vec<u8>, field: Field, kind: usize) {
    varint(out, field << 3 | kind);
}

fn varint(out: &mut Vec<u8>, value: usize) {
    // It fails where there is no room, and a vector grows.
    let _ = prost::encode_length_delimiter(value, out);
}

fn length_of(value: usize) -> usize {
    prost::length_delimiter_len(value)
}

pub fn bytes(out: &mut Vec<u8>, field: Field, value: &[u8]) {
    tag(out, field, LENGTH);
    varint(out, value.len());
    out.extend_from_slice(value);
}

pub fn number(out: &mut Vec<u8>, field: Field, value: usize) {
    tag(out, field, VARINT);
    varint(out, value);
}

pub fn fixed64(out: &mut Vec<u8>, field: Field, value: u64) {
    tag(out, field, FIXED64);
    out.extend_from_slice(&value.to_le_bytes());
}

pub fn fixed32(out: &mut Vec<u8>, field: Field, value: u32) {
    tag(out, field, FIXED32);
    out.extend_from_slice(&value.to_le_bytes());
}

/// A `KeyValue` with a text. Strings are UTF-8 by the standard, so what is none becomes U+FFFD.
pub fn text(out: &mut Vec<u8>, field: Field, key: &str, value: &[u8]) {
    texts(out, field, key, &[value]);
}

/// The same with a text of several pieces.
pub fn texts(out: &mut Vec<u8>, field: Field, key: &str, pieces: &[&[u8]]) {
    let mut sound = [const { Cow::Borrowed("") }; 6];
    let mut room = LONGEST;
    let mut length = 0;
    for (slot, piece) in sound.iter_mut().zip(pieces) {
        *slot = cut(piece, room);
        room = room.saturating_sub(slot.len());
        length += slot.len();
    }
    // AnyValue.string_value = 1
    let any = 1 + length_of(length) + length;
    pair(out, field, key, any);
    tag(out, 1, LENGTH);
    varint(out, length);
    for piece in &sound {
        out.extend_from_slice(piece.as_bytes());
    }
}

/// A `KeyValue` with an integer.
pub fn integer(out: &mut Vec<u8>, field: Field, key: &str, value: u64) {
    let value = usize::try_from(value).unwrap_or(usize::MAX);
    // AnyValue.int_value = 3
    pair(out, field, key, 1 + length_of(value));
    tag(out, 3, VARINT);
    varint(out, value);
}

/// Key and head of a pair whose AnyValue has so many bytes.
fn pair(out: &mut Vec<u8>, field: Field, key: &str, any: usize) {
    let length = 1 + length_of(key.len()) + key.len() + 1 + length_of(any) + any;
    tag(out, field, LENGTH);
    varint(out, length);
    bytes(out, 1, key.as_bytes());
    tag(out, 2, LENGTH);
    varint(out, any);
}

/// At most so many bytes of a text, whole characters only.
fn cut(text: &[u8], room: usize) -> Cow<'_, str> {
    let front = text.get(..room).unwrap_or(text);
    match std::str::from_utf8(front) {
        Ok(text) => Cow::Borrowed(text),
        // The cut went through a character.
        Err(error) if error.error_len().is_none() && front.len() < text.len() => {
            String::from_utf8_lossy(front.get(..error.valid_up_to()).unwrap_or_default())
        }
        Err(_) => match String::from_utf8_lossy(front) {
            Cow::Owned(mut text) => {
                text.truncate(text.floor_char_boundary(room));
                Cow::Owned(text)
            }
            text => text,
        },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;

    use super::super::messages::{KeyValue, Value};
    use super::*;

    #[derive(Clone, PartialEq, prost::Message)]
    struct Sample {
        #[prost(message, repeated, tag = "9")]
        attributes: Vec<KeyValue>,
        #[prost(bytes = "vec", tag = "1")]
        id: Vec<u8>,
        #[prost(fixed64, tag = "7")]
        time: u64,
        #[prost(fixed32, tag = "16")]
        flags: u32,
        #[prost(int32, tag = "6")]
        kind: i32,
    }

    proptest! {
        #[test]
        fn prost_reads_what_is_written(
            id in prop::collection::vec(any::<u8>(), 0..40), time in any::<u64>(), flags in any::<u32>(), kind in 0..5usize,
            pairs in prop::collection::vec(("[a-z.]{1,30}", prop::collection::vec(any::<u8>(), 0..2000)), 0..6),
            count in 0..i64::MAX as u64,
        ) {
            let mut out = Vec::new();
            bytes(&mut out, 1, &id);
            fixed64(&mut out, 7, time);
            fixed32(&mut out, 16, flags);
            number(&mut out, 6, kind);
            for (key, value) in &pairs {
                text(&mut out, 9, key, value);
            }
            integer(&mut out, 9, "count", count);
            let read = Sample::decode(&*out).unwrap();
            prop_assert_eq!((read.id, read.time, read.flags, read.kind), (id, time, flags, kind as i32));
            for (read, (key, value)) in read.attributes.iter().zip(&pairs) {
                prop_assert_eq!(&read.key, key);
                let text = read.text();
                prop_assert!(text.len() <= LONGEST);
                let whole = String::from_utf8_lossy(value).into_owned();
                prop_assert!(whole.starts_with(text) || text.contains('\u{fffd}'), "{} of {}", text, whole);
                prop_assert!(value.len() > LONGEST || whole.len() > LONGEST || text == whole);
            }
            let last = read.attributes.last().unwrap();
            prop_assert_eq!(last.value.as_ref().unwrap().value.clone(), Some(Value::Integer(count as i64)));
        }
    }

    #[test]
    fn a_text_of_pieces_is_cut_as_one() {
        let long = "ä".repeat(LONGEST / 2 - 1);
        let mut out = Vec::new();
        texts(&mut out, 9, "k", &[b"x", long.as_bytes(), "äö".as_bytes()]);
        let read = Sample::decode(&*out).unwrap();
        // One byte is left, and no character of two bytes fits there.
        assert_eq!(read.attributes[0].text(), format!("x{long}"));
    }
}
