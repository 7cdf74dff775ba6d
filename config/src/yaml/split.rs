//! Cuts a text at its document markers without parsing it: a line that begins with `---` or `...` and a blank is a
//! marker wherever it stands, even inside block scalars and quotes (YAML 1.2.2 §9.1.2, `c-forbidden`).

/// One document of a text, the `---` line included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Document<'t> {
    pub text: &'t str,
    /// How many lines of the whole text come before it.
    pub line_offset: u32,
}

/// The documents of a text that hold more than comments, blank lines and directives.
pub fn split(text: &str) -> Vec<Document<'_>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut documents = Vec::new();
    let (mut start, mut start_line) = (0, 0);
    let mut offset = 0;
    for (line, content) in (0u32..).zip(text.split_inclusive('\n')) {
        let end = offset + content.len();
        match marker(content) {
            Some(Marker::Start) => {
                push(&mut documents, &text[start..offset], start_line);
                (start, start_line) = (offset, line);
            }
            Some(Marker::End) => {
                push(&mut documents, &text[start..offset], start_line);
                (start, start_line) = (end, line + 1);
            }
            None => {}
        }
        offset = end;
    }
    push(&mut documents, &text[start..], start_line);
    documents
}

enum Marker {
    Start,
    End,
}

fn marker(line: &str) -> Option<Marker> {
    let kind = match line.as_bytes() {
        [b'-', b'-', b'-', ..] => Marker::Start,
        [b'.', b'.', b'.', ..] => Marker::End,
        _ => return None,
    };
    matches!(line.as_bytes().get(3), None | Some(b' ' | b'\t' | b'\r' | b'\n')).then_some(kind)
}

fn push<'t>(documents: &mut Vec<Document<'t>>, text: &'t str, line_offset: u32) {
    let holds_something = text.lines().enumerate().any(|(index, line)| {
        let line = if index == 0 && line.starts_with("---") { &line[3..] } else { line };
        let content = line.trim_start();
        !(content.is_empty() || content.starts_with('#') || line.starts_with('%'))
    });
    if holds_something {
        documents.push(Document { text, line_offset });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents() {
        for (text, expected) in [
            ("", vec![]),
            ("# only\n\n---\n# comments\n", vec![]),
            ("a: 1\n", vec![(0, "a: 1\n")]),
            ("---\na: 1\n---\nb: 2", vec![(0, "---\na: 1\n"), (2, "---\nb: 2")]),
            ("a: 1\n...\n---\nb: 2\n", vec![(0, "a: 1\n"), (2, "---\nb: 2\n")]),
            ("%YAML 1.2\n---\na: 1\n", vec![(1, "---\na: 1\n")]),
            ("--- {a: 1}\n", vec![(0, "--- {a: 1}\n")]),
            ("a: |\n  ---\n----\n", vec![(0, "a: |\n  ---\n----\n")]),
            ("\u{feff}a: 1\r\n---\r\nb: 2\r\n", vec![(0, "a: 1\r\n"), (1, "---\r\nb: 2\r\n")]),
        ] {
            let found: Vec<_> = split(text).into_iter().map(|document| (document.line_offset, document.text)).collect();
            assert_eq!(found, expected, "{text:?}");
        }
    }
}
