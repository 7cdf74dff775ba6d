//! `[substitute]`: plain texts replaced before parsing. What was put in is not looked at again, so that the order of
//! the table does not matter; where two texts begin at one place, the longer one counts.

use std::borrow::Cow;
use std::collections::BTreeMap;

/// Replaces every occurrence of every key.
pub fn substitute<'t>(text: &'t str, table: &BTreeMap<String, String>) -> Cow<'t, str> {
    let mut next: Vec<(usize, &str, &str)> = table
        .iter()
        .filter(|(from, _)| !from.is_empty())
        .filter_map(|(from, to)| text.find(from.as_str()).map(|at| (at, from.as_str(), to.as_str())))
        .collect();
    if next.is_empty() {
        return Cow::Borrowed(text);
    }
    let mut result = String::with_capacity(text.len());
    let mut done = 0;
    while let Some(&(at, from, to)) = next.iter().min_by_key(|(at, from, _)| (*at, usize::MAX - from.len())) {
        result.push_str(&text[done..at]);
        result.push_str(to);
        done = at + from.len();
        next.retain_mut(|(at, from, _)| {
            if *at >= done {
                return true;
            }
            // `done` is a character boundary: it is the end of a match of a whole string.
            match text[done..].find(*from) {
                Some(found) => {
                    *at = done + found;
                    true
                }
                None => false,
            }
        });
    }
    result.push_str(&text[done..]);
    Cow::Owned(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn substitution() {
        let table = BTreeMap::from(
            [("your.domain.tld", "a.example"), ("your", "my"), ("a.example", "never"), ("ü", "u")]
                .map(|(from, to)| (from.to_owned(), to.to_owned())),
        );
        for (text, expected) in [
            ("x: 1", "x: 1"),
            ("h: b.your.domain.tld and your.domain.tld", "h: b.a.example and a.example"),
            ("yours üyour", "mys umy"),
            ("a.example", "never"),
        ] {
            assert_eq!(substitute(text, &table), expected, "{text}");
        }
    }
}
