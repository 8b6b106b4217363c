//! The sandbox at its boundary: what plugins can do, what they cannot, and what each refusal is called.

mod first_party;
mod fixture;
