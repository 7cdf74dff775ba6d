//! JSON Patch (RFC 6902) and JSON Merge Patch (RFC 7396) over positioned trees: what a patch brings keeps the place
//! it was written at, so that a fault in it is found where it can be mended. A patch applies whole or not at all.

use std::borrow::Cow;

use crate::settings::PatchType;
use crate::yaml::{Entry, Mark, Node, Value};

/// Why a patch does not apply. The mark is in the patch's text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct PatchError {
    pub mark: Mark,
    pub message: String,
}

/// Applies a patch; on an error the target is what it was.
pub fn apply<'t>(target: &mut Node<'t>, patch: &Node<'t>, format: PatchType) -> Result<(), PatchError> {
    match format {
        PatchType::Merge => {
            if !matches!(patch.value, Value::Mapping(_)) {
                let found = patch.value.describe();
                return fail(patch.mark, format!("a merge patch is {found}, expected a mapping"));
            }
            merge(target, patch);
            Ok(())
        }
        PatchType::Json => {
            let Value::Sequence(operations) = &patch.value else {
                let found = patch.value.describe();
                return fail(patch.mark, format!("a JSON patch is {found}, expected a list of operations"));
            };
            let mut result = target.clone();
            for (index, operation) in operations.iter().enumerate() {
                operate(&mut result, operation).map_err(|fault| PatchError {
                    mark: fault.mark,
                    message: format!("operation {}: {}", index + 1, fault.message),
                })?;
            }
            *target = result;
            Ok(())
        }
    }
}

fn fail<T>(mark: Mark, message: impl Into<String>) -> Result<T, PatchError> {
    Err(PatchError { mark, message: message.into() })
}

/// RFC 7396 §2. Depth is bounded by the parser's limit on both trees.
fn merge<'t>(target: &mut Node<'t>, patch: &Node<'t>) {
    let Value::Mapping(changes) = &patch.value else {
        *target = patch.clone();
        return;
    };
    if !matches!(target.value, Value::Mapping(_)) {
        *target = Node { mark: patch.mark, value: Value::Mapping(Vec::new()) };
    }
    let Value::Mapping(entries) = &mut target.value else { return };
    for change in changes {
        let position = entries.iter().position(|entry| entry.key == change.key);
        match (position, &change.value.value) {
            (Some(position), Value::Null) => {
                entries.remove(position);
            }
            (None, Value::Null) => {}
            (Some(position), _) => merge(&mut entries[position].value, &change.value),
            (None, _) => {
                let mut value = Node { mark: change.value.mark, value: Value::Null };
                merge(&mut value, &change.value);
                entries.push(Entry { key: change.key.clone(), mark: change.mark, value });
            }
        }
    }
}

fn operate<'t>(target: &mut Node<'t>, operation: &Node<'t>) -> Result<(), PatchError> {
    let Value::Mapping(members) = &operation.value else {
        return fail(operation.mark, format!("is {}, expected a mapping", operation.value.describe()));
    };
    let text = |name: &str| match operation.member(name) {
        Some(node) => match node.as_str() {
            Some(text) => Ok((text, node.mark)),
            None => fail(node.mark, format!("`{name}` is {}, expected a string", node.value.describe())),
        },
        None => fail(operation.mark, format!("`{name}` is missing")),
    };
    // RFC 6902 §4 says that other members are ignored; a misspelt one is rather a mistake.
    if let Some(entry) = members.iter().find(|entry| !["op", "path", "value", "from"].contains(&entry.key.as_ref())) {
        let hint = crate::suggest::hint(&entry.key, ["op", "path", "value", "from"]);
        return fail(entry.mark, format!("unknown member {:?}{hint}", entry.key));
    }
    let value = || match operation.member("value") {
        Some(value) => Ok(value.clone()),
        None => fail(operation.mark, "`value` is missing"),
    };
    let (op, op_mark) = text("op")?;
    let (path, path_mark) = text("path")?;
    let path = Pointer::parse(path, path_mark)?;
    match op {
        "add" => add(target, &path, value()?, operation.mark),
        "remove" => remove(target, &path).map(|_| ()),
        "replace" => {
            *find(target, &path)? = value()?;
            Ok(())
        }
        "move" | "copy" => {
            let (from, from_mark) = text("from")?;
            let from = Pointer::parse(from, from_mark)?;
            if op == "move" && path.tokens.len() > from.tokens.len() && path.tokens.starts_with(&from.tokens) {
                return fail(path.mark, format!("moves {from} into itself"));
            }
            let moved = if op == "move" { remove(target, &from)? } else { find(target, &from)?.clone() };
            add(target, &path, moved, operation.mark)
        }
        "test" => {
            let expected = value()?;
            let found = find(target, &path)?;
            if same(found, &expected) {
                return Ok(());
            }
            fail(
                expected.mark,
                format!(
                    "test of {path} failed: found {}, expected {}",
                    found.value.describe(),
                    expected.value.describe()
                ),
            )
        }
        other => {
            fail(op_mark, format!("unknown operation {other:?}, expected add, remove, replace, move, copy or test"))
        }
    }
}

/// A JSON Pointer (RFC 6901).
struct Pointer {
    tokens: Vec<String>,
    mark: Mark,
}

impl std::fmt::Display for Pointer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.show(self.tokens.len()).fmt(f)
    }
}

impl Pointer {
    fn parse(text: &str, mark: Mark) -> Result<Self, PatchError> {
        if text.is_empty() {
            return Ok(Self { tokens: Vec::new(), mark });
        }
        let Some(rest) = text.strip_prefix('/') else {
            return fail(mark, format!("path {text:?} does not begin with \"/\""));
        };
        let tokens = rest.split('/').map(|token| token.replace("~1", "/").replace("~0", "~")).collect();
        Ok(Self { tokens, mark })
    }

    /// The first tokens again as a pointer.
    fn show(&self, tokens: usize) -> String {
        if tokens == 0 {
            return "the whole object".to_owned();
        }
        self.tokens[..tokens].iter().map(|token| format!("/{}", token.replace('~', "~0").replace('/', "~1"))).collect()
    }
}

fn index_in(token: &str, length: usize) -> Option<usize> {
    let canonical = token == "0" || (!token.starts_with('0') && token.bytes().all(|byte| byte.is_ascii_digit()));
    token.parse().ok().filter(|index: &usize| canonical && *index < length)
}

fn step<'n, 't>(node: &'n mut Node<'t>, pointer: &Pointer, at: usize) -> Result<&'n mut Node<'t>, PatchError> {
    let token = &pointer.tokens[at];
    let missing = || fail(pointer.mark, format!("{} is not there", pointer.show(at + 1)));
    match &mut node.value {
        Value::Mapping(entries) => match entries.iter_mut().find(|entry| entry.key == token.as_str()) {
            Some(entry) => Ok(&mut entry.value),
            None => missing(),
        },
        Value::Sequence(nodes) => {
            let length = nodes.len();
            match index_in(token, length) {
                Some(index) => Ok(&mut nodes[index]),
                None => fail(
                    pointer.mark,
                    format!("{} is not there: the list has {length} items, counted from 0", pointer.show(at + 1)),
                ),
            }
        }
        _ => missing(),
    }
}

fn find<'n, 't>(mut node: &'n mut Node<'t>, pointer: &Pointer) -> Result<&'n mut Node<'t>, PatchError> {
    for at in 0..pointer.tokens.len() {
        node = step(node, pointer, at)?;
    }
    Ok(node)
}

fn parent<'n, 't>(mut node: &'n mut Node<'t>, pointer: &Pointer) -> Result<&'n mut Node<'t>, PatchError> {
    for at in 0..pointer.tokens.len().saturating_sub(1) {
        node = step(node, pointer, at)?;
    }
    Ok(node)
}

fn add<'t>(target: &mut Node<'t>, pointer: &Pointer, value: Node<'t>, mark: Mark) -> Result<(), PatchError> {
    let Some(last) = pointer.tokens.last() else {
        *target = value;
        return Ok(());
    };
    let holder = parent(target, pointer)?;
    match &mut holder.value {
        Value::Mapping(entries) => {
            match entries.iter_mut().find(|entry| entry.key == last.as_str()) {
                Some(entry) => entry.value = value,
                None => entries.push(Entry { key: Cow::Owned(last.clone()), mark, value }),
            }
            Ok(())
        }
        Value::Sequence(nodes) => {
            let length = nodes.len();
            let index = if last == "-" { Some(length) } else { index_in(last, length + 1) };
            match index {
                Some(index) => {
                    nodes.insert(index, value);
                    Ok(())
                }
                None => fail(
                    pointer.mark,
                    format!("{pointer} is no place in a list of {length} items, expected 0 to {length} or \"-\""),
                ),
            }
        }
        other => fail(
            pointer.mark,
            format!("{} is {}, nothing can be added to it", pointer.show(pointer.tokens.len() - 1), other.describe()),
        ),
    }
}

fn remove<'t>(target: &mut Node<'t>, pointer: &Pointer) -> Result<Node<'t>, PatchError> {
    let missing = || fail(pointer.mark, format!("{pointer} is not there"));
    let Some(last) = pointer.tokens.last() else {
        return fail(pointer.mark, "the whole object cannot be removed");
    };
    match &mut parent(target, pointer)?.value {
        Value::Mapping(entries) => match entries.iter().position(|entry| entry.key == last.as_str()) {
            Some(position) => Ok(entries.remove(position).value),
            None => missing(),
        },
        Value::Sequence(nodes) => match index_in(last, nodes.len()) {
            Some(index) => Ok(nodes.remove(index)),
            None => missing(),
        },
        _ => missing(),
    }
}

/// Equality of RFC 6902 §4.6: numbers by value, mappings in any order.
fn same(a: &Node<'_>, b: &Node<'_>) -> bool {
    match (&a.value, &b.value) {
        (Value::Sequence(a), Value::Sequence(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Mapping(a), Value::Mapping(b)) => {
            a.len() == b.len()
                && a.iter().all(|entry| {
                    b.iter().find(|other| other.key == entry.key).is_some_and(|other| same(&entry.value, &other.value))
                })
        }
        (Value::Int(a), Value::Float(b)) | (Value::Float(b), Value::Int(a)) => *a as f64 == *b,
        (a, b) => a == b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml::parse;

    fn tree(text: &str) -> Node<'_> {
        parse(text).unwrap().unwrap()
    }

    fn patched(target: &str, patch: &str, format: PatchType) -> Result<String, String> {
        let (mut node, mut patch) = (tree(target), tree(patch));
        patch.set_source(1);
        let before = node.clone();
        match apply(&mut node, &patch, format) {
            Ok(()) => Ok(show(&node)),
            Err(fault) => {
                assert_eq!(node, before, "a failing patch changes nothing");
                assert_eq!(fault.mark.source, 1);
                Err(fault.message)
            }
        }
    }

    fn show(node: &Node<'_>) -> String {
        match &node.value {
            Value::Sequence(nodes) => format!("[{}]", nodes.iter().map(show).collect::<Vec<_>>().join(",")),
            Value::Mapping(entries) => format!(
                "{{{}}}",
                entries
                    .iter()
                    .map(|entry| format!("{}:{}", entry.key, show(&entry.value)))
                    .collect::<Vec<_>>()
                    .join(",")
            ),
            Value::String(text) => text.to_string(),
            Value::Int(number) => number.to_string(),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn json_patches() {
        for (operations, expected) in [
            ("{op: add, path: /a/-, value: 4}", Ok("{a:[1,2,3,4],b:{c:x}}")),
            ("{op: add, path: /a/0, value: 0}", Ok("{a:[0,1,2,3],b:{c:x}}")),
            ("{op: add, path: /b/d~1e, value: y}", Ok("{a:[1,2,3],b:{c:x,d/e:y}}")),
            ("{op: add, path: /b/c, value: y}", Ok("{a:[1,2,3],b:{c:y}}")),
            ("{op: remove, path: /a/1}", Ok("{a:[1,3],b:{c:x}}")),
            ("{op: replace, path: /b, value: 1}", Ok("{a:[1,2,3],b:1}")),
            ("{op: move, from: /b/c, path: /c}", Ok("{a:[1,2,3],b:{},c:x}")),
            ("{op: copy, from: /a/0, path: /a/-}", Ok("{a:[1,2,3,1],b:{c:x}}")),
            ("{op: test, path: /b, value: {c: x}}", Ok("{a:[1,2,3],b:{c:x}}")),
            (
                "{op: test, path: /a/0, value: 2}",
                Err("operation 1: test of /a/0 failed: found the number 1, expected the number 2"),
            ),
            ("{op: add, path: /x/y, value: 1}", Err("operation 1: /x is not there")),
            (
                "{op: add, path: /a/5, value: 1}",
                Err("operation 1: /a/5 is no place in a list of 3 items, expected 0 to 3 or \"-\""),
            ),
            (
                "{op: add, path: /a/01, value: 1}",
                Err("operation 1: /a/01 is no place in a list of 3 items, expected 0 to 3 or \"-\""),
            ),
            (
                "{op: add, path: /b/c/d, value: 1}",
                Err("operation 1: /b/c is the string \"x\", nothing can be added to it"),
            ),
            ("{op: remove, path: /a/3}", Err("operation 1: /a/3 is not there")),
            ("{op: remove, path: ''}", Err("operation 1: the whole object cannot be removed")),
            ("{op: replace, path: /b/x, value: 1}", Err("operation 1: /b/x is not there")),
            ("{op: move, from: /b, path: /b/c}", Err("operation 1: moves /b into itself")),
            ("{op: add, path: a, value: 1}", Err("operation 1: path \"a\" does not begin with \"/\"")),
            ("{op: add, path: /a}", Err("operation 1: `value` is missing")),
            (
                "{op: append, path: /a}",
                Err("operation 1: unknown operation \"append\", expected add, remove, replace, move, copy or test"),
            ),
            ("{op: add, path: /a/-, vlaue: 1}", Err("operation 1: unknown member \"vlaue\", did you mean `value`?")),
            ("{op: remove, path: /b}, {op: remove, path: /b}", Err("operation 2: /b is not there")),
        ] {
            let result = patched("a: [1, 2, 3]\nb: {c: x}\n", &format!("[{operations}]"), PatchType::Json);
            assert_eq!(result.as_deref().map_err(String::as_str), expected, "{operations}");
        }
        assert_eq!(
            patched("a: 1", "{op: add}", PatchType::Json),
            Err("a JSON patch is a mapping, expected a list of operations".to_owned())
        );
    }

    #[test]
    fn merge_patches() {
        for (target, patch, expected) in [
            ("{a: 1, b: 2}", "{a: 3}", "{a:3,b:2}"),
            ("{a: 1, b: 2}", "{a: null}", "{b:2}"),
            ("{a: {b: 1}}", "{a: {c: 2}}", "{a:{b:1,c:2}}"),
            ("{a: [1]}", "{a: [2, 3]}", "{a:[2,3]}"),
            ("{a: 1}", "{b: {c: null, d: 1}}", "{a:1,b:{d:1}}"),
            ("{a: 1}", "{a: {b: 1}}", "{a:{b:1}}"),
        ] {
            assert_eq!(patched(target, patch, PatchType::Merge).as_deref(), Ok(expected), "{patch}");
        }
        assert!(patched("{a: 1}", "[1]", PatchType::Merge).is_err());
    }
}
