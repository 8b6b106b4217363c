//! Repairing what was given up: dead letters found by what they have in common, and tried again by the thousand; and sending what came in
//! once more, over another connection.
//!
//! A listing with a filter looks at a bounded number of rows for each page ([`MAX_EXAMINED`]), so a page may be short and not the last. A
//! job ([`job`]) goes over as many as there are; it is worked on in `dispatch`, by the owner of its tenant's home shard.

pub mod events;
pub mod filter;
pub mod job;
mod service;

pub use events::{EventFilter, EventFilterSpec, Replay, ReplayJobSpec};
pub use filter::{LetterFilter, LetterFilterSpec};
pub use job::{Job, JobKind, JobSpec, JobState, MAX_JOBS, MAX_JOBS_KEPT, Progress};

/// Dead letters that are looked at for one page of a listing with a filter.
pub const MAX_EXAMINED: usize = 1000;
