//! Control: who owns what, and how it is wired.
//!
//! The configuration lives in the store as one atomic revision ([`model`] says in which records). In memory it is a [`state`]
//! tree that changes by copying; a change is checked in a [`draft`], written with one compare-and-set, and published as a
//! [`snapshot::Snapshot`]: immutable, and everything in it that can be prepared is. [`service`] is the logic, [`api`] its HTTP.
//!
//! Invariants: a tenant's things are reached only through that tenant. Secrets are sealed at rest, never returned, never logged.
//! What refers to something refers to something that is there. A configuration that can't be read never replaces one that could.

pub mod api;
pub mod apply;
mod assemble;
pub mod bookmarks;
pub mod condition;
mod draft;
pub mod events;
pub mod homes;
pub mod inspect;
pub mod model;
mod parts;
mod prepare;
pub mod recovery;
pub mod refresh;
pub mod replay;
pub mod retries;
mod schema;
pub mod seal;
pub mod service;
pub mod shadow;
pub mod signals;
pub mod snapshot;
pub mod sorted;
pub mod state;
pub mod steering;
pub mod tables;
pub mod trial;
pub mod waiting;

pub use prepare::{Prepare, Preparer};
