//! Tree to typed value, through serde. The first type error of a document ends its decoding; unknown fields are
//! collected, all of them, together with the fields that would have been known there.

use std::cell::RefCell;
use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor};

use super::tree::{Entry, Mark, Node, Value};

/// A value that does not fit its field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodeError {
    mark: Option<Mark>,
    /// From the inside out.
    path: Vec<String>,
    message: String,
}

impl DecodeError {
    pub fn mark(&self) -> Mark {
        self.mark.unwrap_or(Mark::START)
    }

    /// The field's path, such as `spec.listeners[2].port`.
    pub fn path(&self) -> String {
        let mut path = String::new();
        for segment in self.path.iter().rev() {
            if !path.is_empty() && !segment.starts_with('[') {
                path.push('.');
            }
            path.push_str(segment);
        }
        path
    }

    fn new(mark: Mark, message: String) -> Self {
        Self { mark: Some(mark), path: Vec::new(), message }
    }

    fn inside(mut self, mark: Mark, segment: impl FnOnce() -> String) -> Self {
        self.mark.get_or_insert(mark);
        self.path.push(segment());
        self
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path();
        if path.is_empty() { f.write_str(&self.message) } else { write!(f, "{path}: {}", self.message) }
    }
}

impl std::error::Error for DecodeError {}

impl de::Error for DecodeError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self { mark: None, path: Vec::new(), message: message.to_string() }
    }

    fn missing_field(field: &'static str) -> Self {
        Self { mark: None, path: Vec::new(), message: format!("required field `{field}` is missing") }
    }
}

/// A field that the shape does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unknown {
    pub mark: Mark,
    /// With the field itself, such as `spec.rules[0].matchs`.
    pub path: String,
    /// What the shape has at that place.
    pub known: &'static [&'static str],
}

/// Decodes a tree; `prefix` is the path of `node` in its document, `skip` names members of `node` itself that are read
/// elsewhere.
pub fn decode<'t, T: de::Deserialize<'t>>(
    node: &'t Node<'t>,
    prefix: &str,
    skip: &[&str],
) -> (Result<T, DecodeError>, Vec<Unknown>) {
    let context = Context { unknown: RefCell::new(Vec::new()), prefix, skip };
    let result = T::deserialize(Reader { node, context: &context, path: Path::Root })
        .map_err(|fault| if prefix.is_empty() { fault } else { fault.inside(node.mark, || prefix.to_owned()) });
    (result, context.unknown.into_inner())
}

struct Context<'c> {
    unknown: RefCell<Vec<Unknown>>,
    prefix: &'c str,
    skip: &'c [&'c str],
}

#[derive(Clone, Copy)]
enum Path<'p> {
    Root,
    Member(&'p Path<'p>, &'p str),
    Item(&'p Path<'p>, usize),
}

impl Path<'_> {
    fn write(&self, out: &mut String) {
        match self {
            Self::Root => {}
            Self::Member(parent, key) => {
                parent.write(out);
                if !out.is_empty() {
                    out.push('.');
                }
                out.push_str(key);
            }
            Self::Item(parent, index) => {
                parent.write(out);
                out.push_str(&format!("[{index}]"));
            }
        }
    }
}

struct Reader<'c, 't> {
    node: &'t Node<'t>,
    context: &'c Context<'c>,
    path: Path<'c>,
}

impl<'c, 't> Reader<'c, 't> {
    fn unexpected(&self, expected: &dyn fmt::Display) -> DecodeError {
        let quote = if matches!(self.node.value, Value::Bool(_) | Value::Int(_) | Value::Uint(_) | Value::Float(_))
            && expected.to_string().contains("string")
        {
            "; put it in quotes"
        } else {
            ""
        };
        DecodeError::new(self.node.mark, format!("found {}, expected {expected}{quote}", self.node.value.describe()))
    }

    fn mapping<V: Visitor<'t>>(
        self,
        entries: &'t [Entry<'t>],
        fields: Option<&'static [&'static str]>,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        visitor.visit_map(Members { entries: entries.iter(), entry: None, fields, reader: &self }).map_err(
            |mut fault| {
                fault.mark.get_or_insert(self.node.mark);
                fault
            },
        )
    }

    fn sequence<V: Visitor<'t>>(self, nodes: &'t [Node<'t>], visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_seq(Items { nodes: nodes.iter().enumerate(), reader: &self })
    }

    fn integer(&self, least: i128, most: i128) -> Result<i128, DecodeError> {
        let number = match self.node.value {
            Value::Int(number) => i128::from(number),
            Value::Uint(number) => i128::from(number),
            _ => return Err(self.unexpected(&"an integer")),
        };
        if number < least || number > most {
            return Err(DecodeError::new(
                self.node.mark,
                format!("{number} is out of range, expected {least} to {most}"),
            ));
        }
        Ok(number)
    }

    fn marked<T>(&self, result: Result<T, DecodeError>) -> Result<T, DecodeError> {
        result.map_err(|mut fault| {
            fault.mark.get_or_insert(self.node.mark);
            fault
        })
    }
}

macro_rules! integers {
    ($($method:ident, $visit:ident, $type:ty;)*) => {$(
        fn $method<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, DecodeError> {
            let number = self.integer(i128::from(<$type>::MIN), i128::from(<$type>::MAX))?;
            // The range was checked above.
            let number = <$type>::try_from(number).unwrap_or_default();
            self.marked(visitor.$visit(number))
        }
    )*};
}

impl<'t> Deserializer<'t> for Reader<'_, 't> {
    type Error = DecodeError;

    fn deserialize_any<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let result = match &self.node.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Int(value) => visitor.visit_i64(*value),
            Value::Uint(value) => visitor.visit_u64(*value),
            Value::Float(value) => visitor.visit_f64(*value),
            Value::String(text) => visitor.visit_borrowed_str(text),
            Value::Sequence(nodes) => return self.sequence(nodes, visitor),
            Value::Mapping(entries) => return self.mapping(entries, None, visitor),
        };
        self.marked(result)
    }

    fn deserialize_bool<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.node.value {
            Value::Bool(value) => self.marked(visitor.visit_bool(value)),
            _ => Err(self.unexpected(&"true or false")),
        }
    }

    integers! {
        deserialize_i8, visit_i8, i8;
        deserialize_i16, visit_i16, i16;
        deserialize_i32, visit_i32, i32;
        deserialize_i64, visit_i64, i64;
        deserialize_u8, visit_u8, u8;
        deserialize_u16, visit_u16, u16;
        deserialize_u32, visit_u32, u32;
        deserialize_u64, visit_u64, u64;
    }

    fn deserialize_str<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match &self.node.value {
            Value::String(text) => {
                let result = visitor.visit_borrowed_str(text);
                self.marked(result)
            }
            _ => Err(self.unexpected(&"a string")),
        }
    }

    fn deserialize_string<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.node.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_seq<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match &self.node.value {
            Value::Sequence(nodes) => self.sequence(nodes, visitor),
            Value::Null => self.sequence(&[], visitor),
            _ => Err(self.unexpected(&"a list")),
        }
    }

    fn deserialize_map<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match &self.node.value {
            Value::Mapping(entries) => self.mapping(entries, None, visitor),
            Value::Null => self.mapping(&[], None, visitor),
            _ => Err(self.unexpected(&"a mapping")),
        }
    }

    fn deserialize_struct<V: Visitor<'t>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        match &self.node.value {
            Value::Mapping(entries) => self.mapping(entries, Some(fields), visitor),
            _ => Err(self.unexpected(&"a mapping")),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'t>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'t>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        match &self.node.value {
            Value::String(text) => {
                let result = visitor.visit_enum(text.as_ref().into_deserializer());
                self.marked(result)
            }
            _ => Err(self.unexpected(&"a string")),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! {
        <W: Visitor<'t>>
        i128 u128 f32 f64 char bytes byte_buf unit unit_struct tuple tuple_struct identifier
    }
}

struct Members<'c, 't> {
    entries: std::slice::Iter<'t, Entry<'t>>,
    entry: Option<&'t Entry<'t>>,
    /// Absent: a mapping with free keys.
    fields: Option<&'static [&'static str]>,
    reader: &'c Reader<'c, 't>,
}

impl<'t> MapAccess<'t> for Members<'_, 't> {
    type Error = DecodeError;

    fn next_key_seed<K: DeserializeSeed<'t>>(&mut self, seed: K) -> Result<Option<K::Value>, DecodeError> {
        let context = self.reader.context;
        let at_root = matches!(self.reader.path, Path::Root);
        for entry in self.entries.by_ref() {
            if let Some(fields) = self.fields {
                if at_root && context.skip.contains(&entry.key.as_ref()) {
                    continue;
                }
                // The API server prunes null where the schema does not call it nullable, known or not.
                if matches!(entry.value.value, Value::Null) {
                    continue;
                }
                if !fields.contains(&entry.key.as_ref()) {
                    let mut path = context.prefix.to_owned();
                    Path::Member(&self.reader.path, &entry.key).write(&mut path);
                    context.unknown.borrow_mut().push(Unknown { mark: entry.mark, path, known: fields });
                    continue;
                }
            }
            self.entry = Some(entry);
            return seed.deserialize(de::value::BorrowedStrDeserializer::new(&entry.key)).map(Some);
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'t>>(&mut self, seed: V) -> Result<V::Value, DecodeError> {
        let Some(entry) = self.entry.take() else { return Err(de::Error::custom("a value without its key")) };
        let path = Path::Member(&self.reader.path, &entry.key);
        seed.deserialize(Reader { node: &entry.value, context: self.reader.context, path })
            .map_err(|fault| fault.inside(entry.value.mark, || entry.key.clone().into_owned()))
    }
}

struct Items<'c, 't> {
    nodes: std::iter::Enumerate<std::slice::Iter<'t, Node<'t>>>,
    reader: &'c Reader<'c, 't>,
}

impl<'t> SeqAccess<'t> for Items<'_, 't> {
    type Error = DecodeError;

    fn next_element_seed<T: DeserializeSeed<'t>>(&mut self, seed: T) -> Result<Option<T::Value>, DecodeError> {
        let Some((index, node)) = self.nodes.next() else { return Ok(None) };
        let path = Path::Item(&self.reader.path, index);
        seed.deserialize(Reader { node, context: self.reader.context, path })
            .map(Some)
            .map_err(|fault| fault.inside(node.mark, || format!("[{index}]")))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.nodes.len())
    }
}
