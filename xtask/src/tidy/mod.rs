//! The rules of this repository that no compiler knows, each in a file of its own with a test of its failing case.
//!
//! A rule is a pure function from the [`Tree`] (all files, as text) to [`Finding`]s.

mod arrows;
mod commands;
mod headers;
mod knots;
mod lengths;
mod links;
mod lock;
mod machine;
mod sans_io;
mod tree;
mod unsafe_code;
mod words;

use crate::steps::{Outcome, metadata, workspace};
use tree::{Severity, Tree};

/// Checks every rule; fails where one is broken.
pub(crate) fn run() -> Outcome {
    println!("$ tidy");
    let tree = Tree::read(&workspace())?;
    let mut findings = arrows::check(&arrows::edges(&metadata()?));
    let rules = [
        commands::check,
        headers::check,
        knots::check,
        lengths::check,
        links::check,
        lock::check,
        machine::check,
        sans_io::check,
        unsafe_code::check,
        words::check,
    ];
    findings.extend(rules.iter().flat_map(|rule| rule(&tree)));
    knots::report(&tree).iter().for_each(|line| println!("{line}"));
    for finding in &findings {
        eprintln!("{finding}");
    }
    match findings.iter().filter(|finding| finding.severity == Severity::Error).count() {
        0 => Ok(()),
        broken => Err(format!("tidy: {broken} to put right").into()),
    }
}
