//! One document's text to a tree.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Tag};

use super::scalar::resolve;
use super::tree::{Entry, Mark, Node, Value};

/// Mappings and lists may be nested this deep.
pub const MAX_DEPTH: usize = 64;
/// A document may have this many nodes, those that aliases repeat included.
pub const MAX_NODES: usize = 500_000;

/// Why a text is no document. The mark is in the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SyntaxError {
    pub mark: Mark,
    pub message: String,
}

/// Parses a text of one document; `None` when it holds none.
pub fn parse(text: &str) -> Result<Option<Node<'_>>, SyntaxError> {
    let mut builder = Builder::default();
    let mut parser = Parser::new_from_str(text);
    while let Some(event) = parser.next_event() {
        let (event, span) = event.map_err(|fault| scan_error(&fault))?;
        builder.take(event, mark(&span.start))?;
    }
    Ok(builder.root)
}

fn mark(marker: &Marker) -> Mark {
    let clamp = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    Mark { source: 0, line: clamp(marker.line()).max(1), column: clamp(marker.col()).saturating_add(1) }
}

fn scan_error(fault: &ScanError) -> SyntaxError {
    SyntaxError { mark: mark(fault.marker()), message: format!("not valid YAML: {}", fault.info()) }
}

fn error<T>(mark: Mark, message: impl Into<String>) -> Result<T, SyntaxError> {
    Err(SyntaxError { mark, message: message.into() })
}

#[derive(Default)]
struct Builder<'t> {
    root: Option<Node<'t>>,
    documents: usize,
    open: Vec<Open<'t>>,
    nodes: usize,
    /// Finished nodes with an anchor, and how many nodes each is.
    anchors: HashMap<usize, (Node<'t>, usize)>,
}

/// A collection that is not complete.
struct Open<'t> {
    mark: Mark,
    anchor: usize,
    /// The node count when it began.
    nodes_before: usize,
    content: Content<'t>,
}

enum Content<'t> {
    Sequence(Vec<Node<'t>>),
    Mapping { entries: Vec<Entry<'t>>, key: Option<(Cow<'t, str>, Mark)>, merges: Vec<Node<'t>> },
}

/// The YAML 1.1 merge key, which Kubernetes' reader still honours. Never a legal field name.
const MERGE: &str = "<<";

impl<'t> Builder<'t> {
    fn take(&mut self, event: Event<'t>, mark: Mark) -> Result<(), SyntaxError> {
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 { error(mark, "a second document begins without \"---\"") } else { Ok(()) }
            }
            Event::Alias(anchor) => self.alias(anchor, mark),
            Event::Scalar(text, style, anchor, tag) => self.scalar(text, style, anchor, tag, mark),
            Event::SequenceStart(anchor, tag) => {
                check_collection_tag(tag.as_deref(), "seq", mark)?;
                self.begin(mark, anchor, Content::Sequence(Vec::new()))
            }
            Event::MappingStart(anchor, tag) => {
                check_collection_tag(tag.as_deref(), "map", mark)?;
                self.begin(mark, anchor, Content::Mapping { entries: Vec::new(), key: None, merges: Vec::new() })
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(),
        }
    }

    fn count(&mut self, nodes: usize, mark: Mark) -> Result<(), SyntaxError> {
        self.nodes += nodes;
        if self.nodes > MAX_NODES {
            return error(mark, format!("more than {MAX_NODES} nodes in one document, aliases included"));
        }
        Ok(())
    }

    fn begin(&mut self, mark: Mark, anchor: usize, content: Content<'t>) -> Result<(), SyntaxError> {
        if self.open.len() >= MAX_DEPTH {
            return error(mark, format!("nested deeper than {MAX_DEPTH} levels"));
        }
        if let Some(Open { content: Content::Mapping { key: None, .. }, .. }) = self.open.last() {
            return error(mark, "a mapping key is a list or a mapping, expected a string");
        }
        let nodes_before = self.nodes;
        self.count(1, mark)?;
        self.open.push(Open { mark, anchor, nodes_before, content });
        Ok(())
    }

    fn end(&mut self) -> Result<(), SyntaxError> {
        let Some(Open { mark, anchor, nodes_before, content }) = self.open.pop() else { return Ok(()) };
        let value = match content {
            Content::Sequence(nodes) => Value::Sequence(nodes),
            Content::Mapping { mut entries, merges, .. } => {
                check_distinct(&entries)?;
                for merge in merges {
                    merge_into(&mut entries, merge)?;
                }
                Value::Mapping(entries)
            }
        };
        let node = Node { mark, value };
        if anchor > 0 {
            self.anchors.insert(anchor, (node.clone(), self.nodes - nodes_before));
        }
        self.place(node);
        Ok(())
    }

    fn alias(&mut self, anchor: usize, mark: Mark) -> Result<(), SyntaxError> {
        let Some((node, nodes)) = self.anchors.get(&anchor) else {
            return error(mark, "an alias refers to a node that contains it");
        };
        let (mut node, nodes) = (node.clone(), *nodes);
        self.count(nodes, mark)?;
        // A clone may nest as deep as its original did, below the depth reached here.
        if self.open.len() + depth(&node) > MAX_DEPTH {
            return error(mark, format!("nested deeper than {MAX_DEPTH} levels"));
        }
        if let Some(Open { content: Content::Mapping { key: key @ None, .. }, .. }) = self.open.last_mut() {
            let Value::String(text) = node.value else {
                return error(mark, "a mapping key is an alias of something other than a string");
            };
            *key = Some((text, mark));
            return Ok(());
        }
        node.mark = mark;
        self.place(node);
        Ok(())
    }

    fn scalar(
        &mut self,
        text: Cow<'t, str>,
        style: ScalarStyle,
        anchor: usize,
        tag: Option<Cow<'t, Tag>>,
        mark: Mark,
    ) -> Result<(), SyntaxError> {
        self.count(1, mark)?;
        if let Some(Open { content: Content::Mapping { key: key @ None, .. }, .. }) = self.open.last_mut() {
            if anchor > 0 {
                let node = Node { mark, value: Value::String(text.clone()) };
                self.anchors.insert(anchor, (node, 1));
            }
            // JSON has string keys only, and so Kubernetes turns every scalar key into its text.
            *key = Some((text, mark));
            return Ok(());
        }
        let value = match tag.as_deref() {
            None if style == ScalarStyle::Plain => resolve(text),
            None => Value::String(text),
            Some(tag) if tag.is_yaml_core_schema() && tag.suffix == "str" => Value::String(text),
            Some(tag) if tag.handle == "!" && tag.suffix.is_empty() => Value::String(text),
            Some(tag) if tag.is_yaml_core_schema() => {
                let value = resolve(text);
                let fits = match tag.suffix.as_str() {
                    "null" => matches!(value, Value::Null),
                    "bool" => matches!(value, Value::Bool(_)),
                    "int" => matches!(value, Value::Int(_) | Value::Uint(_)),
                    "float" => matches!(value, Value::Float(_) | Value::Int(_)),
                    _ => false,
                };
                if !fits {
                    return error(mark, format!("{} does not fit its tag !!{}", value.describe(), tag.suffix));
                }
                value
            }
            Some(tag) => return error(mark, format!("the tag {tag} has no meaning here")),
        };
        let node = Node { mark, value };
        if anchor > 0 {
            self.anchors.insert(anchor, (node.clone(), 1));
        }
        self.place(node);
        Ok(())
    }

    fn place(&mut self, node: Node<'t>) {
        match self.open.last_mut().map(|open| &mut open.content) {
            None => self.root = Some(node),
            Some(Content::Sequence(nodes)) => nodes.push(node),
            Some(Content::Mapping { entries, key, merges }) => match key.take() {
                Some((text, _)) if text == MERGE => merges.push(node),
                Some((key, mark)) => entries.push(Entry { key, mark, value: node }),
                // Every event that comes without a pending key is taken as one before it gets here.
                None => {}
            },
        }
    }
}

fn depth(node: &Node<'_>) -> usize {
    match &node.value {
        Value::Sequence(nodes) => 1 + nodes.iter().map(depth).max().unwrap_or(0),
        Value::Mapping(entries) => 1 + entries.iter().map(|entry| depth(&entry.value)).max().unwrap_or(0),
        _ => 0,
    }
}

fn check_collection_tag(tag: Option<&Tag>, expected: &str, mark: Mark) -> Result<(), SyntaxError> {
    match tag {
        None => Ok(()),
        Some(tag) if tag.is_yaml_core_schema() && tag.suffix == expected => Ok(()),
        Some(tag) => error(mark, format!("the tag {tag} has no meaning here")),
    }
}

fn check_distinct(entries: &[Entry<'_>]) -> Result<(), SyntaxError> {
    let duplicate = |entry: &Entry<'_>| {
        let first = entries.iter().find(|first| first.key == entry.key).map_or(1, |first| first.mark.line);
        let message =
            format!("key {} is there twice, first on line {first} of the document", super::tree::Quoted(&entry.key));
        error(entry.mark, message)
    };
    // Linear search is faster than hashing for nearly every mapping there is.
    if entries.len() <= 16 {
        for (index, entry) in entries.iter().enumerate() {
            if entries[..index].iter().any(|earlier| earlier.key == entry.key) {
                return duplicate(entry);
            }
        }
        return Ok(());
    }
    let mut seen = HashSet::with_capacity(entries.len());
    for entry in entries {
        if !seen.insert(entry.key.as_ref()) {
            return duplicate(entry);
        }
    }
    Ok(())
}

/// Adds what a merge key brings; members that are there already win.
fn merge_into<'t>(entries: &mut Vec<Entry<'t>>, merge: Node<'t>) -> Result<(), SyntaxError> {
    match merge.value {
        Value::Mapping(more) => {
            let present: HashSet<String> = entries.iter().map(|entry| entry.key.clone().into_owned()).collect();
            entries.extend(more.into_iter().filter(|entry| !present.contains(entry.key.as_ref())));
            Ok(())
        }
        Value::Sequence(nodes) => {
            for node in nodes {
                if !matches!(node.value, Value::Mapping(_)) {
                    return error(node.mark, "the merge key \"<<\" lists something other than mappings");
                }
                merge_into(entries, node)?;
            }
            Ok(())
        }
        _ => error(merge.mark, "the merge key \"<<\" needs a mapping or a list of mappings"),
    }
}
