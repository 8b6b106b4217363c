//! The ingest wing at its boundary: real HTTP over sockets, a stub for the store.

#![allow(clippy::unwrap_used, reason = "what fails in a test has failed the test")]

mod accept;
mod limits;
mod plan;
mod receive;
mod spread;
mod stub;
mod telemetry;
mod world;
