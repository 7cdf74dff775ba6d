//! JSON of one API object to the tree that manifests are decoded from. Bytes of the API server flow in, a tree without the
//! parts that Edge never looks at flows out, and beside it what only the API server knows of an object.
//! Bounded: depth by serde_json (128), size by whoever reads the bytes. Duplicate members: the last one counts, as in Go.

use std::borrow::Cow;
use std::fmt;

use edge_config::yaml::{Entry, Mark, Node, Value};
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// The API server has no lines.
const NOWHERE: Mark = Mark { source: 0, line: 0, column: 0 };

/// One object as it came.
#[derive(Debug)]
pub struct Raw<'t> {
    pub tree: Node<'t>,
    /// Where it was wanted.
    pub status: Option<serde_json::Value>,
}

impl Raw<'_> {
    pub fn metadata(&self, name: &str) -> Option<&str> {
        self.tree.member("metadata")?.member(name)?.as_str()
    }

    pub fn generation(&self) -> i64 {
        match self.tree.member("metadata").and_then(|metadata| metadata.member("generation")).map(|node| &node.value) {
            Some(Value::Int(number)) => *number,
            _ => 0,
        }
    }
}

/// What becomes of `status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatusPart {
    Drop,
    /// Beside the tree.
    Apart,
    /// Like any other member.
    InTree,
}

/// Reads one object.
#[derive(Debug, Clone, Copy)]
pub struct ObjectSeed(pub StatusPart);

impl<'de> DeserializeSeed<'de> for ObjectSeed {
    type Value = Raw<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw<'de>, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for ObjectSeed {
    type Value = Raw<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw<'de>, A::Error> {
        let mut entries = Vec::with_capacity(6);
        let mut status = None;
        while let Some(Key(key)) = map.next_key_seed(KeySeed)? {
            match (key.as_ref(), self.0) {
                ("status", StatusPart::Drop) => drop(map.next_value::<IgnoredAny>()?),
                ("status", StatusPart::Apart) => status = Some(map.next_value()?),
                ("metadata", _) => {
                    let value = map.next_value_seed(Tree { without: "managedFields" })?;
                    put(&mut entries, key, value);
                }
                _ => {
                    let value = map.next_value_seed(TREE)?;
                    put(&mut entries, key, value);
                }
            }
        }
        Ok(Raw { tree: Node { mark: NOWHERE, value: Value::Mapping(entries) }, status })
    }
}

/// Keys of a tree are distinct.
fn put<'t>(entries: &mut Vec<Entry<'t>>, key: Cow<'t, str>, value: Node<'t>) {
    match entries.iter_mut().find(|entry| entry.key == key) {
        Some(entry) => entry.value = value,
        None => entries.push(Entry { key, mark: NOWHERE, value }),
    }
}

struct Key<'t>(Cow<'t, str>);
struct KeySeed;

impl<'de> DeserializeSeed<'de> for KeySeed {
    type Value = Key<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Key<'de>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for KeySeed {
    type Value = Key<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Key<'de>, E> {
        Ok(Key(Cow::Borrowed(text)))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Key<'de>, E> {
        Ok(Key(Cow::Owned(text.to_owned())))
    }
}

/// Any value; of a mapping, all members but one.
#[derive(Clone, Copy)]
struct Tree {
    without: &'static str,
}

/// No member has an empty name.
const TREE: Tree = Tree { without: "" };

impl<'de> DeserializeSeed<'de> for Tree {
    type Value = Node<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node<'de>, D::Error> {
        Ok(Node { mark: NOWHERE, value: deserializer.deserialize_any(self)? })
    }
}

impl<'de> Visitor<'de> for Tree {
    type Value = Value<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value<'de>, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value<'de>, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value<'de>, E> {
        Ok(Value::Int(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value<'de>, E> {
        Ok(i64::try_from(value).map_or(Value::Uint(value), Value::Int))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value<'de>, E> {
        Ok(Value::Float(value))
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Value<'de>, E> {
        Ok(Value::String(Cow::Borrowed(text)))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value<'de>, E> {
        Ok(Value::String(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value<'de>, A::Error> {
        let mut nodes = Vec::new();
        while let Some(node) = items.next_element_seed(TREE)? {
            nodes.push(node);
        }
        Ok(Value::Sequence(nodes))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value<'de>, A::Error> {
        let mut entries = Vec::new();
        while let Some(Key(key)) = map.next_key_seed(KeySeed)? {
            if !self.without.is_empty() && key == self.without {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let value = map.next_value_seed(TREE)?;
            put(&mut entries, key, value);
        }
        Ok(Value::Mapping(entries))
    }
}

/// Reads one object that stands alone.
pub fn object(text: &[u8], status: StatusPart) -> Result<Raw<'_>, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let raw = ObjectSeed(status).deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(raw)
}

/// One line of a watch.
#[derive(Debug)]
pub struct Line<'t> {
    pub kind: Cow<'t, str>,
    pub object: Raw<'t>,
}

/// Reads one line of a watch.
pub fn line(text: &[u8], status: StatusPart) -> Result<Line<'_>, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let line = deserializer.deserialize_map(LineVisitor(status))?;
    deserializer.end()?;
    Ok(line)
}

struct LineVisitor(StatusPart);

impl<'de> Visitor<'de> for LineVisitor {
    type Value = Line<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a watch event")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Line<'de>, A::Error> {
        let (mut kind, mut object) = (None, None);
        while let Some(Key(key)) = map.next_key_seed(KeySeed)? {
            match key.as_ref() {
                "type" => kind = Some(map.next_value_seed(KeySeed)?.0),
                "object" => object = Some(map.next_value_seed(ObjectSeed(self.0))?),
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        match (kind, object) {
            (Some(kind), Some(object)) => Ok(Line { kind, object }),
            _ => Err(A::Error::custom("a watch event without type or object")),
        }
    }
}

/// What a list says beside its items.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ListMeta {
    pub resource_version: String,
    /// Where the next page begins; empty on the last one.
    pub next: String,
}

/// Reads a list; each item is given away as soon as it is read.
pub fn list<'t>(
    text: &'t [u8],
    status: StatusPart,
    mut each: impl FnMut(Raw<'t>),
) -> Result<ListMeta, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let meta = deserializer.deserialize_map(ListVisitor { status, each: &mut each })?;
    deserializer.end()?;
    Ok(meta)
}

struct ListVisitor<'f, F> {
    status: StatusPart,
    each: &'f mut F,
}

impl<'de, F: FnMut(Raw<'de>)> Visitor<'de> for ListVisitor<'_, F> {
    type Value = ListMeta;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ListMeta, A::Error> {
        let mut meta = None;
        let mut has_items = false;
        while let Some(Key(key)) = map.next_key_seed(KeySeed)? {
            match key.as_ref() {
                "metadata" => {
                    let node = map.next_value_seed(TREE)?;
                    let text = |name: &str| node.member(name).and_then(Node::as_str).unwrap_or_default().to_owned();
                    meta = Some(ListMeta { resource_version: text("resourceVersion"), next: text("continue") });
                }
                "items" => {
                    has_items = true;
                    map.next_value_seed(Items { status: self.status, each: &mut *self.each })?;
                }
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        match meta {
            // A list that lacks its items would look like one of nothing.
            Some(meta) if has_items && !meta.resource_version.is_empty() => Ok(meta),
            _ => Err(A::Error::custom("a list without items or resourceVersion")),
        }
    }
}

struct Items<'f, F> {
    status: StatusPart,
    each: &'f mut F,
}

impl<'de, F: FnMut(Raw<'de>)> DeserializeSeed<'de> for Items<'_, F> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        // Go writes an empty slice as null where somebody forgot to make one.
        deserializer.deserialize_option(self)
    }
}

impl<'de, F: FnMut(Raw<'de>)> Visitor<'de> for Items<'_, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of objects")
    }

    fn visit_none<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while let Some(raw) = items.next_element_seed(ObjectSeed(self.status))? {
            (self.each)(raw);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OBJECT: &str = r#"{"metadata":{"name":"a","managedFields":[{"x":1}],"generation":3,"resourceVersion":"7"},
        "spec":{"n":1,"big":18446744073709551615,"f":1.5,"b":true,"z":null,"l":["é\n"]},"status":{"s":[1]}}"#;

    #[test]
    fn objects() {
        let text = format!(r#"{{"type":"ADDED","object":{OBJECT}}}"#);
        let Line { kind, object } = line(text.as_bytes(), StatusPart::Apart).unwrap();
        assert_eq!(kind, "ADDED");
        assert_eq!((object.metadata("name"), object.generation()), (Some("a"), 3));
        assert!(object.tree.member("metadata").unwrap().member("managedFields").is_none());
        assert!(object.tree.member("status").is_none());
        assert_eq!(object.status.unwrap().to_string(), r#"{"s":[1]}"#);
        let spec = object.tree.member("spec").unwrap();
        assert_eq!(spec.member("n").unwrap().value, Value::Int(1));
        assert_eq!(spec.member("big").unwrap().value, Value::Uint(u64::MAX));
        let dropped = line(text.as_bytes(), StatusPart::Drop).unwrap().object;
        assert!(dropped.status.is_none() && dropped.tree.member("status").is_none());
        assert!(line(text.as_bytes(), StatusPart::InTree).unwrap().object.tree.member("status").is_some());
    }

    #[test]
    fn lists() {
        let text = format!(
            r#"{{"kind":"L","metadata":{{"resourceVersion":"9","continue":"c"}},"items":[{OBJECT},{OBJECT}]}}"#
        );
        let mut names = Vec::new();
        let meta = list(text.as_bytes(), StatusPart::Drop, |raw| names.push(raw.metadata("name").unwrap().to_owned()));
        assert_eq!(meta.unwrap(), ListMeta { resource_version: "9".to_owned(), next: "c".to_owned() });
        assert_eq!(names, ["a", "a"]);
        let none = list(br#"{"metadata":{"resourceVersion":"9"},"items":null}"#, StatusPart::Drop, |_| ());
        assert_eq!(none.unwrap().next, "");
    }

    #[test]
    fn what_is_no_object_is_an_error_and_no_panic() {
        for text in [
            "",
            "{",
            "[]",
            "null",
            r#"{"type":"ADDED"}"#,
            r#"{"object":{}}"#,
            r#"{"type":"ADDED","object":7}"#,
            r#"{"type":"ADDED","object":{}} x"#,
        ] {
            assert!(line(text.as_bytes(), StatusPart::Drop).is_err(), "{text}");
        }
        let deep = format!(r#"{{"type":"ADDED","object":{{"spec":{}1{}}}}}"#, "[".repeat(500), "]".repeat(500));
        assert!(line(deep.as_bytes(), StatusPart::Drop).is_err());
        for text in [r#"{"items":[]}"#, r#"{"metadata":{"resourceVersion":"1"}}"#, r#"{"metadata":{},"items":[]}"#] {
            assert!(list(text.as_bytes(), StatusPart::Drop, |_| ()).is_err(), "{text}");
        }
    }
}
