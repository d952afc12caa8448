//! Every Rust source opens with `//!`: what it is for, what it guarantees, what it refuses.

use super::tree::{Finding, Tree};

/// Finds sources that don't say what they are for.
pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let silent = tree.rust("").filter(|(_, text)| !text.starts_with("//! "));
    silent.map(|(path, _)| Finding::error(path, "opens without `//!`: say what the file is for")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards against files whose purpose is only in someone's head.
    #[test]
    fn a_file_without_a_header_is_found() {
        let tree = Tree::of(&[("a.rs", "//! Says it.\n"), ("b.rs", "use a;\n//! Late.\n"), ("c.md", "")]);
        let places: Vec<_> = check(&tree).into_iter().map(|finding| finding.place).collect();
        assert_eq!(places, ["b.rs"]);
    }
}
