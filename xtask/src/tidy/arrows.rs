//! Dependencies between the crates point one way: `cli -> engine -> {store, qemu}`; `files` is below `engine` and `store`,
//! and uses none.
//!
//! The store and QEMU's side know nothing of each other, and what is never shipped (testkit) is reached only by
//! tests, by the benchmarks and by this program.

use serde_json::Value;

use super::tree::Finding;

/// The crates that each crate may use, in tests only after the bar.
const ALLOWED: &[(&str, &[&str], &[&str])] = &[
    ("vmrewind-files", &[], &[]),
    ("vmrewind-qemu", &[], &["vmrewind-testkit"]),
    ("vmrewind-store", &["vmrewind-files"], &["vmrewind-testkit"]),
    ("vmrewind-engine", &["vmrewind-files", "vmrewind-store", "vmrewind-qemu"], &["vmrewind-testkit"]),
    ("vmrewind-cli", &["vmrewind-engine"], &["vmrewind-testkit"]),
    // Faulty storages are implementations of the traits of these.
    ("vmrewind-testkit", &["vmrewind-files", "vmrewind-store"], &[]),
    ("vmrewind-bench", &["vmrewind-engine", "vmrewind-store", "vmrewind-qemu", "vmrewind-testkit"], &[]),
    ("xtask", &["vmrewind-testkit"], &[]),
];

/// One crate of the workspace using another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Edge {
    from: String,
    to: String,
    only_in_tests: bool,
}

/// Takes the dependencies between members of the workspace out of what `cargo metadata` says.
pub(super) fn edges(metadata: &Value) -> Vec<Edge> {
    let list = |value: &Value, key: &str| value[key].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let packages = list(metadata, "packages");
    let edges_of = |package: &Value| {
        let inside =
            list(package, "dependencies").into_iter().filter(|dependency| dependency["path"].is_string());
        let edge = |dependency: Value| Edge {
            from: text(&package["name"]),
            to: text(&dependency["name"]),
            only_in_tests: dependency["kind"] == "dev",
        };
        inside.map(edge).collect::<Vec<_>>()
    };
    packages.iter().flat_map(edges_of).collect()
}

/// Finds arrows that point the wrong way.
pub(super) fn check(edges: &[Edge]) -> Vec<Finding> {
    let wrong = edges.iter().filter(|edge| !is_allowed(edge));
    wrong.map(|edge| Finding::error(&edge.from, format!("must not use {}", described(edge)))).collect()
}

fn is_allowed(edge: &Edge) -> bool {
    let Some((_, anywhere, in_tests)) = ALLOWED.iter().find(|(name, ..)| *name == edge.from) else {
        // A crate that isn't listed may use nothing: whoever adds one says here what it may not do.
        return false;
    };
    anywhere.contains(&edge.to.as_str()) || (edge.only_in_tests && in_tests.contains(&edge.to.as_str()))
}

fn described(edge: &Edge) -> String {
    format!("{}{}", edge.to, if edge.only_in_tests { " in tests" } else { "" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn edge(from: &str, to: &str, only_in_tests: bool) -> Edge {
        Edge { from: from.into(), to: to.into(), only_in_tests }
    }

    /// Guards the reason for having crates at all.
    #[test]
    fn arrows_that_point_back_or_across_are_found() {
        let wrong = [
            edge("vmrewind-store", "vmrewind-qemu", false),
            edge("vmrewind-qemu", "vmrewind-store", true),
            edge("vmrewind-store", "vmrewind-engine", false),
            edge("vmrewind-cli", "vmrewind-qemu", false),
            edge("vmrewind-engine", "vmrewind-testkit", false),
            edge("vmrewind-new", "vmrewind-store", false),
        ];
        assert_eq!(check(&wrong).len(), wrong.len());
        let right = [
            edge("vmrewind-cli", "vmrewind-engine", false),
            edge("vmrewind-engine", "vmrewind-store", false),
            edge("vmrewind-engine", "vmrewind-testkit", true),
        ];
        assert_eq!(check(&right), []);
    }

    /// Guards reading cargo's answer: with no edge found, nothing would ever be wrong.
    #[test]
    fn edges_are_read_from_cargo_metadata() {
        let metadata = json!({ "packages": [{ "name": "vmrewind-store", "dependencies": [
            { "name": "serde", "kind": null },
            { "name": "vmrewind-qemu", "kind": null, "path": "/x" },
            { "name": "vmrewind-testkit", "kind": "dev", "path": "/y" },
        ] }] });
        let expected = [
            edge("vmrewind-store", "vmrewind-qemu", false),
            edge("vmrewind-store", "vmrewind-testkit", true),
        ];
        assert_eq!(edges(&metadata), expected);
    }
}
