//! The admin API over real HTTP, on the embedded store.

mod apply;
mod contract;
mod input;
mod isolation;
mod lifecycle;
mod openapi;
mod schema;
mod secrets;
mod world;
