//! Tidegate: a webhook gateway that keeps every event it acknowledged and runs tenants' WebAssembly over it.

pub mod clock;
pub mod event;
