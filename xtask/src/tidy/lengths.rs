//! Files stay short enough to be read in one go: past 400 lines they are mentioned, past 600 they are split.

use super::tree::{Finding, Tree};

const MENTIONED: usize = 400;
const SPLIT: usize = 600;

/// Finds long sources.
pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let long = |(path, text): (&str, &str)| match text.lines().count() {
        lines if lines > SPLIT => {
            Some(Finding::error(path, format!("{lines} lines: split it (at most {SPLIT})")))
        }
        lines if lines > MENTIONED => {
            Some(Finding::warning(path, format!("{lines} lines: is it one thing?")))
        }
        _ => None,
    };
    tree.rust("").filter_map(long).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::tree::Severity;

    /// Guards both limits.
    #[test]
    fn long_files_are_mentioned_and_longer_ones_refused() {
        let (middling, long) = ("\n".repeat(401), "\n".repeat(601));
        let tree = Tree::of(&[("a.rs", &middling), ("b.rs", &long), ("c.rs", "\n"), ("d.md", &long)]);
        let found: Vec<_> =
            check(&tree).into_iter().map(|finding| (finding.place, finding.severity)).collect();
        assert_eq!(found, [("a.rs".into(), Severity::Warning), ("b.rs".into(), Severity::Error)]);
    }
}
