//! Placeholder until the first part lands.
fn main() {}
