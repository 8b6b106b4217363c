//! The ingest wing at its boundary: real HTTP over sockets, a stub for the store.

mod accept;
mod limits;
mod receive;
mod stub;
mod telemetry;
mod world;
