//! The admin API over real HTTP, on the embedded store, and where nodes share it on Redis.

#![allow(clippy::unwrap_used, reason = "what fails in a test has failed the test")]

mod apply;
mod bookmarks;
mod contract;
mod deletion;
mod destinations;
mod input;
mod isolation;
mod lifecycle;
mod openapi;
mod plugins;
mod schema;
mod secrets;
mod signals;
mod spread;
mod tables;
mod traffic;
mod versions;
mod waiting;
mod world;
