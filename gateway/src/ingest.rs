//! The ingest wing: receive, verify, accept.

pub mod verify;
