//! The whole way, through the program itself: real senders, real stores, real receivers, and what goes wrong with them.

#![allow(clippy::unwrap_used, reason = "what fails in a test has failed the test")]

mod ailing;
mod api;
mod bad_input;
#[allow(dead_code, reason = "used in full by the tests of the SDKs")]
#[path = "../guests/build.rs"]
mod build;
mod credentials;
mod dead_letters;
mod deletion;
mod endpoints;
mod github;
mod graceful;
#[path = "../plugin/guest.rs"]
mod guest;
mod kept;
mod kill;
mod limits;
mod load;
mod paused;
mod pins;
mod shadow;
mod spread;
mod steer;
mod trace;
mod versions;
mod visitors;
mod world;
