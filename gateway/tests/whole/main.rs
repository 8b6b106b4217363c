//! The whole way, through the program itself: real senders, real stores, real receivers, and what goes wrong with them.

mod api;
mod bad_input;
mod github;
mod graceful;
#[path = "../plugin/guest.rs"]
mod guest;
mod kill;
mod load;
mod trace;
mod world;
