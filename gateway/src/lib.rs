//! Tidegate: a webhook gateway that keeps every event it acknowledged and runs tenants' WebAssembly over it.
//!
//! The modules stand in the order in which an event meets them. `ingest` and `dispatch` never import each other: they meet in
//! the store.

mod background;
pub mod clock;
pub mod config;
pub mod event;
mod room;
pub mod secret;

pub mod ingest;
pub mod store;

pub mod dispatch;
pub mod egress;
pub mod plugin;

pub mod control;
pub mod notices;
pub mod telemetry;

pub mod app;
pub mod cli;
