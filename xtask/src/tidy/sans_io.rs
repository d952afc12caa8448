//! QEMU's protocols are plain state machines: bytes and time in, bytes and actions out.
//!
//! In `crates/qemu` only the socket client may touch files, sockets, threads, processes or the clock.

use super::tree::{Finding, Tree, code_lines};

const CLIENT: &str = "crates/qemu/src/qmp/client";
const FORBIDDEN: [&str; 7] =
    ["std::fs", "std::net", "std::os::unix::net", "std::thread", "std::process", "rustix::", "time::Instant"];
const FORBIDDEN_IN_GROUPS: [&str; 5] = ["fs", "net", "thread", "process", "time::Instant"];

/// Finds code in the protocols that reaches out of them.
pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let sources =
        tree.rust("crates/qemu/src/").filter(|(path, _)| !path.starts_with(CLIENT) && !is_test(path));
    sources.flat_map(|(path, text)| reaching_out(path, text)).collect()
}

fn is_test(path: &str) -> bool {
    path.ends_with("/tests.rs") || path.ends_with("_tests.rs") || path.contains("/tests/")
}

fn reaching_out(path: &str, text: &str) -> Vec<Finding> {
    let finding = |number, what: &str| {
        Finding::error(format!("{path}:{number}"), format!("{what} in a protocol: it belongs into {CLIENT}"))
    };
    code_lines(text)
        .filter_map(|(number, line)| {
            let named = FORBIDDEN.iter().find(|name| line.contains(**name));
            named.or_else(|| grouped(line)).map(|what| finding(number, what))
        })
        .collect()
}

/// What is forbidden in `use std::{fs, thread};`.
fn grouped(line: &str) -> Option<&'static &'static str> {
    let names = line.split_once("std::{")?.1;
    let mut words = names.split([',', '}', ' ', '{']);
    words.find_map(|word| {
        FORBIDDEN_IN_GROUPS.iter().find(|name| word == **name || word.starts_with(&format!("{name}::")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards what makes the protocols testable without QEMU.
    #[test]
    fn input_and_output_outside_the_client_are_found() {
        let reaching = "//! std::fs is not used.\nuse std::fs::File;\nuse std::{fmt, thread};\nlet x = 1;\n";
        let tree = Tree::of(&[
            ("crates/qemu/src/stream/decoder.rs", reaching),
            ("crates/qemu/src/qmp/client/mod.rs", reaching),
            ("crates/engine/src/vm.rs", reaching),
        ]);
        let places: Vec<_> = check(&tree).into_iter().map(|finding| finding.place).collect();
        assert_eq!(places, ["crates/qemu/src/stream/decoder.rs:2", "crates/qemu/src/stream/decoder.rs:3"]);
    }
}
