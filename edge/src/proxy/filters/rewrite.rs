//! URLRewrite, and the path arithmetic that it shares with RequestRedirect (HTTPPathModifier). The result is checked
//! again: a rewritten path obeys the same rules as one that a client may send, or the rule answers an error.

use edge_config::snapshot::{PathEdit, Rewrite};

use crate::proxy::message::RequestHead;
pub use crate::proxy::path::is_final as is_path;

/// The path that a modifier made is no path that may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the modified path is not an absolute path without dot segments")]
pub struct InvalidPath;

/// Rewrites authority and path; the query stays. `prefix` is how much of the path the matched PathPrefix covered, without
/// a trailing slash. After an error the request is as it was.
pub fn apply(rewrite: &Rewrite, head: &mut RequestHead, prefix: usize) -> Result<(), InvalidPath> {
    if let Some(edit) = &rewrite.path {
        let before = head.path;
        let (covered, replacement) = parts(edit, head.path(), prefix);
        head.replace_path_prefix(covered, replacement);
        if !is_path(head.path()) {
            head.path = before;
            return Err(InvalidPath);
        }
    }
    if let Some(hostname) = &rewrite.hostname {
        head.set_authority(hostname);
    }
    Ok(())
}

/// What an edit does to a path: so many leading bytes give way to this text.
pub(super) fn parts<'e>(edit: &'e PathEdit, path: &str, prefix: usize) -> (usize, &'e str) {
    match edit {
        PathEdit::Full(full) => (path.len(), if full.is_empty() { "/" } else { full }),
        PathEdit::Prefix(replacement) => {
            let covered = prefix.min(path.len());
            // Paths that a prefix matched go on with a slash or end there; the slash is never doubled.
            let goes_on = path.as_bytes().get(covered) == Some(&b'/');
            let replacement = if goes_on { replacement.strip_suffix('/').unwrap_or(replacement) } else { replacement };
            (covered, if replacement.is_empty() && !goes_on { "/" } else { replacement })
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn request(path: &str, query: Option<&str>) -> RequestHead {
        let mut head = RequestHead::default();
        head.set_authority("a.example:8080");
        head.set_path(path);
        head.query = query.map(|query| head.fields.store(query.as_bytes()));
        head
    }

    fn prefix_edit(text: &str) -> Rewrite {
        Rewrite { hostname: None, path: Some(PathEdit::Prefix(text.into())) }
    }

    #[test]
    fn replace_prefix_match_as_in_the_table_of_http_path_modifier() {
        for (path, prefix, replacement, expected) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "", "/"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo", "/foo", "/", "/"),
            // Beyond the table.
            ("/foo", "/foo", "/xyz/", "/xyz/"),
            ("/foo//bar", "/foo", "/xyz", "/xyz//bar"),
            ("/bar", "/", "/xyz", "/xyz/bar"),
            ("/", "/", "/xyz", "/xyz/"),
            ("/", "/", "", "/"),
            ("/bar", "/", "/", "/bar"),
            ("/foo/%2Fbar", "/foo", "/x", "/x/%2Fbar"),
        ] {
            let mut head = request(path, Some("a=b&c"));
            let covered = prefix.strip_suffix('/').unwrap_or(prefix).len();
            assert_eq!(apply(&prefix_edit(replacement), &mut head, covered), Ok(()));
            assert_eq!(head.path(), expected, "{path} with {prefix} replaced by {replacement:?}");
            assert_eq!(head.query(), Some("a=b&c"));
            assert_eq!(head.authority(), "a.example:8080");
        }
    }

    #[test]
    fn full_path_and_host() {
        for (full, expected) in [("/x", Ok("/x")), ("", Ok("/")), ("/x/", Ok("/x/")), ("x", Err(InvalidPath))] {
            let mut head = request("/foo/bar", None);
            let rewrite = Rewrite { hostname: Some("b.example".into()), path: Some(PathEdit::Full(full.into())) };
            assert_eq!(apply(&rewrite, &mut head, 0).map(|()| head.path()), expected, "{full:?}");
            assert_eq!(head.authority(), if expected.is_ok() { "b.example" } else { "a.example:8080" });
        }
    }

    #[test]
    fn what_is_no_path_leaves_the_request_alone() {
        for replacement in
            ["x", "/a b", "/a?b", "/a#b", "/ä", "/a/../b", "/%2e%2E", "/.", "/a\r\nx: y", "/a\\b", "/a/.%2e/"]
        {
            let mut head = request("/foo/bar", None);
            assert_eq!(apply(&prefix_edit(replacement), &mut head, 4), Err(InvalidPath), "{replacement:?}");
            assert_eq!(head.path(), "/foo/bar");
        }
        for fine in ["/...", "/.a", "/a..", "/%2ea", "/.well-known/x"] {
            assert!(is_path(fine), "{fine}");
        }
    }

    proptest! {
        #[test]
        fn a_rewritten_path_is_a_path(path in "(/[a-z%2e.]{0,4}){1,5}", cut in 0usize..30, text in "\\PC{0,12}|(/[a-z]{0,3}){0,3}") {
            prop_assume!(is_path(&path));
            let cuts: Vec<usize> = (0..=path.len()).filter(|at| *at == path.len() || path.as_bytes()[*at] == b'/').collect();
            let covered = cuts[cut % cuts.len()];
            let mut head = request(&path, None);
            match apply(&prefix_edit(&text), &mut head, covered) {
                Ok(()) => prop_assert!(is_path(head.path())),
                Err(InvalidPath) => prop_assert_eq!(head.path(), &path),
            }
        }

        #[test]
        fn a_valid_replacement_never_fails(path in "(/[a-z]{0,3}){1,5}", cut in 0usize..30, text in "(/[a-z]{0,3}){0,3}") {
            let cuts: Vec<usize> = (0..=path.len()).filter(|at| *at == path.len() || path.as_bytes()[*at] == b'/').collect();
            let mut head = request(&path, None);
            prop_assert_eq!(apply(&prefix_edit(&text), &mut head, cuts[cut % cuts.len()]), Ok(()));
            prop_assert!(is_path(head.path()));
        }
    }
}
