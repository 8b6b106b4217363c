//! Control: who owns what, and how it is wired.
//!
//! The configuration lives in the store as one atomic revision. What the two wings read of it is a [`snapshot::Snapshot`]:
//! immutable, and everything in it that can be prepared is.

pub mod parts;
pub mod snapshot;
