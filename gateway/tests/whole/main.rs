//! The whole way, through the program itself: real senders, real stores, real receivers, and what goes wrong with them.

#![allow(clippy::unwrap_used, reason = "what fails in a test has failed the test")]

mod ailing;
mod api;
#[path = "../egress/authority.rs"]
mod authority;
mod bad_input;
mod batch;
mod bookmarks;
#[allow(dead_code, reason = "used in full by the tests of the SDKs")]
#[path = "../guests/build.rs"]
mod build;
mod cloud_events;
mod credentials;
mod dead_letters;
mod deletion;
mod endpoints;
mod faults;
#[allow(dead_code, reason = "used in full by the tests of egress")]
#[path = "../egress/frames.rs"]
mod frames;
mod github;
mod graceful;
#[path = "../plugin/guest.rs"]
mod guest;
mod handshake;
mod kept;
mod kill;
mod kinds;
mod limits;
mod load;
mod moved;
mod notices;
mod order;
mod paused;
mod pins;
mod replayed;
mod shadow;
mod spread;
mod steer;
mod trace;
mod versions;
mod visitors;
mod world;
