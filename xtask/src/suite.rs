//! All that a change must pass, the quick checks first; the tests' own summary is the last line.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use crate::checks::{arm, deny, msrv};
use crate::fuzz;
use crate::steps::{Outcome, cargo, cargo_command, run_shown};
use crate::tidy;

/// How long each target is fuzzed.
pub(crate) const FUZZ_SECONDS: u32 = 60;
/// The usual number is 256.
const MANY_CASES: &str = "4096";
/// Without `store`, which compares with programs that only `./x bench store` installs.
const BENCHES: [&str; 3] = ["capture", "restore", "clone"];

/// Formatting, lints, the repository's own rules, what it is built from and for, then all tests.
pub(crate) fn everything() -> Outcome {
    cargo(["fmt", "--all", "--check"])?;
    lint()?;
    tidy::run()?;
    deny::run()?;
    msrv::run()?;
    arm::run()?;
    // Examples in docs: before the tests, so that the tests' summary stays the last line.
    cargo(["test", "--workspace", "--doc"])?;
    tests(&[])
}

/// What takes many minutes: random cases, smoke runs of the benches, fuzzing; then all that [`everything`] does.
pub(crate) fn long() -> Outcome {
    random_cases()?;
    for scenario in BENCHES {
        cargo(["run", "--release", "--package", "vmrewind-bench", "--", scenario, "--quick"])?;
    }
    fuzz::run(None, FUZZ_SECONDS)?;
    everything()
}

/// The tests of the crates with properties: those that have no number of cases of their own get many.
fn random_cases() -> Outcome {
    let packages =
        ["--package", "vmrewind-qemu", "--package", "vmrewind-store", "--package", "vmrewind-engine"];
    let arguments = [&["test", "--lib"][..], &packages].concat();
    run_shown(cargo_command(&arguments).env("PROPTEST_CASES", MANY_CASES))
}

/// Lints all code, tests included; a warning fails.
pub(crate) fn lint() -> Outcome {
    cargo(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])
}

/// Runs the tests, or those that `runner` (arguments for the test runner) selects.
pub(crate) fn tests(runner: &[String]) -> Outcome {
    // Tests run the program itself, from crates for which cargo would not build it.
    cargo(["build", "--workspace", "--bins"])?;
    let runner: Vec<&str> = runner.iter().map(String::as_str).collect();
    if has_nextest() {
        return cargo([&["nextest", "run", "--workspace"][..], &runner].concat());
    }
    println!("cargo-nextest is not installed: using cargo test, which has no time limits");
    let total = cargo_test(
        &[&["test", "--workspace", "--no-fail-fast", "--lib", "--bins", "--tests"][..], &runner].concat(),
    )?;
    println!("{} passed, {} failed", total.passed, total.failed);
    if total.succeeded { Ok(()) } else { Err("tests failed".into()) }
}

fn has_nextest() -> bool {
    let probe = cargo_command(&["nextest", "--version"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    probe.is_ok_and(|status| status.success())
}

/// What all test programs of one `cargo test` came to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Total {
    passed: u64,
    failed: u64,
    succeeded: bool,
}

fn cargo_test(arguments: &[&str]) -> Outcome<Total> {
    println!("$ cargo {}", arguments.join(" "));
    // Guests are heavy: two at a time, as nextest is told in .config/nextest.toml.
    let mut child = cargo_command(arguments).env("RUST_TEST_THREADS", "2").stdout(Stdio::piped()).spawn()?;
    let mut total = Total::default();
    for line in BufReader::new(child.stdout.take().ok_or("no output")?).lines() {
        let line = line?;
        println!("{line}");
        total.add(&line);
    }
    total.succeeded = child.wait()?.success();
    Ok(total)
}

impl Total {
    /// Adds the numbers of a line such as `test result: ok. 13 passed; 0 failed; 0 ignored; ...`.
    fn add(&mut self, line: &str) {
        let Some((_, numbers)) = line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". "))
        else {
            return;
        };
        for part in numbers.split("; ") {
            match part.split_once(' ') {
                Some((number, "passed")) => self.passed += number.parse::<u64>().unwrap_or(0),
                Some((number, "failed")) => self.failed += number.parse::<u64>().unwrap_or(0),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards the summary: the last line must count what every test program ran.
    #[test]
    fn counts_all_test_programs() {
        let mut total = Total::default();
        for line in [
            "test result: ok. 13 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.83s",
            "test a ... ok",
            "test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1s",
        ] {
            total.add(line);
        }
        assert_eq!(total, Total { passed: 15, failed: 1, succeeded: false });
    }
}
