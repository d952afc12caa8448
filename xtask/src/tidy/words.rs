//! The store has never heard of QEMU: its words don't occur in it, in code or in comments.

use super::tree::{Finding, Tree};

const WORDS: [&str; 5] = ["qemu", "qmp", "qcow", "libvirt", "postcopy"];

/// Finds such words in the store's sources.
pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.rust("crates/store/") {
        for (index, line) in text.lines().enumerate() {
            let line = line.to_lowercase();
            // The description of the crate may say what it doesn't know.
            if let Some(word) =
                WORDS.iter().find(|word| line.contains(**word) && !line.contains("never heard of"))
            {
                findings.push(Finding::error(
                    format!("{path}:{}", index + 1),
                    format!("the store knows no {word}"),
                ));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards the store's use for anything that has images.
    #[test]
    fn words_of_qemu_in_the_store_are_found() {
        let tree = Tree::of(&[
            ("crates/store/src/lib.rs", "//! Has never heard of QEMU.\n// A page as QEMU sends it.\n"),
            ("crates/engine/src/lib.rs", "//! Drives QEMU.\n"),
        ]);
        let places: Vec<_> = check(&tree).into_iter().map(|finding| finding.place).collect();
        assert_eq!(places, ["crates/store/src/lib.rs:2"]);
    }
}
