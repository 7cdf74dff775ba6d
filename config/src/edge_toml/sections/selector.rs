//! Label selectors as `kubectl -l` takes them: `key`, `!key`, `key=value`, `key==value`, `key!=value`, `key in (a, b)`,
//! `key notin (a, b)`, joined by commas. Text flows in, the selector that manifests have flows out.

use crate::gateway::{LabelOperator, LabelRequirement, LabelSelector};
use crate::validate::{is_label_text, is_qualified_name};
use crate::yaml::Quoted;

pub(super) fn parse(text: &str) -> Result<LabelSelector, String> {
    requirements(text).map_err(|why| format!("{} is no label selector: {why}", Quoted(text)))
}

fn requirements(text: &str) -> Result<LabelSelector, String> {
    let mut selector = LabelSelector::default();
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err("it is empty".to_owned());
    }
    loop {
        let (found, more) = requirement(rest)?;
        selector.match_expressions.push(found);
        rest = more.trim_start();
        match rest.strip_prefix(',') {
            Some(more) => rest = more.trim_start(),
            None if rest.is_empty() => return Ok(selector),
            None => return Err(format!("expected a comma before {}", Quoted(rest))),
        }
    }
}

/// The first requirement and what follows it.
fn requirement(text: &str) -> Result<(LabelRequirement, &str), String> {
    let (is_negated, text) = match text.strip_prefix('!') {
        Some(text) => (true, text.trim_start()),
        None => (false, text),
    };
    let (key, rest) = word(text);
    if !is_qualified_name(key) {
        return Err(format!("{} is no label name", Quoted(key)));
    }
    let with = |operator, values| LabelRequirement { key: key.to_owned(), operator, values };
    let rest = rest.trim_start();
    if is_negated || rest.is_empty() || rest.starts_with(',') {
        let operator = if is_negated { LabelOperator::DoesNotExist } else { LabelOperator::Exists };
        return Ok((with(operator, Vec::new()), rest));
    }
    for (sign, operator) in [("==", LabelOperator::In), ("!=", LabelOperator::NotIn), ("=", LabelOperator::In)] {
        if let Some(rest) = rest.strip_prefix(sign) {
            let (value, rest) = word(rest.trim_start());
            return Ok((with(operator, vec![label_value(value)?]), rest));
        }
    }
    let (operator, set) = match rest.strip_prefix("notin") {
        Some(set) => (LabelOperator::NotIn, Some(set)),
        None => (LabelOperator::In, rest.strip_prefix("in")),
    };
    let set = set.map(str::trim_start);
    let Some(set) = set.and_then(|set| set.strip_prefix('(')) else {
        return Err(format!("{} has no operator, expected =, ==, !=, in (…) or notin (…)", Quoted(key)));
    };
    let Some((values, rest)) = set.split_once(')') else { return Err("a parenthesis is not closed".to_owned()) };
    let values = values.split(',').map(|value| label_value(value.trim())).collect::<Result<Vec<_>, _>>()?;
    Ok((with(operator, values), rest))
}

fn label_value(value: &str) -> Result<String, String> {
    if value.is_empty() || is_label_text(value) {
        Ok(value.to_owned())
    } else {
        Err(format!("{} is no label value", Quoted(value)))
    }
}

fn word(text: &str) -> (&str, &str) {
    let is_part = |character: char| character.is_ascii_alphanumeric() || "-_./".contains(character);
    text.split_at(text.find(|character: char| !is_part(character)).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    #[test]
    fn selectors() {
        let labels = BTreeMap::from([("shard".to_owned(), "a".to_owned())]);
        for (text, with, without) in [
            ("shard", true, false),
            ("!shard", false, true),
            ("shard=a", true, false),
            ("shard == a", true, false),
            ("shard!=", true, true),
            ("shard != a", false, true),
            ("shard in (a, b),!draft", true, false),
            ("edge.internal/shard in (a, b)", false, false),
            ("shard notin (x),shard=a", true, false),
            ("shard in (b)", false, false),
        ] {
            let selector = super::parse(text).unwrap();
            assert_eq!(selector.matches(&labels), with, "{text}");
            assert_eq!(selector.matches(&BTreeMap::new()), without, "{text}");
        }
        for text in ["", ",", "a=b,", "a b", "a in b", "a in (b", "a=(b)", "-a", "a>1", "a/b/c=d", "a=b c"] {
            assert!(super::parse(text).is_err(), "{text}");
        }
    }
}
