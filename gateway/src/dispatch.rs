//! The dispatch wing: claim, plan, attempt, record.

pub mod filter;
pub mod schedule;
