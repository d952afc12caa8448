//! The words of the command line belong to the command line: no other crate tells a user what to type.

use super::tree::{Finding, Tree};

/// The crates that any caller can use, a server as well as the command line.
const CRATES: [&str; 4] =
    ["crates/engine/src/", "crates/files/src/", "crates/qemu/src/", "crates/store/src/"];

/// Finds commands in string literals of these crates.
pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for crate_folder in CRATES {
        for (path, text) in tree.rust(crate_folder) {
            for (index, line) in text.lines().enumerate() {
                if names_a_command(line) {
                    findings.push(Finding::error(
                        format!("{path}:{}", index + 1),
                        "what to type is known to the command line: make it data (Hint, Note)".to_owned(),
                    ));
                }
            }
        }
    }
    findings
}

/// Whether a line of code, and not of a comment, has a command between backticks.
fn names_a_command(line: &str) -> bool {
    !line.trim_start().starts_with("//") && line.contains("`vmrewind ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards callers that are no command line: they would pass on words that mean nothing to their users.
    #[test]
    fn commands_in_the_engine_are_found() {
        let tree = Tree::of(&[
            ("crates/engine/src/a.rs", "//! `vmrewind vm list` asks.\nlet x = \"use `vmrewind vm link`\";\n"),
            ("crates/cli/src/a.rs", "let x = \"use `vmrewind vm link`\";\n"),
        ]);
        let places: Vec<_> = check(&tree).into_iter().map(|finding| finding.place).collect();
        assert_eq!(places, ["crates/engine/src/a.rs:2"]);
    }
}
