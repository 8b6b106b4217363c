//! The ingest wing: receive, verify, accept.

pub mod accept;
pub mod lane;
pub mod receive;
pub mod verify;
