//! The ingest wing: receive, verify, accept.

pub mod accept;
pub mod quota;
pub mod receive;
pub mod verify;
