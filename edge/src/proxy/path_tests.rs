use proptest::prelude::*;

use super::*;

const EVERY: [EscapedSlashes; 4] =
    [EscapedSlashes::Reject, EscapedSlashes::Keep, EscapedSlashes::Unescape, EscapedSlashes::Redirect];

fn policy(escaped: EscapedSlashes, resolve: bool, merge: bool) -> PathPolicy {
    PathPolicy {
        escaped_slashes: escaped,
        dot_segments: if resolve { DotSegments::Resolve } else { DotSegments::Reject },
        repeated_slashes: if merge { RepeatedSlashes::Merge } else { RepeatedSlashes::Keep },
    }
}

/// The canonical path, or `None` where it is refused; and whether the client is sent there.
fn through(path: &str, policy: PathPolicy) -> Option<(String, bool)> {
    let mut head = RequestHead::default();
    store(path.as_bytes(), &mut head).ok()?;
    let settled = settle(head.path().as_bytes(), head.path_marks, policy).ok()?;
    Some((String::from_utf8(settled.path.into_owned()).unwrap(), settled.redirect))
}

#[test]
fn what_no_policy_allows() {
    for bad in [
        "/a\\b",
        "/a%00b",
        "/a%0ab",
        "/a%1fb",
        "/a%7f",
        "/a%",
        "/a%2",
        "/a%zz",
        "/a%+1",
        "/a b",
        "/\u{e9}",
        "/a#b",
        "/..;/b",
        "/..;x=y/b",
        "/.;/b",
        "/%2e%2e;a",
        "/%2e%2e%3b/",
        "/a/..;",
        "/a%2f..;b",
    ] {
        assert!(look(bad.as_bytes()).is_err(), "{bad}");
    }
    for good in ["/", "/a.b/..c/...", "/%20%3F%25", "/a;b=c", "/;a/;b", "/...;x", "/a..;b", "/a%252f..%252f"] {
        assert!(look(good.as_bytes()).is_ok_and(Marks::is_plain), "{good}");
    }
}

#[test]
fn encoded_unreserved_characters_are_decoded_once_and_nothing_else_is() {
    for (from, to) in [
        ("/%61dmin", "/admin"),
        ("/%7Euser%2d", "/~user-"),
        ("/a%2561", "/a%2561"),
        ("/%20%41", "/%20A"),
        ("/a%3Bb%3D", "/a%3Bb%3D"),
    ] {
        assert_eq!(through(from, PathPolicy::default()), Some((to.into(), false)), "{from}");
    }
}

#[test]
fn each_answer_of_the_policy() {
    use EscapedSlashes::{Keep, Redirect, Reject, Unescape};
    /// Path, escaped slashes, dot segments resolved, repeated slashes merged, and what comes of it.
    type Row = (&'static str, EscapedSlashes, bool, bool, Option<(&'static str, bool)>);
    let table: &[Row] = &[
        ("/a%2Fb", Reject, true, true, None),
        ("/a%2fb", Keep, false, false, Some(("/a%2fb", false))),
        ("/a%2Fb", Unescape, false, false, Some(("/a/b", false))),
        ("/a%5cb", Unescape, false, false, Some(("/a/b", false))),
        ("/a%2Fb", Redirect, false, false, Some(("/a/b", true))),
        ("/a/b", Redirect, false, false, Some(("/a/b", false))),
        ("/a%5C", Reject, false, false, None),
        ("/a%5C", Keep, false, false, Some(("/a%5C", false))),
        ("/a%252fb", Unescape, false, false, Some(("/a%252fb", false))),
        // What is a dot segment only once the slash is one
        ("/a/%2e%2e%2fb", Keep, true, false, None),
        ("/a/..%2fb", Unescape, true, false, Some(("/b", false))),
        ("/a/..%2fb", Unescape, false, false, None),
        ("/a%2f..%5c..%2fb", Redirect, true, false, None),
        ("/a%2f..", Redirect, true, false, Some(("/", true))),
        ("/a/../b", Reject, false, false, None),
        ("/a/../b", Reject, true, false, Some(("/b", false))),
        ("/a/b/..", Reject, true, false, Some(("/a/", false))),
        ("/a/./b/.", Reject, true, false, Some(("/a/b/", false))),
        ("/%2E%2e/x", Reject, false, false, None),
        ("/%2e/x", Reject, true, false, Some(("/x", false))),
        ("/..", Reject, true, false, None),
        ("/a/../../b", Reject, true, true, None),
        ("/a//../b", Reject, true, true, None),
        ("/a//../b", Reject, true, false, None),
        ("/a//b", Reject, false, false, Some(("/a//b", false))),
        ("//a///b//", Reject, false, true, Some(("/a/b/", false))),
        ("/a%2f/b", Unescape, false, true, Some(("/a/b", false))),
        ("/a%2f/b", Unescape, false, false, Some(("/a//b", false))),
        ("/%2F%2Fevil.example", Redirect, false, true, Some(("/evil.example", true))),
    ];
    for (path, escaped, resolve, merge, expected) in table {
        let expected = expected.map(|(path, redirect)| (path.to_owned(), redirect));
        assert_eq!(through(path, policy(*escaped, *resolve, *merge)), expected, "{path} {escaped:?} {resolve} {merge}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    /// What comes out goes through again unchanged, has no dot segment also to who decodes it, and is valid after a rewrite.
    #[test]
    fn settled_once_is_settled(
        path in "/((\\.|\\.\\.|%2e|%2E|a|%61|;|%2f|%2F|%5c|%25|%252f|/|//|%3b|b)){0,9}",
        escaped in 0_usize..4, resolve: bool, merge: bool,
    ) {
        let policy = policy(EVERY[escaped], resolve, merge);
        if let Some((first, _)) = through(&path, policy) {
            prop_assert_eq!(through(&first, policy), Some((first.clone(), false)), "{}", path);
            prop_assert!(is_final(&first));
            let decoded = first.replace("%2f", "/").replace("%2F", "/").replace("%5c", "/").replace("%2e", ".");
            let segments: Vec<&str> = decoded.split('/').map(|segment| segment.split(';').next().unwrap_or_default()).collect();
            prop_assert!(!segments.iter().any(|segment| matches!(*segment, "." | "..")), "{} {}", path, first);
            prop_assert!(!merge || !first.contains("//"), "{}", first);
            prop_assert!(EVERY[escaped] == EscapedSlashes::Keep || look(first.as_bytes()).is_ok_and(|marks| !marks.escaped_slashes));
        }
    }

    #[test]
    fn no_bytes_panic(bytes: Vec<u8>, escaped in 0_usize..4, resolve: bool, merge: bool) {
        if let Ok(marks) = look(&bytes) {
            let _ = settle(&bytes, marks, policy(EVERY[escaped], resolve, merge));
        }
    }
}
