//! All objects of one kind, as a map that is shared until somebody changes it: several versions of everything are alive
//! at once (what sources say, what is served, what was compiled before), and nearly always they differ in few objects of
//! one kind.
//!
//! It is a `BTreeMap` to everybody. Changing one that is shared copies its names and references, never an object.

use std::collections::{BTreeMap, btree_map};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use crate::inputs::Object;
use crate::names::ObjectKey;

type Map<T> = BTreeMap<ObjectKey, Arc<Object<T>>>;

/// In the order of namespace and name.
pub struct Objects<T>(Arc<Map<T>>);

impl<T> Objects<T> {
    /// Whether both are the very same map. `false` says nothing.
    pub fn is_shared_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Whether both hold the very same objects: shared, not only equal.
    pub fn is_identical(&self, other: &Self) -> bool {
        self.is_shared_with(other)
            || (self.len() == other.len() && self.values().zip(other.values()).all(|(a, b)| Arc::ptr_eq(a, b)))
    }

    /// Puts the map together anew, in as little room as it needs: one that grew in the order of its names is half empty.
    pub fn pack(&mut self) {
        self.0 = Arc::new(self.0.iter().map(|(key, object)| (key.clone(), Arc::clone(object))).collect());
    }

    /// Takes an object away; a map without it is left as it is, shared or not.
    pub fn remove(&mut self, key: &ObjectKey) -> Option<Arc<Object<T>>> {
        if self.0.contains_key(key) { Arc::make_mut(&mut self.0).remove(key) } else { None }
    }
}

impl<T> Deref for Objects<T> {
    type Target = Map<T>;

    fn deref(&self) -> &Map<T> {
        &self.0
    }
}

impl<T> DerefMut for Objects<T> {
    fn deref_mut(&mut self) -> &mut Map<T> {
        Arc::make_mut(&mut self.0)
    }
}

// Derived, these would ask for the same of `T`.
impl<T> Default for Objects<T> {
    fn default() -> Self {
        Self(Arc::new(Map::new()))
    }
}

impl<T> Clone for Objects<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: fmt::Debug> fmt::Debug for Objects<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<T: PartialEq> PartialEq for Objects<T> {
    fn eq(&self, other: &Self) -> bool {
        self.is_shared_with(other) || *self.0 == *other.0
    }
}

impl<T> FromIterator<(ObjectKey, Arc<Object<T>>)> for Objects<T> {
    fn from_iter<I: IntoIterator<Item = (ObjectKey, Arc<Object<T>>)>>(objects: I) -> Self {
        Self(Arc::new(objects.into_iter().collect()))
    }
}

impl<'o, T> IntoIterator for &'o Objects<T> {
    type Item = (&'o ObjectKey, &'o Arc<Object<T>>);
    type IntoIter = btree_map::Iter<'o, ObjectKey, Arc<Object<T>>>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::NamespaceSpec;
    use crate::inputs::Meta;
    use crate::problem::Origin;

    fn object(name: &str) -> (ObjectKey, Arc<Object<NamespaceSpec>>) {
        let key = ObjectKey::new("", name);
        let meta = Meta {
            key: key.clone(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            generation: 1,
            created: None,
            origin: Origin { file: "x".into(), line: 1, column: 1 },
        };
        (key, Arc::new(Object { meta, spec: NamespaceSpec::default() }))
    }

    #[test]
    fn shared_until_one_changes() {
        let first: Objects<NamespaceSpec> = ["a", "b"].map(object).into_iter().collect();
        let mut second = first.clone();
        assert!(second.is_shared_with(&first));
        // What is not there costs nothing.
        assert!(second.remove(&ObjectKey::new("", "c")).is_none() && second.is_shared_with(&first));
        let (key, added) = object("c");
        second.insert(key.clone(), added);
        assert!(!second.is_shared_with(&first) && !second.is_identical(&first));
        assert_eq!((first.len(), second.len()), (2, 3));
        assert!(Arc::ptr_eq(&first[&ObjectKey::new("", "a")], &second[&ObjectKey::new("", "a")]));
        second.remove(&key);
        assert!(second.is_identical(&first) && !second.is_shared_with(&first));
        assert_eq!(second, first);
        second.pack();
        assert!(second.is_identical(&first));
    }
}
