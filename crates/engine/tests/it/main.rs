//! Tests of the engine through its public interface, with VMs that do not run, on a disk whose power can fail.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests fail by panicking, and say why on their terminal"
)]

mod crash;
mod damaged;
mod found;
mod frozen;
mod records;
mod world;
