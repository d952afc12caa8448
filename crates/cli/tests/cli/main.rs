//! The command line as a user meets it: help, results, refusals and exit statuses of the built binary.
//!
//! Hermetic: each test has a root of its own, a fixed clock, seeded ids and an emptied environment. QEMU is real; no
//! guest is booted here (that is what the lifecycle tests do).

#![allow(clippy::unwrap_used, reason = "a failed helper fails its test")]

mod asked;
mod bad_images;
mod bad_input;
mod clones;
mod console;
mod guard;
mod help;
mod json;
mod sandbox;
mod signals;
mod snapshots_of_stopped;
mod store;
mod streams;
mod terminal;
