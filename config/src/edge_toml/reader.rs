//! Reading one table key by key: what was not read in the end is unknown.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use toml::Spanned;
use toml::de::DeTable;

use super::Value;
use crate::settings::Ratio;
use crate::suggest;
use crate::wire::GepDuration;
use crate::yaml::Quoted;

/// Collects faults by byte offset and gives them lines and columns in the end.
pub(super) struct Sink<'t> {
    text: &'t str,
    faults: Vec<(usize, String)>,
}

impl<'t> Sink<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self { text, faults: Vec::new() }
    }

    pub(super) fn error(&mut self, span: Range<usize>, message: impl Into<String>) {
        self.faults.push((span.start, message.into()));
    }

    /// The line, from 1, of a byte offset.
    pub(super) fn line(&self, offset: usize) -> u32 {
        let before = self.text.as_bytes().get(..offset).unwrap_or(self.text.as_bytes());
        u32::try_from(before.iter().filter(|byte| **byte == b'\n').count()).unwrap_or(u32::MAX).saturating_add(1)
    }

    /// The line on which the content of a string begins: a line break right after `"""` is not part of it.
    pub(super) fn content_line(&self, offset: usize) -> u32 {
        let rest = self.text.get(offset..).unwrap_or_default();
        let content = rest.strip_prefix("\"\"\"").or_else(|| rest.strip_prefix("'''"));
        let is_below = content.is_some_and(|content| content.starts_with('\n') || content.starts_with("\r\n"));
        self.line(offset) + u32::from(is_below)
    }

    /// Line, column and message of each fault, in the order of the text.
    pub(super) fn into_faults(mut self) -> Vec<(u32, u32, String)> {
        let mut faults = std::mem::take(&mut self.faults);
        faults.sort();
        faults.dedup();
        faults
            .into_iter()
            .map(|(offset, message)| {
                let before = self.text.get(..offset).unwrap_or(self.text);
                let column = before.rsplit('\n').next().map_or(0, |line| line.chars().count());
                (self.line(offset), u32::try_from(column).unwrap_or(u32::MAX).saturating_add(1), message)
            })
            .collect()
    }
}

/// A table, its name, and what was asked of it.
pub(super) struct Section<'i> {
    /// `proxy`, or empty for the root.
    name: String,
    span: Range<usize>,
    entries: BTreeMap<String, (Range<usize>, Spanned<Value<'i>>)>,
    asked: Vec<&'static str>,
}

impl<'i> Section<'i> {
    pub(super) fn root(table: Spanned<DeTable<'i>>) -> Self {
        let span = table.span();
        Self::new(String::new(), span, table.into_inner())
    }

    fn new(name: String, span: Range<usize>, table: DeTable<'i>) -> Self {
        let entries =
            table.into_iter().map(|(key, value)| (key.get_ref().clone().into_owned(), (key.span(), value))).collect();
        Self { name, span, entries, asked: Vec::new() }
    }

    /// Where the table begins.
    pub(super) fn start(&self) -> usize {
        self.span.start
    }

    pub(super) fn path(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }

    fn take(&mut self, key: &'static str) -> Option<Spanned<Value<'i>>> {
        self.asked.push(key);
        self.entries.remove(key).map(|(_, value)| value)
    }

    /// A value of one type, converted; a fault is reported and counts as absent.
    pub(super) fn read<T>(
        &mut self,
        sink: &mut Sink<'_>,
        key: &'static str,
        convert: impl FnOnce(&Value<'i>) -> Result<T, String>,
    ) -> Option<T> {
        let value = self.take(key)?;
        match convert(value.get_ref()) {
            Ok(value) => Some(value),
            Err(message) => {
                sink.error(value.span(), format!("{}: {message}", self.path(key)));
                None
            }
        }
    }

    pub(super) fn string(&mut self, sink: &mut Sink<'_>, key: &'static str) -> Option<String> {
        self.parsed(sink, key, |text| Ok(text.to_owned()))
    }

    /// A string that has to mean something.
    pub(super) fn parsed<T>(
        &mut self,
        sink: &mut Sink<'_>,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        self.read(sink, key, |value| match value.as_str() {
            Some(text) => parse(text),
            None => Err(mismatch(value, "a string")),
        })
    }

    /// A string that has to be there.
    pub(super) fn required<T>(
        &mut self,
        sink: &mut Sink<'_>,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        if !self.entries.contains_key(key) {
            self.asked.push(key);
            sink.error(self.span.clone(), format!("{} is missing", self.path(key)));
            return None;
        }
        self.parsed(sink, key, parse)
    }

    /// One of a few words.
    pub(super) fn word<T: Copy>(&mut self, sink: &mut Sink<'_>, key: &'static str, words: &[(&str, T)]) -> Option<T> {
        self.parsed(sink, key, |text| match words.iter().find(|(word, _)| *word == text) {
            Some((_, value)) => Ok(*value),
            None => {
                let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
                let hint = suggest::hint(text, known.iter().copied());
                Err(format!("unknown value {}, expected {}{hint}", Quoted(text), known.join(", ")))
            }
        })
    }

    pub(super) fn boolean(&mut self, sink: &mut Sink<'_>, key: &'static str) -> Option<bool> {
        self.read(sink, key, |value| value.as_bool().ok_or_else(|| mismatch(value, "true or false")))
    }

    pub(super) fn integer(&mut self, sink: &mut Sink<'_>, key: &'static str, least: u64, most: u64) -> Option<u64> {
        self.read(sink, key, |value| {
            let Some(number) = value.as_integer() else { return Err(mismatch(value, "an integer")) };
            match u64::from_str_radix(number.as_str(), number.radix()) {
                Ok(number) if (least..=most).contains(&number) => Ok(number),
                _ => Err(format!("{number} is out of range, expected {least} to {most}")),
            }
        })
    }

    /// A part of one, written with or without a point.
    pub(super) fn ratio(&mut self, sink: &mut Sink<'_>, key: &'static str) -> Option<Ratio> {
        self.read(sink, key, |value| {
            let (text, number) = match (value.as_float(), value.as_integer()) {
                (Some(float), _) => (float.to_string(), float.as_str().parse::<f64>().ok()),
                (_, Some(integer)) => {
                    let number = i64::from_str_radix(integer.as_str(), integer.radix()).ok();
                    (integer.to_string(), number.map(|number| number as f64))
                }
                _ => return Err(mismatch(value, "a number from 0 to 1")),
            };
            number.and_then(Ratio::new).ok_or_else(|| format!("{text} is out of range, expected 0 to 1"))
        })
    }

    pub(super) fn duration(&mut self, sink: &mut Sink<'_>, key: &'static str) -> Option<Duration> {
        self.parsed(sink, key, |text| match GepDuration::parse(text) {
            Some(duration) => Ok(duration.0),
            None => Err(format!("{} is no duration, expected one such as \"10s\" or \"1m30s\"", Quoted(text))),
        })
    }

    /// A duration within bounds, both included.
    pub(super) fn duration_in(
        &mut self,
        sink: &mut Sink<'_>,
        key: &'static str,
        least: Duration,
        most: Duration,
    ) -> Option<Duration> {
        self.parsed(sink, key, |text| match GepDuration::parse(text) {
            Some(GepDuration(duration)) if (least..=most).contains(&duration) => Ok(duration),
            Some(_) => Err(format!("{text} is out of range, expected {} to {}", GepDuration(least), GepDuration(most))),
            None => Err(format!("{} is no duration, expected one such as \"10s\" or \"1m30s\"", Quoted(text))),
        })
    }

    pub(super) fn size(&mut self, sink: &mut Sink<'_>, key: &'static str, least: usize, most: usize) -> Option<usize> {
        self.parsed(sink, key, |text| match parse_size(text) {
            Some(size) if (least..=most).contains(&size) => Ok(size),
            Some(_) => Err(format!("{text} is out of range, expected {} to {}", Size(least), Size(most))),
            None => Err(format!("{} is no size, expected one such as \"64KiB\" or \"512B\"", Quoted(text))),
        })
    }

    /// A list of strings, each parsed.
    pub(super) fn list<T>(
        &mut self,
        sink: &mut Sink<'_>,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Vec<T>> {
        let value = self.take(key)?;
        let path = self.path(key);
        let Some(items) = value.get_ref().as_array() else {
            sink.error(value.span(), format!("{path}: {}", mismatch(value.get_ref(), "a list of strings")));
            return None;
        };
        let mut list = Vec::new();
        let mut is_sound = true;
        for item in items.iter() {
            let result = match item.get_ref().as_str() {
                Some(text) => parse(text),
                None => Err(mismatch(item.get_ref(), "a string")),
            };
            match result {
                Ok(value) => list.push(value),
                Err(message) => {
                    is_sound = false;
                    sink.error(item.span(), format!("{path}: {message}"));
                }
            }
        }
        is_sound.then_some(list)
    }

    /// A table of free keys with strings.
    pub(super) fn texts(&mut self, sink: &mut Sink<'_>, key: &'static str) -> BTreeMap<String, String> {
        let Some(section) = self.section(sink, key) else { return BTreeMap::new() };
        let mut texts = BTreeMap::new();
        for (name, (_, value)) in section.entries {
            match value.get_ref().as_str() {
                _ if name.is_empty() => sink.error(value.span(), format!("{key}: an empty text cannot be replaced")),
                Some(text) => {
                    texts.insert(name, text.to_owned());
                }
                None => sink.error(value.span(), format!("{key}.{name}: {}", mismatch(value.get_ref(), "a string"))),
            }
        }
        texts
    }

    /// A table within this one, or `true` for an empty one and `false` for none.
    pub(super) fn optional_section(&mut self, sink: &mut Sink<'_>, key: &'static str) -> Option<Section<'i>> {
        self.asked.push(key);
        let (span, value) = self.entries.get(key).map(|(_, value)| (value.span(), value.get_ref().as_bool()))?;
        match value {
            Some(wanted) => {
                self.take(key);
                wanted.then(|| Section { name: self.path(key), span, entries: BTreeMap::new(), asked: Vec::new() })
            }
            None => self.section(sink, key),
        }
    }

    /// A table within this one.
    pub(super) fn section(&mut self, sink: &mut Sink<'_>, key: &'static str) -> Option<Section<'i>> {
        let value = self.take(key)?;
        let (span, path) = (value.span(), self.path(key));
        match value.into_inner() {
            Value::Table(table) => Some(Section::new(path, span, table)),
            other => {
                sink.error(span, format!("{path}: {}", mismatch(&other, "a table")));
                None
            }
        }
    }

    /// The tables within a table whose keys are free, in the order of these.
    pub(super) fn named_sections(&mut self, sink: &mut Sink<'_>, key: &'static str) -> Vec<(String, Section<'i>)> {
        let Some(section) = self.section(sink, key) else { return Vec::new() };
        let mut sections = Vec::new();
        for (name, (_, value)) in section.entries {
            let (span, path) = (value.span(), format!("{key}.{name}"));
            match value.into_inner() {
                Value::Table(table) => sections.push((name, Section::new(path, span, table))),
                other => sink.error(span, format!("{path}: {}", mismatch(&other, "a table"))),
            }
        }
        sections
    }

    /// The tables of an array of tables.
    pub(super) fn sections(&mut self, sink: &mut Sink<'_>, key: &'static str) -> Vec<Section<'i>> {
        let Some(value) = self.take(key) else { return Vec::new() };
        let (span, path) = (value.span(), self.path(key));
        let Value::Array(items) = value.into_inner() else {
            sink.error(span, format!("{path}: expected [[{path}]], an array of tables"));
            return Vec::new();
        };
        let mut sections = Vec::new();
        for (index, item) in items.into_iter().enumerate() {
            let (span, path) = (item.span(), format!("{path}[{index}]"));
            match item.into_inner() {
                Value::Table(table) => sections.push(Section::new(path, span, table)),
                other => sink.error(span, format!("{path}: {}", mismatch(&other, "a table"))),
            }
        }
        sections
    }

    /// Reports what nobody asked for.
    pub(super) fn finish(self, sink: &mut Sink<'_>) {
        for (key, (span, value)) in &self.entries {
            let what = if value.get_ref().is_table() { "table" } else { "key" };
            let hint = suggest::hint(key, self.asked.iter().copied());
            sink.error(span.clone(), format!("unknown {what} `{}`{hint}", self.path(key)));
        }
    }

    /// A key that is known here although it is not there.
    pub(super) fn note(&mut self, key: &'static str) {
        self.asked.push(key);
    }

    /// Whether a key is there, without reading it.
    pub(super) fn has(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    pub(super) fn is_empty_list(&self, key: &str) -> bool {
        let value = self.entries.get(key).map(|(_, value)| value.get_ref());
        value.and_then(|value| value.as_array()).is_some_and(|list| list.is_empty())
    }

    /// Where the value of a key begins.
    pub(super) fn value_start(&self, key: &str) -> usize {
        self.entries.get(key).map_or(self.span.start, |(_, value)| value.span().start)
    }

    pub(super) fn error(&self, sink: &mut Sink<'_>, message: &str) {
        sink.error(self.span.clone(), format!("{}: {message}", self.name));
    }
}

pub(super) fn mismatch(value: &Value<'_>, expected: &str) -> String {
    format!(
        "found {}, expected {expected}",
        match value {
            Value::String(text) => format!("the string {}", Quoted(text)),
            Value::Integer(number) => format!("the number {number}"),
            Value::Float(number) => format!("the number {number}"),
            Value::Boolean(value) => format!("the boolean {value}"),
            Value::Datetime(_) => "a date".to_owned(),
            Value::Array(_) => "a list".to_owned(),
            Value::Table(_) => "a table".to_owned(),
        }
    )
}

/// `64KiB`, `1MiB`, `512B`.
fn parse_size(text: &str) -> Option<usize> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number: usize = text[..digits].parse().ok()?;
    let unit = match &text[digits..] {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(unit)
}

struct Size(usize);

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            size if size >= 1 << 20 && size % (1 << 20) == 0 => write!(f, "{}MiB", size >> 20),
            size if size >= 1 << 10 && size % (1 << 10) == 0 => write!(f, "{}KiB", size >> 10),
            size => write!(f, "{size}B"),
        }
    }
}
