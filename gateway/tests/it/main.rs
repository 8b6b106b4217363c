//! All tests from outside, in one binary: each binary links the whole gateway, which takes longer than most of them run.

mod deploy;
mod lifecycle;
