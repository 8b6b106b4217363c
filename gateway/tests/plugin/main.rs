//! The sandbox at its boundary: what plugins can do, what they cannot, and what each refusal is called.

#![allow(clippy::unwrap_used, reason = "what fails in a test has failed the test")]

mod bombs;
mod cache;
mod compile_bombs;
mod first_party;
mod fixture;
mod floods;
mod guest;
mod hostile;
mod old;
mod refusals;
mod residue;
mod reuse;
mod tables;
