//! Real guests on real QEMU through the command line: captured while they run, damaged, brought back, and proven right.

mod forward_and_back;

use std::path::Path;

use vmrewind_testkit::rig::Rig;

/// A rig with the program under test.
fn rig() -> Rig {
    Rig::new(Path::new(env!("CARGO_BIN_EXE_vmrewind")))
}
