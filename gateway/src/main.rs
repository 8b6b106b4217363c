//! `tidegate`.
fn main() {}
