//! No path of a developer's machine in the repository: it works there and nowhere else.

use super::tree::{Finding, Tree};

/// Put together here, so that this file doesn't hold them itself.
const PATHS: [&str; 4] =
    [concat!("/wo", "rk/"), concat!("/tmp/tar", "get"), concat!("/ro", "ot/."), concat!("/ho", "me/")];

/// Finds such paths in any text file.
pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.files() {
        for (index, line) in text.lines().enumerate() {
            for found in PATHS.iter().filter(|name| names(line, name)) {
                findings.push(Finding::error(
                    format!("{path}:{}", index + 1),
                    format!("{found} is of one machine"),
                ));
            }
        }
    }
    findings
}

/// Whether an absolute path in `line` begins with `name`; a folder of that name further down is another thing.
fn names(line: &str, name: &str) -> bool {
    line.match_indices(name).any(|(at, _)| {
        !line[..at].ends_with(|before: char| before.is_alphanumeric() || "}._-*".contains(before))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards against what only works where it was written.
    #[test]
    fn absolute_paths_of_a_machine_are_found() {
        let text = format!("cd {}main\nrun{}x\n", PATHS[0], PATHS[0]);
        let places: Vec<_> =
            check(&Tree::of(&[("x.sh", &text)])).into_iter().map(|finding| finding.place).collect();
        assert_eq!(places, ["x.sh:1"]);
    }
}
