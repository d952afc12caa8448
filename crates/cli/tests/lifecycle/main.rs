//! Real guests on real QEMU through the command line: captured while they run, damaged, brought back, and proven right.
//!
//! Guests boot slowly under emulation, so each test takes one through much. What every action promises is checked by
//! the rig; see `vmrewind_testkit::rig`.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests are tests")]

mod beside;
mod clock;
mod clones;
mod failures;
mod forward_and_back;
mod full_disk;
mod generations;
mod grades;
mod guard;
mod guard_unkind;
mod in_process;
mod layers;
mod lazy;
mod links;
mod machines;
mod methods;
mod nodes;
mod refused;
mod store;
mod written;

use std::path::Path;

use serde_json::Value;
use vmrewind_testkit::rig::Rig;

/// A rig with the program under test.
fn rig() -> Rig {
    Rig::new(Path::new(env!("CARGO_BIN_EXE_vmrewind")))
}

/// Whether what only root can set up can be tested; says so where it can't.
fn is_root(what: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("left out, since only root can set it up: {what}");
    }
    root
}

/// The strings at `field` of every object of a JSON array.
fn each<'v>(array: &'v Value, field: &str) -> Vec<&'v str> {
    array.as_array().into_iter().flatten().filter_map(|value| value[field].as_str()).collect()
}

/// Whether an error's message, causes and hint hold `words`.
#[track_caller]
fn assert_says(error: &Value, words: &str) {
    assert!(error.to_string().contains(words), "'{words}' is not in {error}");
}
