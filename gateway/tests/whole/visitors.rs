//! Guests for what a source or a destination names, written by hand.

use bytes::Bytes;

use crate::guest::guest;

/// How an arrival comes: method, path, query, headers, body, time, attributes, flattened.
const ARRIVAL: &str = "(param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i64 i32 i32)";
/// An attempt has more parts than fit: its address comes.
const ATTEMPT: &str = "(param i32)";

/// An answer at address 8 whose bytes are all zero: accepted, not answered, no headers, the default.
pub(crate) const ZEROS: &str = "(i32.const 8)";
/// A judge's answer: delivered.
pub(crate) const DELIVERED: &str = "(i32.store8 (i32.const 16) (i32.const 1)) (i32.const 8)";
/// It runs until it is stopped.
pub(crate) const SPINS: &str = "(loop (br 0)) (unreachable)";

/// A plugin that verifies; `body` gives the address of its answer.
pub(crate) fn verify(body: &str) -> Bytes {
    guest("verify-plugin", ("verify@1.1.0#check", ARRIVAL), "", body)
}

/// One that answers.
pub(crate) fn respond(body: &str) -> Bytes {
    guest("respond-plugin", ("respond@1.1.0#answer", ARRIVAL), "", body)
}

/// One that signs.
pub(crate) fn sign(body: &str) -> Bytes {
    guest("sign-plugin", ("sign@1.1.0#headers", ATTEMPT), "", body)
}

/// One that judges.
pub(crate) fn judge(body: &str) -> Bytes {
    guest("judge-plugin", ("judge@1.1.0#judge", ATTEMPT), "", body)
}
