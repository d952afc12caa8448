//! Unsafe code is in the files listed here and nowhere else, one documented module per need.

use super::tree::{Finding, Tree, code_lines};

/// A file, and what std and rustix have no safe way for.
const LISTED: [(&str, &str); 1] = [("crates/engine/src/vm/session.rs", "setsid between fork and exec")];

/// Finds unsafe code elsewhere, and entries of the list that have become needless.
pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let is_listed = |path: &str| LISTED.iter().any(|(listed, _)| *listed == path);
    let mut findings = Vec::new();
    for (path, text) in tree.rust("") {
        let allowing = code_lines(text).find(|(_, line)| line.contains(concat!("allow(unsa", "fe_code)")));
        match (allowing, is_listed(path)) {
            (Some((number, _)), false) => {
                findings.push(Finding::error(
                    format!("{path}:{number}"),
                    "unsafe code outside the listed modules",
                ));
            }
            (None, true) => {
                findings.push(Finding::error(path, "is listed for unsafe code that it doesn't have"));
            }
            _ => {}
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards the list against silent growth, and against entries nobody needs. Elsewhere the compiler denies it.
    #[test]
    fn unlisted_and_needless_permissions_are_found() {
        let allowing = concat!("//! x\n#![allow(unsa", "fe_code)]\n");
        let tree = Tree::of(&[("crates/store/src/a.rs", allowing), (LISTED[0].0, "//! nothing\n")]);
        let places: Vec<_> = check(&tree).into_iter().map(|finding| finding.place).collect();
        assert_eq!(places, [LISTED[0].0, "crates/store/src/a.rs:2"]);
        assert_eq!(check(&Tree::of(&[(LISTED[0].0, allowing)])), []);
    }
}
