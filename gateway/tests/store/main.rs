//! One suite for every store engine: the contract in `store.rs`, sentence by sentence ([`contract`]), and random operation
//! sequences compared with the [`model`] ([`random`]).
//!
//! An engine joins by a [`Fixture`](fixture::Fixture) and one line of [`contract_suite!`] below.

// Helpers unwrap as tests do.
#![allow(clippy::unwrap_used)]

#[macro_use]
mod contract;
mod crash;
mod embedded;
mod fixture;
mod model;
mod on_redis;
mod random;
mod transfer;
mod world;

contract_suite!(on_model, crate::fixture::InMemory::start);
contract_suite!(on_embedded, crate::embedded::OnDisk::start);
contract_suite!(on_embedded_everysec, crate::embedded::OnDisk::everysec);
contract_suite!(on_redis_7, crate::on_redis::OnRedis::redis);
contract_suite!(on_valkey, crate::on_redis::OnRedis::valkey);
contract_suite!(on_cluster, crate::on_redis::OnRedis::cluster);
