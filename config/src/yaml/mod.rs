//! YAML text to typed values, with a place for every fault: documents are split cheaply, one document becomes a tree
//! whose nodes know their line and column, and a serde deserializer reads the tree. JSON is read by the same path.
//! Foreign text flows in; depth, node count and alias expansion are bounded, and no input panics.
//! Standards: YAML 1.2.2; scalars resolve as Kubernetes' own YAML reader (go-yaml 2) resolves them.

mod de;
mod parse;
mod scalar;
mod split;
mod tree;
mod write;

pub use de::{DecodeError, Unknown, decode};
pub use parse::{MAX_DEPTH, MAX_NODES, SyntaxError, parse};
pub use split::{Document, split};
pub(crate) use tree::Quoted;
pub use tree::{Entry, Mark, Node, Value};
pub use write::Tree;

#[cfg(test)]
mod tests;
