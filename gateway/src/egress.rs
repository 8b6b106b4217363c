//! Everything that leaves the gateway: address policy, resolver, connection pools, requests and their signatures.

pub mod policy;
