//! BGP communities as people write them: `64512:100`, `large:64512:1:2`, and the well-known names. Text flows in, numbers
//! flow out.
//! Standards: RFC 1997, 8092 (large), 8326 (graceful shutdown), 7999 (blackhole), 7611 (accept-own), 3765 (no-peer),
//! 9494 (long-lived graceful restart).

use std::fmt;

use serde::Serialize;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Community {
    /// RFC 1997: two numbers of 16 bits.
    Standard(u32),
    /// RFC 8092
    Large(u32, u32, u32),
}

/// Names with a meaning that every router gives them.
pub const WELL_KNOWN: [(&str, u32); 9] = [
    ("graceful-shutdown", 0xffff_0000),
    ("accept-own", 0xffff_0001),
    ("llgr-stale", 0xffff_0006),
    ("no-llgr", 0xffff_0007),
    ("blackhole", 0xffff_029a),
    ("no-export", 0xffff_ff01),
    ("no-advertise", 0xffff_ff02),
    ("no-export-subconfed", 0xffff_ff03),
    ("no-peer", 0xffff_ff04),
];

/// For messages.
pub const EXPECTED: &str = "\"64512:100\", \"large:64512:1:2\" or a name";

impl Community {
    /// Parses what stands for itself: numbers and well-known names.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some((_, number)) = WELL_KNOWN.iter().find(|(name, _)| *name == text) {
            return Some(Self::Standard(*number));
        }
        match text.strip_prefix("large:") {
            Some(rest) => {
                let [a, b, c] = numbers::<u32, 3>(rest)?;
                Some(Self::Large(a, b, c))
            }
            None => {
                let [a, b] = numbers::<u16, 2>(text)?;
                Some(Self::Standard(u32::from(a) << 16 | u32::from(b)))
            }
        }
    }
}

/// Exactly so many decimal numbers between colons.
fn numbers<T: std::str::FromStr + Copy + Default, const N: usize>(text: &str) -> Option<[T; N]> {
    let mut found = [T::default(); N];
    let mut parts = text.split(':');
    for place in &mut found {
        // FromStr would take a sign.
        let part = parts.next().filter(|part| part.bytes().all(|byte| byte.is_ascii_digit()))?;
        *place = part.parse().ok()?;
    }
    parts.next().is_none().then_some(found)
}

impl fmt::Display for Community {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Standard(number) => write!(f, "{}:{}", number >> 16, number & 0xffff),
            Self::Large(a, b, c) => write!(f, "large:{a}:{b}:{c}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts() {
        for (text, expected) in [
            ("64512:100", Some(Community::Standard(64512 << 16 | 100))),
            ("0:0", Some(Community::Standard(0))),
            ("65535:65535", Some(Community::Standard(u32::MAX))),
            ("no-export", Some(Community::Standard(0xffff_ff01))),
            ("graceful-shutdown", Some(Community::Standard(65535 << 16))),
            ("blackhole", Some(Community::Standard(65535 << 16 | 666))),
            ("large:4294967295:1:2", Some(Community::Large(u32::MAX, 1, 2))),
            ("65536:1", None),
            ("1:65536", None),
            ("1", None),
            ("1:2:3", None),
            ("large:1:2", None),
            ("large:1:2:4294967296", None),
            ("+1:2", None),
            ("1:", None),
            (" 1:2", None),
            ("nowhere", None),
            ("", None),
        ] {
            assert_eq!(Community::parse(text), expected, "{text}");
            if let Some(community) = expected {
                assert_eq!(Community::parse(&community.to_string()), Some(community), "{text}");
            }
        }
    }
}
