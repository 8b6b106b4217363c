//! The client against real sockets: what a destination can do to it, done to it.
//!
//! Both sides run in one test, so that each step of the peer is scripted and nothing waits for time to pass but for the deadlines
//! that are tested.

#![allow(clippy::unwrap_used, reason = "what fails in a test has failed the test")]
#![allow(clippy::disallowed_methods, reason = "bodies of our own tests are limited")]

mod authority;
mod brokers;
mod capacity;
mod dns;
mod faults;
mod frames;
mod http1;
mod http2;
mod peer;
mod pool;
mod reach;
mod tls;
