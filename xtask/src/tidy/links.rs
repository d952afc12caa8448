//! Links between documents lead somewhere: those in Markdown files to files of this repository.

use super::tree::{Finding, Tree};

/// Finds links to files that aren't there.
pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let documents = tree.files().filter(|(path, _)| path.ends_with(".md"));
    documents.flat_map(|(path, text)| broken_links(tree, path, text)).collect()
}

fn broken_links(tree: &Tree, document: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let targets = line.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0));
        for target in targets.filter(|target| !is_elsewhere(target)) {
            let file = target.split('#').next().unwrap_or_default();
            let reached = resolve(document, file);
            if !reached.as_ref().is_some_and(|path| tree.has(path)) {
                findings.push(Finding::error(
                    format!("{document}:{}", index + 1),
                    format!("{target} is not there"),
                ));
            }
        }
    }
    findings
}

fn is_elsewhere(target: &str) -> bool {
    target.starts_with('#') || target.contains("://") || target.starts_with("mailto:")
}

/// The path from the root of what `target` means in `document`; `None` where it leads out of the repository.
fn resolve(document: &str, target: &str) -> Option<String> {
    let mut parts: Vec<&str> = document.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            name => parts.push(name),
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards a reader who follows a link.
    #[test]
    fn a_link_to_nothing_is_found() {
        let text = "[a](format.md) [b](../README.md#x) [c](https://x/y)\n[d](gone.md) [e](../../out.md) [f](#here)\n";
        let tree = Tree::of(&[("docs/a.md", text), ("docs/format.md", ""), ("README.md", "")]);
        let found: Vec<_> =
            check(&tree).into_iter().map(|finding| (finding.place, finding.message)).collect();
        let broken = |target: &str| ("docs/a.md:2".to_owned(), format!("{target} is not there"));
        assert_eq!(found, [broken("gone.md"), broken("../../out.md")]);
    }
}
