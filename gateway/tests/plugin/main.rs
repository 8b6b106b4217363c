//! The sandbox at its boundary: what plugins can do, what they cannot, and what each refusal is called.

#![allow(clippy::unwrap_used, reason = "what fails in a test has failed the test")]

mod cache;
mod first_party;
mod fixture;
mod guest;
mod hostile;
mod refusals;
