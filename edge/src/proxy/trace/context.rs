//! The context of a trace as it travels: `traceparent` and `tracestate` (W3C Trace Context, level 2).
//!
//! In: the fields of a request. Out: the context that they say, or none. What is broken is as if it were not there, and is
//! taken away, so that nobody further on reads it otherwise.

use crate::proxy::message::Fields;

/// The field that is written: version 00, `00-TRACE ID-SPAN ID-FLAGS`.
pub const LENGTH: usize = 55;
pub const TRACEPARENT: &[u8] = b"traceparent";
pub const TRACESTATE: &[u8] = b"tracestate";

/// §3.3.1.1: "There can be a maximum of 32 list-members in a list."
const MOST_MEMBERS: usize = 32;
const LONGEST_KEY: usize = 256;
const LONGEST_VALUE: usize = 256;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(u8);

impl Flags {
    const SAMPLED: u8 = 0b01;
    /// The last seven bytes of the trace id are random.
    const RANDOM: u8 = 0b10;

    /// Of a trace that begins here.
    pub fn begun(is_sampled: bool) -> Self {
        Self(Self::RANDOM | u8::from(is_sampled))
    }

    pub fn is_sampled(self) -> bool {
        self.0 & Self::SAMPLED != 0
    }

    /// §2.3: who writes flags that it does not know sets them to zero; the random one goes with its trace id.
    pub fn with_sampled(self, is_sampled: bool) -> Self {
        Self((self.0 & Self::RANDOM) | u8::from(is_sampled))
    }

    pub fn bits(self) -> u8 {
        self.0
    }
}

/// Where in which trace somebody is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context {
    pub trace_id: [u8; 16],
    pub span_id: [u8; 8],
    pub flags: Flags,
}

impl Context {
    /// Reads the context of a request, and cleans the fields: of two fields, or one that is broken, there is none, and then
    /// there is no state either; a state that is broken is taken away alone (§3.3.1.5), one in several fields is joined.
    pub fn take(fields: &mut Fields) -> Option<Self> {
        let mut found = None;
        let mut parents = 0;
        let mut states = 0;
        for (name, value) in fields.iter() {
            // Most names are none of these, and show it at once.
            if name.first() != Some(&b't') {
                continue;
            }
            if name == TRACEPARENT {
                parents += 1;
                found = Self::parse(value);
            } else if name == TRACESTATE {
                states += 1;
            }
        }
        if parents > 1 {
            found = None;
        }
        if parents > 0 && found.is_none() {
            fields.remove(TRACEPARENT);
        }
        if states == 0 {
            return found;
        }
        if found.is_none() || !is_state(fields) {
            fields.remove(TRACESTATE);
        } else if states > 1 {
            let joined = state(fields);
            fields.set(TRACESTATE, joined.as_bytes());
        }
        found
    }

    /// §3.2: the version decides of what comes after the parts that all versions have.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let (version, rest) = text.split_at_checked(2)?;
        let [version] = hex(version)?;
        let (known, rest) = rest.split_at_checked(LENGTH - 2)?;
        match version {
            0xff => return None,
            0 if !rest.is_empty() => return None,
            _ if rest.first().is_some_and(|next| *next != b'-') => return None,
            _ => {}
        }
        let (trace_id, known) = known.strip_prefix(b"-")?.split_at_checked(32)?;
        let (span_id, known) = known.strip_prefix(b"-")?.split_at_checked(16)?;
        let [flags] = hex(known.strip_prefix(b"-")?)?;
        let (trace_id, span_id) = (hex(trace_id)?, hex(span_id)?);
        let is_whole = trace_id != [0; 16] && span_id != [0; 8];
        is_whole.then_some(Self { trace_id, span_id, flags: Flags(flags) })
    }

    pub fn write(&self) -> [u8; LENGTH] {
        let mut out = *b"00-00000000000000000000000000000000-0000000000000000-00";
        put_hex(&mut out[3..35], &self.trace_id);
        put_hex(&mut out[36..52], &self.span_id);
        put_hex(&mut out[53..], &[self.flags.bits()]);
        out
    }
}

/// All members of the state as one list, for who has checked it.
pub fn state(fields: &Fields) -> String {
    let mut joined = String::new();
    for value in fields.all(TRACESTATE).filter(|value| !value.is_empty()) {
        if !joined.is_empty() {
            joined.push(',');
        }
        joined.push_str(&String::from_utf8_lossy(value));
    }
    joined
}

fn is_state(fields: &Fields) -> bool {
    let mut members = 0;
    for member in fields.all(TRACESTATE).flat_map(|value| value.split(|byte| *byte == b',')) {
        let member = trim(member);
        // "Empty list members are allowed", and say nothing.
        if member.is_empty() {
            continue;
        }
        members += 1;
        if members > MOST_MEMBERS || !is_member(member) {
            return false;
        }
    }
    true
}

fn trim(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

/// §3.3.1.3: `key = ( lcalpha / DIGIT ) 0*255 ( keychar )`, `value = 0*255(chr) nblk-chr`.
fn is_member(member: &[u8]) -> bool {
    let Some(at) = member.iter().position(|byte| *byte == b'=') else { return false };
    let (key, value) = (&member[..at], &member[at + 1..]);
    let is_key = (1..=LONGEST_KEY).contains(&key.len())
        && key.first().is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        && key.iter().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-*/@".contains(byte));
    let is_value = (1..=LONGEST_VALUE).contains(&value.len())
        && value.last() != Some(&b' ')
        && value.iter().all(|byte| matches!(byte, 0x20..=0x7e) && !b",=".contains(byte));
    is_key && is_value
}

/// Lower case only: §3.2.2.
fn hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    if text.len() != N * 2 {
        return None;
    }
    for (byte, digits) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        let [high, low] = [digits[0], digits[1]].map(|digit| match digit {
            b'0'..=b'9' => Some(digit - b'0'),
            b'a'..=b'f' => Some(digit - b'a' + 10),
            _ => None,
        });
        *byte = high? << 4 | low?;
    }
    Some(bytes)
}

/// Fills `out`, which has two places for each byte.
pub fn put_hex(out: &mut [u8], bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (digits, byte) in out.chunks_exact_mut(2).zip(bytes) {
        digits[0] = DIGITS[usize::from(byte >> 4)];
        digits[1] = DIGITS[usize::from(byte & 15)];
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn fields(given: &[(&str, &str)]) -> Fields {
        let mut fields = Fields::default();
        for (name, value) in given {
            fields.add(name.as_bytes(), value.as_bytes());
        }
        fields
    }

    fn of(fields: &Fields, name: &[u8]) -> Vec<String> {
        fields.all(name).map(|value| String::from_utf8_lossy(value).into_owned()).collect()
    }

    #[test]
    fn parents() {
        for (text, expected) in [
            (GOOD, Some(1)),
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00", Some(0)),
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-ff", Some(0xff)),
            // Of a version to come: what is known of it, with or without more.
            ("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", Some(1)),
            ("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what-the-future", Some(1)),
            ("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01.what", None),
            ("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0", None),
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-", None),
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more", None),
            ("ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", None),
            ("0-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", None),
            ("00-00000000000000000000000000000000-b7ad6b7169203331-01", None),
            ("00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01", None),
            ("00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", None),
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0G", None),
            ("00-0af7651916cd43dd8448eb211c80319.-b7ad6b7169203331-01", None),
            ("00-0af7651916cd43dd8448eb211c80319cb-7ad6b7169203331-01", None),
            ("00_0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", None),
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331_01", None),
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331", None),
            ("00", None),
            ("", None),
        ] {
            assert_eq!(Context::parse(text.as_bytes()).map(|context| context.flags.bits()), expected, "{text}");
        }
        let context = Context::parse(GOOD.as_bytes()).unwrap();
        assert_eq!(context.trace_id[..2], [0x0a, 0xf7]);
        assert_eq!(context.span_id[6..], [0x33, 0x31]);
        assert_eq!(context.write(), GOOD.as_bytes());
    }

    #[test]
    fn what_becomes_of_fields() {
        let (parent, state) = (("traceparent", GOOD), "tracestate");
        for (given, is_good, states) in [
            (&[parent][..], true, &[][..]),
            (&[parent, (state, "a=1,b=2")], true, &["a=1,b=2"]),
            (&[parent, (state, "a=1"), ("te", "x"), (state, "b=2 , c@d/e=3")], true, &["a=1,b=2 , c@d/e=3"]),
            (&[parent, (state, "a=1, ,\t"), (state, "")], true, &["a=1, ,\t"]),
            (&[parent, (state, "a=1,a=2")], true, &["a=1,a=2"]),
            (&[parent, (state, "0a=1")], true, &["0a=1"]),
            // Broken ones go, and the parent stays.
            (&[parent, (state, "a")], true, &[]),
            (&[parent, (state, "A=1")], true, &[]),
            (&[parent, (state, "a=1"), (state, "b==2")], true, &[]),
            (&[parent, (state, "@a=1")], true, &[]),
            (&[parent, (state, "a =1")], true, &[]),
            (&[parent, (state, "a=")], true, &[]),
            // Without a parent nobody knows what it is the state of.
            (&[(state, "a=1")], false, &[]),
            (&[("traceparent", "00"), (state, "a=1")], false, &[]),
            (&[parent, parent], false, &[]),
            (&[parent, ("traceparent", "00"), (state, "a=1")], false, &[]),
            (&[], false, &[]),
        ] {
            let mut fields = fields(given);
            let found = Context::take(&mut fields);
            assert_eq!(found.is_some(), is_good, "{given:?}");
            assert_eq!(of(&fields, TRACESTATE), states, "{given:?}");
            assert_eq!(of(&fields, TRACEPARENT).len(), usize::from(is_good), "{given:?}");
        }
    }

    #[test]
    fn limits_of_a_state() {
        let members = |count: usize| (0..count).map(|n| format!("k{n}=v")).collect::<Vec<_>>().join(",");
        let (key, value) = ("k".repeat(LONGEST_KEY), "v".repeat(LONGEST_VALUE));
        for (text, is_kept) in [
            (members(32), true),
            (members(33), false),
            (format!("{key}={value}"), true),
            (format!("k{key}={value}"), false),
            (format!("{key}=v{value}"), false),
        ] {
            let mut fields = fields(&[("traceparent", GOOD), ("tracestate", &text)]);
            Context::take(&mut fields).unwrap();
            assert_eq!(of(&fields, TRACESTATE).len(), usize::from(is_kept), "{text}");
        }
    }

    #[test]
    fn flags() {
        let given = Context::parse(b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-ff").unwrap().flags;
        assert_eq!((given.with_sampled(false).bits(), given.with_sampled(true).bits()), (2, 3));
        let given = Context::parse(GOOD.as_bytes()).unwrap().flags;
        assert_eq!((given.with_sampled(false).bits(), given.with_sampled(true).bits()), (0, 1));
        assert_eq!((Flags::begun(false).bits(), Flags::begun(true).bits()), (2, 3));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(trace_id: [u8; 16], span_id: [u8; 8], flags: u8) {
            prop_assume!(trace_id != [0; 16] && span_id != [0; 8]);
            let context = Context { trace_id, span_id, flags: Flags(flags) };
            prop_assert_eq!(Context::parse(&context.write()), Some(context));
        }

        /// Whatever comes, nothing but one good parent gets on, and a state only beside it.
        #[test]
        fn nothing_broken_gets_on(
            parents in prop::collection::vec(prop_oneof![Just(GOOD.to_owned()), "[0-9a-g]{2}-[0-9a-f]{30,34}-[0-9a-f]{16}-[0-9a-f]{1,3}", "\\PC{0,60}"], 0..3),
            states in prop::collection::vec("[a-z0-9=, @*!]{0,24}", 0..3),
        ) {
            let given: Vec<(&str, &str)> = parents.iter().map(|value| ("traceparent", &**value))
                .chain(states.iter().map(|value| ("tracestate", &**value))).collect();
            let mut fields = fields(&given);
            let found = Context::take(&mut fields);
            let (parents, states) = (of(&fields, TRACEPARENT), of(&fields, TRACESTATE));
            prop_assert_eq!(parents.len(), usize::from(found.is_some()));
            prop_assert!(parents.iter().all(|text| Context::parse(text.as_bytes()) == found));
            prop_assert!(states.len() <= parents.len());
            // What has passed passes again.
            prop_assert_eq!(Context::take(&mut fields), found);
            prop_assert_eq!(of(&fields, TRACESTATE), states);
        }
    }
}
