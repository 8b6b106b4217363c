//! A tenant that attacks a whole gateway through its API, beside a quiet one that must not notice.

#![allow(clippy::unwrap_used, reason = "what fails in a test has failed the test")]

#[allow(dead_code, reason = "used in full by the tests of the whole way")]
#[path = "../whole/api.rs"]
mod api;
#[path = "../plugin/bombs.rs"]
mod bombs;
mod compilers;
mod gates;
#[allow(dead_code, reason = "used in full by the tests of the sandbox")]
#[path = "../plugin/guest.rs"]
mod guest;
mod processes;
mod quiet;
mod runs;
mod security;
#[allow(dead_code, reason = "used in full by the tests of the whole way")]
#[path = "../whole/visitors.rs"]
mod visitors;
#[allow(dead_code, reason = "used in full by the tests of the whole way")]
#[path = "../whole/world.rs"]
mod world;
