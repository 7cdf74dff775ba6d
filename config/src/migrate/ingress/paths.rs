//! A path of an Ingress and ingress-nginx's `rewrite-target`, as matches and rewrites of an HTTPRoute. nginx matches
//! regular expressions from the start of the path, without regard to case; Edge matches the whole of it.

use super::annotations::Manner;
use crate::matching::Pattern;
use crate::migrate::gateway::{path_match, path_modifier};
use crate::yaml::Tree;

/// What became of a path.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Translated {
    pub matches: Tree,
    pub rewrite: Option<Tree>,
    /// What is lost, or otherwise: (it has no equivalent, why).
    pub note: Option<(bool, String)>,
}

/// `is_regex`: the paths of the host are regular expressions, as soon as one Ingress of it says so.
pub(super) fn translate(path: &str, kind: Option<&str>, manner: &Manner, is_regex: bool) -> Translated {
    let path = if path.is_empty() { "/" } else { path };
    let plain = |kind: &str, value: &str| Translated { matches: path_match(kind, value), rewrite: None, note: None };
    if kind == Some("Exact") && !is_regex {
        return plain("Exact", path);
    }
    let is_literal = !path.contains(|c: char| "\\^$.|?*+()[]{}".contains(c));
    // A dot in a path is nearly always meant as a dot.
    let is_prefix = is_literal || (!manner.is_regex && !path.contains(|c: char| "\\^$|?*+()[]{}".contains(c)));
    if !is_regex || (is_prefix && manner.rewrite.is_none()) {
        if !path.starts_with('/') {
            let note = format!("path {path:?} does not begin with a slash and matches nothing");
            return Translated { note: Some((true, note)), ..plain("Exact", &format!("/{path}")) };
        }
        let mut found = plain("PathPrefix", path);
        if kind != Some("Prefix") && kind != Some("Exact") && path != "/" && !path.ends_with('/') {
            let note = format!(
                "path {path:?}: matches whole segments; nginx also took {path}x, whatever its pathType leaves to it"
            );
            found.note = Some((false, note));
        }
        return found;
    }
    match &manner.rewrite {
        Some(target) => rewritten(path, target, is_literal),
        None => regex(path),
    }
}

/// A regular expression without a rewrite.
fn regex(path: &str) -> Translated {
    let (prefix, rest) = literal_prefix(path);
    // `/api/.*` and the like are prefixes.
    if matches!(rest, ".*" | "(.*)" | "(/|$)(.*)" | "(/|$).*" | "(/.*)?" | "/?(.*)" | "/?.*") && prefix.starts_with('/')
    {
        return Translated { matches: path_match("PathPrefix", trimmed(prefix)), rewrite: None, note: None };
    }
    let pattern = format!("(?i:{}).*", path.strip_prefix('^').unwrap_or(path));
    match Pattern::parse(&pattern) {
        Ok(_) => Translated { matches: path_match("RegularExpression", &pattern), rewrite: None, note: None },
        Err(error) => Translated {
            // Nobody's path: it is better not to answer than to answer for all.
            matches: path_match("Exact", "/.not-translated"),
            rewrite: None,
            note: Some((true, format!("path {path:?}: {error} (Edge knows no look-around and no back-references)"))),
        },
    }
}

fn rewritten(path: &str, target: &str, is_literal: bool) -> Translated {
    let refused = |why: &str| {
        let mut found = regex(path);
        found.note = Some((
            true,
            format!(
                "rewrite-target {target:?} of path {path:?}: {why}; the path goes to the backend as it is. Rewrite a \
                 prefix (ReplacePrefixMatch) or let the application have its paths"
            ),
        ));
        found
    };
    let keeps_slash = literal_prefix(path).1.starts_with("(/.*)");
    let is_path = target.starts_with('/') || (keeps_slash && target == "$1");
    if !is_path {
        return refused("only a path can take the place of a path");
    }
    if !target.contains('$') {
        // Everything after the match is thrown away, the query is kept.
        let matches = match is_literal {
            true => path_match("PathPrefix", path),
            false => regex(path).matches,
        };
        return Translated { matches, rewrite: Some(path_modifier("ReplaceFullPath", target)), note: None };
    }
    let (prefix, rest) = literal_prefix(path);
    // What is kept of the path is its rest behind a prefix.
    let group = match rest {
        "(/|$)(.*)" => "$2",
        "(.*)" | "/?(.*)" => "$1",
        "(/.*)?" | "(/.*)" => "$1",
        _ => return refused("only the rest behind a fixed beginning can be kept"),
    };
    let Some(head) = target.strip_suffix(group).filter(|head| !head.contains('$')) else {
        return refused("only a fixed beginning before the rest can be put in");
    };
    if !prefix.starts_with('/') {
        return refused("it does not begin with a slash");
    }
    let (from, to) = (trimmed(prefix), trimmed(head));
    let rewrite = (from != to).then(|| path_modifier("ReplacePrefixMatch", to));
    let note = (!prefix.ends_with('/') && rest == "(.*)" && prefix != "/")
        .then(|| (false, format!("path {path:?}: matches whole segments; nginx also took {prefix}x")));
    Translated { matches: path_match("PathPrefix", from), rewrite, note }
}

/// What comes before the first character with a meaning.
fn literal_prefix(path: &str) -> (&str, &str) {
    let path = path.strip_prefix('^').unwrap_or(path);
    let end = path.find(|c: char| "\\^$.|?*+()[]{}".contains(c)).unwrap_or(path.len());
    // `a?` makes its character optional.
    let end = match path[end..].starts_with(['?', '*', '+', '{']) {
        true => path[..end].char_indices().next_back().map_or(0, |(at, _)| at),
        false => end,
    };
    match path.split_at(end) {
        // The whole tree, with or without its slash.
        ("", rest) if rest.starts_with("/?") => ("/", rest),
        parts => parts,
    }
}

fn trimmed(prefix: &str) -> &str {
    match prefix.trim_end_matches('/') {
        "" => "/",
        trimmed => trimmed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rewrites() {
        for (path, target, matches, rewrite) in [
            ("/something(/|$)(.*)", "/$2", "PathPrefix /something", "ReplacePrefixMatch /"),
            ("/a(/|$)(.*)", "/b/$2", "PathPrefix /a", "ReplacePrefixMatch /b"),
            ("/(.*)", "/$1", "PathPrefix /", ""),
            ("/?(.*)", "/base/$1", "PathPrefix /", "ReplacePrefixMatch /base"),
            ("/v1(/.*)", "$1", "PathPrefix /v1", "ReplacePrefixMatch /"),
            ("/v1(.*)", "x$1", "PathPrefix /v1", ""),
            ("/app", "/", "PathPrefix /app", "ReplaceFullPath /"),
            ("/u/([0-9]+)/(.*)", "/$2?id=$1", "RegularExpression (?i:/u/([0-9]+)/(.*)).*", ""),
            ("/x/(.*)", "/y/$1", "PathPrefix /x", "ReplacePrefixMatch /y"),
        ] {
            let manner = Manner { rewrite: Some(target.to_owned()), is_regex: true, ..Manner::default() };
            let found = translate(path, None, &manner, true);
            let text = |tree: &Tree, members: [&str; 2]| {
                let words: Vec<&str> = members.iter().filter_map(|name| tree.member(name)?.as_str()).collect();
                words.join(" ")
            };
            assert_eq!(text(found.matches.member("path").unwrap(), ["type", "value"]), matches, "{path}");
            let shown = found.rewrite.as_ref().map_or_else(String::new, |tree| {
                let value = ["replaceFullPath", "replacePrefixMatch"].into_iter().find_map(|name| tree.member(name));
                format!("{} {}", text(tree, ["type", ""]), value.and_then(Tree::as_str).unwrap_or_default())
            });
            assert_eq!(shown, rewrite, "{path}");
        }
    }

    #[test]
    fn kinds() {
        let manner = Manner::default();
        for (path, kind, is_regex, matches, has_note) in [
            ("/a", Some("Exact"), false, "Exact", false),
            ("/a", Some("Prefix"), false, "PathPrefix", false),
            ("/a", Some("ImplementationSpecific"), false, "PathPrefix", true),
            ("/", None, false, "PathPrefix", false),
            ("", None, false, "PathPrefix", false),
            ("/a.b", Some("Prefix"), true, "PathPrefix", false),
            ("/a[0-9]+", Some("ImplementationSpecific"), true, "RegularExpression", false),
            ("/a(?!b)", Some("ImplementationSpecific"), true, "Exact", true),
        ] {
            let found = translate(path, kind, &manner, is_regex);
            let shown = found.matches.member("path").and_then(|path| path.member("type")?.as_str().map(str::to_owned));
            assert_eq!(shown.as_deref(), Some(matches), "{path}");
            assert_eq!(found.note.is_some(), has_note, "{path}");
        }
    }
}
