//! The top-level modules of a crate have an order: none reaches, over others, back to itself.
//!
//! A knot is a set of modules that all reach each other by `crate::module` or a `super::` path of the same meaning, in
//! code that is shipped. Within one, no module can be read, tested or changed without all the others. The knots that
//! are left are listed in [`KNOTS`], which only gets shorter: a new one is refused, and so is an entry that is untied.

mod arrows;
mod components;

use std::collections::{BTreeMap, BTreeSet};

use super::tree::{Finding, Tree};
use arrows::Arrows;

/// Crate, and modules that are still knotted with each other. Take a module out as soon as tidy says that it is free.
const KNOTS: &[(&str, &[&str])] = &[];

/// How many files a message names for one arrow.
const NAMED: usize = 3;

/// Finds knots that are not listed, and listed modules that are free.
pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    against(KNOTS, &crates(tree))
}

/// One line for each crate: modules, arrows between them, knots.
pub(super) fn report(tree: &Tree) -> Vec<String> {
    crates(tree).iter().map(|(name, arrows)| described(name, arrows)).collect()
}

fn described(name: &str, arrows: &Arrows) -> String {
    let (modules, between) = (arrows.modules.len(), arrows.between.len());
    let knots: Vec<_> = knots(arrows).iter().map(|knot| format!("{} ({})", knot.len(), list(knot))).collect();
    let knots =
        if knots.is_empty() { "no knot".to_owned() } else { format!("knot of {}", knots.join(", of ")) };
    format!("{name}: {modules} modules, {between} arrows, {knots}")
}

/// The arrows of each crate, by the crate's folder.
fn crates(tree: &Tree) -> BTreeMap<String, Arrows> {
    let mut sources: BTreeMap<String, BTreeMap<&str, &str>> = BTreeMap::new();
    for (path, text) in tree.rust("crates/") {
        if let Some((name, inside)) = path["crates/".len()..].split_once("/src/") {
            sources.entry(name.to_owned()).or_default().insert(inside, text);
        }
    }
    sources.into_iter().map(|(name, files)| (name, Arrows::of(&files))).collect()
}

fn against(listed: &[(&str, &[&str])], crates: &BTreeMap<String, Arrows>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, arrows) in crates {
        let knots = knots(arrows);
        let of_crate = listed.iter().filter(|(of, _)| of == name).map(|(_, modules)| *modules);
        let listed: Vec<BTreeSet<&str>> = of_crate.map(|modules| modules.iter().copied().collect()).collect();
        let place = format!("crates/{name}/src");
        for knot in knots.iter().filter(|knot| !listed.iter().any(|listed| knot.is_subset(listed))) {
            findings.push(Finding::error(&place, new_knot(arrows, knot)));
        }
        let free = |module: &&&str| !knots.iter().any(|knot| knot.contains(**module));
        for module in listed.iter().flatten().filter(free) {
            findings.push(Finding::error(
                &place,
                format!("{module} is knotted with no module any more: take it out of KNOTS ({})", file!()),
            ));
        }
    }
    let unknown = listed.iter().filter(|(name, _)| !crates.contains_key(*name));
    findings.extend(unknown.map(|(name, _)| Finding::error(file!(), format!("there is no crate {name}"))));
    findings
}

/// Says what the knot is, and in which files each of its arrows is.
fn new_knot(arrows: &Arrows, knot: &BTreeSet<&str>) -> String {
    let within =
        arrows.between.iter().filter(|((from, to), _)| knot.contains(&**from) && knot.contains(&**to));
    let lines: Vec<_> = within
        .map(|((from, to), files)| {
            let named: Vec<_> = files.iter().take(NAMED).map(String::as_str).collect();
            let more = files.len().saturating_sub(NAMED);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            format!("\n    {from} -> {to}: {}{more}", named.join(", "))
        })
        .collect();
    format!(
        "{} reach each other, so they have no order; one of these has to go:{}",
        list(knot),
        lines.concat()
    )
}

fn knots(arrows: &Arrows) -> Vec<BTreeSet<&str>> {
    let edges = arrows.between.keys().map(|(from, to)| (from.as_str(), to.as_str()));
    components::knots(edges.collect())
}

fn list(modules: &BTreeSet<&str>) -> String {
    modules.iter().copied().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::tree::Tree;

    fn tree() -> Tree {
        Tree::of(&[
            ("crates/a/src/lib.rs", "mod one; mod two; mod three;"),
            ("crates/a/src/one.rs", "use crate::two::Two;"),
            ("crates/a/src/two/mod.rs", "use crate::three::Three;"),
            ("crates/a/src/two/deep.rs", "use super::super::one::One;"),
            ("crates/a/src/three.rs", "// crate::one\n#[cfg(test)]\nmod tests { use crate::one::One; }"),
        ])
    }

    /// Guards the order of modules: a way back is found wherever it goes through, and its arrows are named.
    #[test]
    fn modules_that_reach_each_other_are_found() {
        let found = against(&[], &crates(&tree()));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].place, "crates/a/src");
        assert_eq!(
            found[0].message,
            "one, two reach each other, so they have no order; one of these has to go:\
             \n    one -> two: one.rs\n    two -> one: two/deep.rs"
        );
    }

    /// Guards the list: it allows what it names, together, and nothing that is untied.
    #[test]
    fn the_list_only_gets_shorter() {
        let crates = crates(&tree());
        let messages = |listed: &[(&str, &[&str])]| {
            against(listed, &crates).into_iter().map(|finding| finding.message).collect::<Vec<_>>()
        };
        assert_eq!(messages(&[("a", &["one", "two"])]), [] as [String; 0]);
        let [message] = &messages(&[("a", &["one", "two", "three"])])[..] else { panic!("one finding") };
        assert!(message.starts_with("three is knotted with no module any more"), "{message}");
        assert_eq!(messages(&[("a", &["one"])]).len(), 1, "the knot is larger than the list says");
        assert_eq!(messages(&[("a", &["one", "two"]), ("b", &["x"])]), ["there is no crate b"]);
    }

    /// Guards the numbers that show whether it gets better.
    #[test]
    fn modules_arrows_and_knots_are_counted() {
        assert_eq!(report(&tree()), ["a: 3 modules, 3 arrows, knot of 2 (one, two)"]);
        let straight = Tree::of(&[("crates/a/src/lib.rs", ""), ("crates/a/src/one.rs", "")]);
        assert_eq!(report(&straight), ["a: 1 modules, 0 arrows, no knot"]);
    }
}
