//! The grammar of `bigip.conf`: entries of words, each on a line of its own, which may end in a block in braces. Text
//! flows in, a tree with places flows out. Quotes, escapes and comments are TCL's; the bodies of iRules are TCL itself
//! and are kept as they are. Depth and size are bounded.

use std::fmt;

use crate::yaml::Mark;

/// Deeper than any object is.
const MAX_DEPTH: u32 = 64;
const MAX_ENTRIES: usize = 2_000_000;

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub mark: Mark,
    pub words: Vec<String>,
    pub block: Option<Block>,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Block {
    pub entries: Vec<Entry>,
    /// The text between the braces, where it is not of this grammar.
    pub raw: Option<String>,
}

#[derive(Debug, PartialEq)]
pub(super) struct SyntaxError {
    pub mark: Mark,
    pub message: String,
}

impl fmt::Display for SyntaxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Block {
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.words.first().is_some_and(|word| word == key))
    }

    /// The word after a key.
    pub fn value(&self, key: &str) -> Option<&str> {
        self.entry(key)?.words.get(1).map(String::as_str)
    }

    pub fn block(&self, key: &str) -> Option<&Block> {
        self.entry(key)?.block.as_ref()
    }

    pub fn has(&self, key: &str) -> bool {
        self.entry(key).is_some()
    }

    /// All words, whether they are on one line or on several; those of inner blocks are left out.
    pub fn words(&self) -> Vec<&str> {
        self.entries.iter().flat_map(|entry| entry.words.iter().map(String::as_str)).collect()
    }
}

impl Entry {
    pub fn key(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }
}

struct Reader<'t> {
    rest: std::iter::Peekable<std::str::Chars<'t>>,
    line: u32,
    column: u32,
    entries: usize,
}

pub(super) fn parse(text: &str) -> Result<Block, SyntaxError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reader = Reader { rest: text.chars().peekable(), line: 1, column: 1, entries: 0 };
    reader.block(0, None)
}

impl Reader<'_> {
    fn mark(&self) -> Mark {
        Mark { source: 0, line: self.line, column: self.column }
    }

    fn next(&mut self) -> Option<char> {
        let c = self.rest.next()?;
        if c == '\n' {
            self.line += 1;
            self.column = 1;
        } else {
            self.column += 1;
        }
        Some(c)
    }

    fn fault<T>(&self, mark: Mark, message: impl Into<String>) -> Result<T, SyntaxError> {
        Err(SyntaxError { mark, message: message.into() })
    }

    /// Entries up to the closing brace of the block that began at `open`, or to the end of the text.
    fn block(&mut self, depth: u32, open: Option<Mark>) -> Result<Block, SyntaxError> {
        if depth > MAX_DEPTH {
            return self.fault(self.mark(), format!("blocks are nested more than {MAX_DEPTH} deep"));
        }
        let mut block = Block::default();
        let mut current: Option<Entry> = None;
        loop {
            let mark = self.mark();
            let Some(c) = self.rest.peek().copied() else {
                return match open {
                    Some(open) => self.fault(open, "the block is not closed"),
                    None => {
                        block.entries.extend(current);
                        Ok(block)
                    }
                };
            };
            match c {
                '\n' | ';' => {
                    self.next();
                    block.entries.extend(current.take());
                }
                '\\' => {
                    self.next();
                    // A line that goes on.
                    match self.next() {
                        Some('\n') => {}
                        Some('\r') => drop(self.next()),
                        Some(other) => {
                            let word = self.word(Some(other))?;
                            self.push(&mut current, mark, word)?;
                        }
                        None => return self.fault(mark, "a backslash ends the text"),
                    }
                }
                c if c.is_whitespace() => drop(self.next()),
                '#' if current.is_none() => {
                    while self.rest.peek().is_some_and(|c| *c != '\n') && self.next().is_some() {}
                }
                '}' => {
                    if open.is_none() {
                        return self.fault(mark, "a brace closes no block");
                    }
                    self.next();
                    block.entries.extend(current);
                    return Ok(block);
                }
                '{' => {
                    self.next();
                    let is_script = open.is_none()
                        && current.as_ref().is_some_and(|entry| {
                            let words: Vec<&str> = entry.words.iter().map(String::as_str).collect();
                            matches!(words.as_slice(), ["ltm" | "gtm", "rule", ..] | ["cli", "script", ..])
                        });
                    let inner = if is_script { self.script(mark)? } else { self.block(depth + 1, Some(mark))? };
                    let entry = match current.take() {
                        Some(mut entry) if entry.block.is_none() => {
                            entry.block = Some(inner);
                            entry
                        }
                        // A block beside a block: `{ … } { … }`.
                        earlier => {
                            block.entries.extend(earlier);
                            Entry { mark, words: Vec::new(), block: Some(inner) }
                        }
                    };
                    current = Some(entry);
                }
                '"' => {
                    self.next();
                    let word = self.quoted(mark)?;
                    self.push(&mut current, mark, word)?;
                }
                _ => {
                    let word = self.word(None)?;
                    self.push(&mut current, mark, word)?;
                }
            }
        }
    }

    fn push(&mut self, current: &mut Option<Entry>, mark: Mark, word: String) -> Result<(), SyntaxError> {
        self.entries += 1;
        if self.entries > MAX_ENTRIES {
            return self.fault(mark, format!("has more than {MAX_ENTRIES} words"));
        }
        let entry = current.get_or_insert_with(|| Entry { mark, words: Vec::new(), block: None });
        entry.words.push(word);
        Ok(())
    }

    fn word(&mut self, first: Option<char>) -> Result<String, SyntaxError> {
        let mut word: String = first.into_iter().collect();
        while let Some(c) = self.rest.peek().copied() {
            match c {
                '{' | '}' | ';' => break,
                c if c.is_whitespace() => break,
                '\\' => {
                    let mark = self.mark();
                    self.next();
                    match self.next() {
                        Some(c) => word.push(c),
                        None => return self.fault(mark, "a backslash ends the text"),
                    }
                }
                c => {
                    self.next();
                    word.push(c);
                }
            }
        }
        Ok(word)
    }

    fn quoted(&mut self, open: Mark) -> Result<String, SyntaxError> {
        let mut word = String::new();
        loop {
            match self.next() {
                Some('"') => return Ok(word),
                Some('\\') => match self.next() {
                    Some('n') => word.push('\n'),
                    Some('r') => word.push('\r'),
                    Some('t') => word.push('\t'),
                    Some(c) => word.push(c),
                    None => return self.fault(open, "the quote is not closed"),
                },
                Some(c) => word.push(c),
                None => return self.fault(open, "the quote is not closed"),
            }
        }
    }

    /// TCL between braces: only braces without a backslash before them count (Tcl(n), rule 6).
    fn script(&mut self, open: Mark) -> Result<Block, SyntaxError> {
        let mut text = String::new();
        let mut depth = 1u32;
        loop {
            let Some(c) = self.next() else { return self.fault(open, "the script is not closed") };
            match c {
                '\\' => {
                    text.push(c);
                    text.extend(self.next());
                    continue;
                }
                '{' => depth += 1,
                '}' => {
                    depth -= 1;
                    if depth == 0 {
                        return Ok(Block { entries: Vec::new(), raw: Some(text) });
                    }
                }
                _ => {}
            }
            text.push(c);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_and_blocks() {
        let text = "#TMSH-VERSION: 16.1\nltm pool /Common/p {\n    description \"a \\\"b\\\" {c}\"\n    members {\n        \
                    /Common/10.0.0.1:80 {\n            address 10.0.0.1\n        }\n    }\n    profiles { a b }\n}\nsys x { }\n";
        let root = parse(text).unwrap();
        assert_eq!(root.entries.len(), 2);
        let pool = &root.entries[0];
        assert_eq!(pool.words, ["ltm", "pool", "/Common/p"]);
        assert_eq!((pool.mark.line, pool.mark.column), (2, 1));
        let body = pool.block.as_ref().unwrap();
        assert_eq!(body.value("description"), Some("a \"b\" {c}"));
        let member = &body.block("members").unwrap().entries[0];
        assert_eq!((member.key(), member.mark.line, member.mark.column), ("/Common/10.0.0.1:80", 5, 9));
        assert_eq!(member.block.as_ref().unwrap().value("address"), Some("10.0.0.1"));
        assert_eq!(body.block("profiles").unwrap().words(), ["a", "b"]);
    }

    #[test]
    fn scripts_are_kept() {
        let root = parse("ltm rule /Common/r {\nwhen X {\n  # {}\n  set a \"}{\"\n}\n}\nltm pool p { }").unwrap();
        assert_eq!(root.entries.len(), 2, "{root:?}");
        let raw = root.entries[0].block.as_ref().unwrap().raw.as_deref().unwrap();
        assert!(raw.starts_with("\nwhen X") && raw.ends_with("}\n"), "{raw}");
    }

    #[test]
    fn faults_have_places() {
        for (text, line, column, message) in [
            ("ltm pool p {\n  a b\n", 1, 12, "the block is not closed"),
            ("a b\n}\n", 2, 1, "a brace closes no block"),
            ("a \"b\nc", 1, 3, "the quote is not closed"),
            ("ltm rule r {\n {", 1, 12, "the script is not closed"),
            ("a \\", 1, 3, "a backslash ends the text"),
        ] {
            let fault = parse(text).unwrap_err();
            assert_eq!((fault.mark.line, fault.mark.column, fault.message.as_str()), (line, column, message), "{text}");
        }
        let deep = "a {".repeat(1000);
        assert!(parse(&deep).unwrap_err().message.contains("nested"));
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "[ -~\n{}\"\\\\#;]{0,200}") {
            let _ = parse(&text);
        }
    }
}
