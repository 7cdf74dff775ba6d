//! `edgectl`.

pub mod style;
pub mod table;
pub mod yaml;
