//! The sandbox at its boundary: what plugins can do, what they cannot, and what each refusal is called.

mod cache;
mod first_party;
mod fixture;
mod guest;
mod hostile;
mod refusals;
