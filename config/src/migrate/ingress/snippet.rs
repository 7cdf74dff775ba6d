//! nginx snippets, as far as they only set headers to fixed values. Anything else is not understood, on purpose.

/// Header changes: names and values.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Found {
    pub request: Vec<(String, String)>,
    pub response_set: Vec<(String, String)>,
    pub response_add: Vec<(String, String)>,
}

/// The headers that a snippet sets, if that is all it does.
pub(super) fn headers(text: &str) -> Option<Found> {
    let mut found = Found::default();
    for words in statements(text)? {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        if words.iter().any(|word| word.contains('$')) {
            return None;
        }
        match words.as_slice() {
            ["proxy_set_header", name, value] => pair(&mut found.request, name, value)?,
            ["add_header", name, value] | ["add_header", name, value, "always"] => {
                pair(&mut found.response_add, name, value)?;
            }
            ["more_set_headers", fields @ ..] if !fields.is_empty() => {
                for field in fields {
                    let (name, value) = field.split_once(':')?;
                    pair(&mut found.response_set, name.trim(), value.trim())?;
                }
            }
            _ => return None,
        }
    }
    Some(found)
}

fn pair(list: &mut Vec<(String, String)>, name: &str, value: &str) -> Option<()> {
    let is_name =
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
    let is_value = !value.is_empty() && value.chars().all(|c| c == ' ' || c.is_ascii_graphic());
    // Names are distinct in a filter.
    let is_new = !list.iter().any(|(known, _)| known.eq_ignore_ascii_case(name));
    (is_name && is_value && is_new).then(|| list.push((name.to_owned(), value.to_owned())))
}

/// Whether a snippet refuses requests, so that leaving it out would open something.
pub(super) fn is_guard(text: &str) -> bool {
    const WORDS: [&str; 9] = [
        "deny",
        "allow",
        "satisfy",
        "auth_basic",
        "auth_request",
        "return 4",
        "valid_referers",
        "limit_except",
        "secure_link",
    ];
    let code: String =
        text.lines().map(|line| line.split('#').next().unwrap_or_default()).collect::<Vec<_>>().join(" ");
    WORDS.iter().any(|word| code.contains(word))
}

/// Words of each statement; `None` where there is a block or a quote does not end.
fn statements(text: &str) -> Option<Vec<Vec<String>>> {
    let mut all = Vec::new();
    let mut words: Vec<String> = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '{' | '}' => return None,
            ';' => all.push(std::mem::take(&mut words)),
            '#' => while chars.next_if(|c| *c != '\n').is_some() {},
            '"' | '\'' => {
                let mut word = String::new();
                loop {
                    match chars.next()? {
                        end if end == c => break,
                        '\\' => word.push(chars.next()?),
                        other => word.push(other),
                    }
                }
                words.push(word);
            }
            c if c.is_whitespace() => {}
            c => {
                let mut word = String::from(c);
                while let Some(c) = chars.next_if(|c| !c.is_whitespace() && !";{}\"'".contains(*c)) {
                    word.push(c);
                }
                words.push(word);
            }
        }
    }
    all.retain(|words: &Vec<String>| !words.is_empty());
    words.is_empty().then_some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snippets() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let found =
            headers("add_header X-A \"a b\" always;\n# why\nmore_set_headers 'Server: x';proxy_set_header A b;");
        let expected = Found {
            request: vec![pair("A", "b")],
            response_set: vec![pair("Server", "x")],
            response_add: vec![pair("X-A", "a b")],
        };
        assert_eq!(found, Some(expected));
        for text in
            ["proxy_set_header A $host;", "if ($x) { return 403; }", "add_header X", "return 404;", "add_header A \"b;"]
        {
            assert_eq!(headers(text), None, "{text}");
        }
        for (text, is_closed) in
            [("deny all;", true), ("# deny all", false), ("return 403;", true), ("gzip on;", false)]
        {
            assert_eq!(is_guard(text), is_closed, "{text}");
        }
    }
}
