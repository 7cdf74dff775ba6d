//! Conditions and actions of local traffic policies, as `bigip.conf` writes them: `http-host host values { a b }`,
//! `forward select pool /Common/x`.

use super::model::{Action, Condition, Test};
use super::tree::Block;

pub(super) fn condition(block: &Block) -> Condition {
    let words = block.words();
    let values: Vec<String> = block
        .entries
        .iter()
        .filter_map(|entry| entry.block.as_ref())
        .flat_map(Block::words)
        .map(str::to_owned)
        .collect();
    let has = |word: &str| words.contains(&word);
    let other = || Condition::Other(format!("{} {}", words.join(" "), values.join(" ")).trim().to_owned());
    // Negations, and what is asked of responses or connections.
    if has("not") || has("response") || has("tcp") || has("geoip") || has("ssl-extension") || has("client-accepted") {
        return other();
    }
    let test = [
        ("starts-with", Test::StartsWith),
        ("ends-with", Test::EndsWith),
        ("contains", Test::Contains),
        ("exists", Test::Exists),
    ]
    .into_iter()
    .find(|(word, _)| has(word))
    .map_or(Test::Equals, |(_, test)| test);
    if has("http-host") {
        Condition::Host(test, values)
    } else if has("http-uri") && (has("path") || !(has("query-string") || has("query-parameter") || has("extension"))) {
        if has("path-segment") || has("extension") { other() } else { Condition::Path(test, values) }
    } else if has("http-method") {
        Condition::Method(values)
    } else if has("http-header") {
        match after(&words, "name") {
            Some(name) => Condition::Header(name.to_owned(), test, values),
            None => other(),
        }
    } else {
        other()
    }
}

pub(super) fn action(block: &Block) -> Action {
    let words = block.words();
    let has = |word: &str| words.contains(&word);
    let text = |key: &str| after(&words, key).map(str::to_owned);
    let other = || Action::Other(words.join(" "));
    if has("log") || has("disable") && (has("asm") || has("cache")) {
        return Action::Nothing;
    }
    if has("forward") {
        return match text("pool") {
            Some(pool) => Action::Forward(pool),
            None => other(),
        };
    }
    if has("http-reply") || has("redirect") {
        let status = after(&words, "code").and_then(|code| code.parse().ok()).unwrap_or(302);
        return text("location").map_or_else(other, |location| Action::Redirect(location, status));
    }
    if has("http-header") {
        let is_response = has("response");
        return match (text("name"), text("value")) {
            (Some(name), _) if has("remove") && is_response => Action::RemoveFromResponse(name),
            (Some(name), _) if has("remove") => Action::Remove(name),
            (Some(name), Some(value)) if has("insert") && is_response => Action::InsertInResponse(name, value),
            (Some(name), Some(value)) if has("insert") => Action::Insert(name, value),
            (Some(name), Some(value)) if has("replace") && !is_response => Action::Replace(name, value),
            _ => other(),
        };
    }
    if has("http-host") && has("replace") {
        return text("value").map_or_else(other, |host| Action::Replace("Host".to_owned(), host));
    }
    if has("http-uri") && has("replace") {
        return text("path").or_else(|| text("value")).map_or_else(other, Action::ReplacePath);
    }
    if has("shutdown") || has("reset") || has("drop") {
        return Action::Refuse;
    }
    other()
}

/// The word that follows another.
fn after<'w>(words: &[&'w str], key: &str) -> Option<&'w str> {
    let place = words.iter().position(|word| *word == key)?;
    words.get(place + 1).copied()
}
