//! Paths: one reading only. What a client sends is looked at once ([`store`]); what several servers could take for
//! different paths is then settled by the listener's policy ([`settle`]), before anything is matched, so that the path
//! that is matched is the path that is forwarded.
//!
//! In flows the path of a request-target, of HTTP/1 and HTTP/2 alike; out flows the canonical path, or why there is none.
//! Percent-encoded unreserved characters are always decoded, because RFC 3986 §6.2.2.2 makes both spellings the same
//! path; escaped slashes, dot segments and repeated slashes are the policy's. Nothing is ever decoded twice.

use std::borrow::Cow;

use edge_config::settings::{DotSegments, EscapedSlashes, PathPolicy, RepeatedSlashes};

use super::message::{RequestHead, Span};

/// Why a path is refused.
pub type Refusal = &'static str;

/// What a path has that a policy decides about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Marks {
    /// `%2F` or `%5C`.
    pub escaped_slashes: bool,
    /// `.` or `..` between slashes of any kind.
    pub dot_segments: bool,
    /// A slash behind a slash.
    pub repeated_slashes: bool,
    /// Percent-encoded unreserved characters.
    encoded: bool,
}

impl Marks {
    /// Whether no policy has anything to say.
    pub fn is_plain(self) -> bool {
        !(self.escaped_slashes || self.dot_segments || self.repeated_slashes)
    }
}

/// What the segment is so far that is being read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Segment {
    Empty,
    Dot,
    TwoDots,
    /// `..;x`: some servers cut parameters off before they look for dot segments.
    DotsWithParameters,
    Other,
}

/// Checks what no policy allows, and says what is left for one.
pub fn look(path: &[u8]) -> Result<Marks, Refusal> {
    let mut marks = Marks::default();
    let mut segment = Segment::Other;
    let mut at = 0;
    while let Some(&raw) = path.get(at) {
        let mut byte = raw;
        let mut is_slash = raw == b'/';
        at += 1;
        match raw {
            b'%' => {
                byte = escape(path, at).ok_or("path has a broken percent-encoding")?;
                at += 2;
                match byte {
                    b'/' | b'\\' => {
                        is_slash = true;
                        marks.escaped_slashes = true;
                    }
                    0..=0x1f | 0x7f => return Err("path has an encoded control character"),
                    _ => marks.encoded |= is_unreserved(byte),
                }
            }
            b'\\' => return Err("path has a backslash"),
            0x21..=0x7e if !matches!(raw, b'?' | b'#') => {}
            _ => return Err("path has a character that must be encoded"),
        }
        segment = if is_slash {
            marks.repeated_slashes |= segment == Segment::Empty;
            marks.dot_segments |= ends_as_dots(segment)?;
            Segment::Empty
        } else {
            match (segment, byte) {
                (Segment::Empty, b'.') => Segment::Dot,
                (Segment::Dot, b'.') => Segment::TwoDots,
                (Segment::Dot | Segment::TwoDots, b';') => Segment::DotsWithParameters,
                (Segment::DotsWithParameters, _) => Segment::DotsWithParameters,
                _ => Segment::Other,
            }
        };
    }
    marks.dot_segments |= ends_as_dots(segment)?;
    Ok(marks)
}

fn ends_as_dots(segment: Segment) -> Result<bool, Refusal> {
    match segment {
        Segment::DotsWithParameters => Err("path has a dot segment with parameters"),
        Segment::Dot | Segment::TwoDots => Ok(true),
        Segment::Empty | Segment::Other => Ok(false),
    }
}

/// Looks at a path and stores it in a head, with its encoded unreserved characters decoded.
pub fn store(path: &[u8], head: &mut RequestHead) -> Result<(), Refusal> {
    let stored = head.fields.store(path);
    keep(stored, head)
}

/// The same for a path that the head has stored already.
pub fn keep(path: Span, head: &mut RequestHead) -> Result<(), Refusal> {
    let text = head.fields.text(path);
    let marks = look(text)?;
    head.path = if marks.encoded {
        let decoded = decode_unreserved(text);
        head.fields.store(&decoded)
    } else {
        path
    };
    head.path_marks = marks;
    Ok(())
}

/// A path as a policy has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled<'p> {
    pub path: Cow<'p, [u8]>,
    /// The client is to ask for this path instead.
    pub redirect: bool,
}

/// Applies a policy to a path that [`look`] has marked so. The result has nothing left for the policy to change.
pub fn settle(path: &[u8], mut marks: Marks, policy: PathPolicy) -> Result<Settled<'_>, Refusal> {
    let mut settled = Settled { path: Cow::Borrowed(path), redirect: false };
    if marks.escaped_slashes {
        match policy.escaped_slashes {
            EscapedSlashes::Reject => return Err("path has an encoded slash"),
            // Kept, it may still be a slash to who comes after us.
            EscapedSlashes::Keep if marks.dot_segments => return Err("path has a dot segment and an encoded slash"),
            EscapedSlashes::Keep => {}
            EscapedSlashes::Unescape | EscapedSlashes::Redirect => {
                settled.redirect = policy.escaped_slashes == EscapedSlashes::Redirect;
                settled.path = Cow::Owned(unescape_slashes(path));
                marks = look(&settled.path)?;
            }
        }
    }
    if marks.dot_segments {
        match policy.dot_segments {
            DotSegments::Reject => return Err("path has a dot segment"),
            // Who merges first removes another segment than who resolves first.
            DotSegments::Resolve if marks.repeated_slashes => {
                return Err("path has a dot segment and a repeated slash");
            }
            DotSegments::Resolve => settled.path = Cow::Owned(resolve(&settled.path)?),
        }
    }
    if marks.repeated_slashes && policy.repeated_slashes == RepeatedSlashes::Merge {
        settled.path = Cow::Owned(merge(&settled.path));
    }
    Ok(settled)
}

/// Whether a text may be the path of a request to an endpoint: one that [`look`] lets pass, without a dot segment. What
/// it has of escaped and repeated slashes was settled before, or is the configuration's own.
pub fn is_final(path: &str) -> bool {
    path.starts_with('/') && look(path.as_bytes()).is_ok_and(|marks| !marks.dot_segments)
}

/// `%2F`, and `%5C`, which servers that take a backslash for a slash would make one of.
fn unescape_slashes(path: &[u8]) -> Vec<u8> {
    rewritten(path, |byte| matches!(byte, b'/' | b'\\').then_some(b'/'))
}

/// Writes a path with its encoded unreserved characters decoded (RFC 3986 §6.2.2.2).
fn decode_unreserved(path: &[u8]) -> Vec<u8> {
    rewritten(path, |byte| is_unreserved(byte).then_some(byte))
}

/// Replaces the escapes of those bytes for which `plain` gives another form.
fn rewritten(path: &[u8], plain: impl Fn(u8) -> Option<u8>) -> Vec<u8> {
    let mut written = Vec::with_capacity(path.len());
    let mut at = 0;
    while let Some(&byte) = path.get(at) {
        at += 1;
        let replaced = escape(path, at).filter(|_| byte == b'%').and_then(&plain);
        at += if replaced.is_some() { 2 } else { 0 };
        written.push(replaced.unwrap_or(byte));
    }
    written
}

/// RFC 3986 §5.2.4 for an absolute path without empty segments; above the root there is nothing.
fn resolve(path: &[u8]) -> Result<Vec<u8>, Refusal> {
    let mut kept: Vec<&[u8]> = Vec::new();
    let mut ends_open = false;
    for segment in path.split(|byte| *byte == b'/').skip(1) {
        ends_open = matches!(segment, b"." | b"..");
        match segment {
            b"." => {}
            b".." => drop(kept.pop().ok_or("path leads above the root")?),
            segment => kept.push(segment),
        }
    }
    let mut resolved = Vec::with_capacity(path.len());
    for segment in &kept {
        resolved.push(b'/');
        resolved.extend_from_slice(segment);
    }
    if ends_open || resolved.is_empty() {
        resolved.push(b'/');
    }
    Ok(resolved)
}

fn merge(path: &[u8]) -> Vec<u8> {
    let mut merged = path.to_vec();
    merged.dedup_by(|byte, before| *byte == b'/' && *before == b'/');
    merged
}

/// The byte whose two hex digits are here.
fn escape(path: &[u8], at: usize) -> Option<u8> {
    let digit = |at: usize| path.get(at).and_then(|byte| (*byte as char).to_digit(16));
    u8::try_from(digit(at)? * 16 + digit(at + 1)?).ok()
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

#[cfg(test)]
#[path = "path_tests.rs"]
mod tests;
