//! Fewer than 200 packages in the lock file: each one is read, updated and trusted by someone.

use super::tree::{Finding, Tree};

const LIMIT: usize = 200;

/// Finds a lock file that has grown too long.
pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let Some(text) = tree.text("Cargo.lock") else {
        return vec![Finding::error("Cargo.lock", "is missing: builds would not be the same twice")];
    };
    let packages = text.lines().filter(|line| *line == "[[package]]").count();
    if packages < LIMIT {
        return Vec::new();
    }
    vec![Finding::error("Cargo.lock", format!("{packages} packages: stay below {LIMIT}"))]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards the limit, and that the file is looked at.
    #[test]
    fn too_many_packages_or_no_lock_file_are_found() {
        let many = "[[package]]\nname = \"x\"\n".repeat(LIMIT);
        assert_eq!(check(&Tree::of(&[("Cargo.lock", &many)])).len(), 1);
        assert_eq!(check(&Tree::of(&[])).len(), 1);
        assert_eq!(check(&Tree::of(&[("Cargo.lock", "[[package]]\n")])), []);
    }
}
