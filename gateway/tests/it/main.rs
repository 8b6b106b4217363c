//! All tests from outside, in one binary: each binary links the whole gateway, which takes longer than most of them run.

#![allow(clippy::unwrap_used, reason = "what fails in a test has failed the test")]

mod deploy;
mod lifecycle;
mod table;
mod traffic;
