//! Which nodes of a graph reach each other.

use std::collections::{BTreeMap, BTreeSet};

/// The sets of at least two nodes that all reach each other by `edges`, each as large as it can be.
pub(super) fn knots<'a>(edges: BTreeSet<(&'a str, &'a str)>) -> Vec<BTreeSet<&'a str>> {
    let mut next: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (from, to) in edges {
        next.entry(from).or_default().insert(to);
    }
    let reach: BTreeMap<&str, BTreeSet<&str>> =
        next.keys().map(|node| (*node, reached(&next, node))).collect();
    let together = |a: &str, b: &str| {
        let reaches = |from: &str, to: &str| reach.get(from).is_some_and(|found| found.contains(to));
        reaches(a, b) && reaches(b, a)
    };
    let sets = reach.keys().map(|node| reach.keys().copied().filter(|other| together(node, other)).collect());
    let sets: BTreeSet<BTreeSet<&str>> = sets.filter(|set: &BTreeSet<&str>| set.len() > 1).collect();
    sets.into_iter().collect()
}

fn reached<'a>(next: &BTreeMap<&'a str, BTreeSet<&'a str>>, start: &str) -> BTreeSet<&'a str> {
    let mut found = BTreeSet::new();
    let mut waiting = vec![start];
    while let Some(node) = waiting.pop() {
        for to in next.get(node).into_iter().flatten() {
            if found.insert(*to) {
                waiting.push(to);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards against two circles being taken for one, and a way out of a circle for a part of it.
    #[test]
    fn circles_are_found_apart_and_whole() {
        let edges =
            [("a", "b"), ("b", "c"), ("c", "a"), ("c", "d"), ("d", "e"), ("e", "d"), ("e", "f"), ("g", "a")];
        let expected = [BTreeSet::from(["a", "b", "c"]), BTreeSet::from(["d", "e"])];
        assert_eq!(knots(edges.into()), expected);
        assert_eq!(knots([("a", "b"), ("b", "c")].into()), [] as [BTreeSet<&str>; 0]);
    }
}
