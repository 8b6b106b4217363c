//! One suite for every store engine: the contract in `store.rs`, sentence by sentence ([`contract`]), and random operation
//! sequences compared with the [`model`] ([`random`]).
//!
//! An engine joins by a [`Fixture`](fixture::Fixture) and one line of [`contract_suite!`] below.

#[macro_use]
mod contract;
mod fixture;
mod model;
mod world;

contract_suite!(on_model, crate::fixture::InMemory::start);
