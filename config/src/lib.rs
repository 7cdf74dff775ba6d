pub mod hosts;
pub mod matching;
pub mod names;
pub mod snapshot;
