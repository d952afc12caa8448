//! Fuzzes the decoders for a while: `./x fuzz` and `./x test --long`. What must hold is in `fuzz/targets.rs`.
//!
//! The fuzzer begins with the committed corpus and writes what it finds beside it, below `fuzz/target`. An input that
//! breaks a target is named; made small, it goes into the corpus, whose replay is an ordinary test.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::steps::{Outcome, cargo_command, workspace};

/// Seeds that tests keep elsewhere, as they are too large to keep twice.
const MORE_SEEDS: [(&str, &str); 1] = [("migration_stream", "crates/qemu/tests/data/streams")];
/// The longest input tried, in bytes: of what these decoders read, nothing new begins beyond that.
const INPUT_MAX: usize = 128 << 10;

/// Fuzzes `only` or, without, every target for that long each.
pub(crate) fn run(only: Option<&str>, seconds: u32) -> Outcome {
    if !cargo_command(&["fuzz", "--version"]).output()?.status.success() {
        return Err("cargo-fuzz is not installed: `./x test --long` installs it".into());
    }
    let targets = targets()?;
    let chosen: Vec<&str> =
        targets.iter().map(String::as_str).filter(|target| only.is_none_or(|only| only == *target)).collect();
    if chosen.is_empty() {
        return Err(format!("there is no such target; there are: {}", targets.join(", ")).into());
    }
    let sanitizer = if has_address_sanitizer() { "address" } else { "none" };
    println!("fuzzing {} targets for {seconds} s each, sanitizer: {sanitizer}", chosen.len());
    let mut broken = Vec::new();
    for target in chosen {
        let log = fuzz_one(target, sanitizer, seconds)?;
        println!("{target}: {}", log.said);
        if !log.held {
            broken.push(format!("{target} ({})", log.path.display()));
        }
    }
    if broken.is_empty() { Ok(()) } else { Err(format!("fuzzing broke: {}", broken.join(", ")).into()) }
}

/// Every target is a program in `fuzz/fuzz_targets`.
fn targets() -> Outcome<Vec<String>> {
    let names = fs::read_dir(workspace().join("fuzz/fuzz_targets"))?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().trim_end_matches(".rs").to_owned()));
    let mut names = names.collect::<std::io::Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

/// What one run came to.
struct Log {
    path: PathBuf,
    held: bool,
    said: String,
}

fn fuzz_one(target: &str, sanitizer: &str, seconds: u32) -> Outcome<Log> {
    let out = workspace().join("fuzz/target/found").join(target);
    fs::create_dir_all(&out)?;
    let path = out.with_extension("log");
    let status = command(target, &out, sanitizer, seconds)
        .stdout(File::create(&path)?)
        .stderr(File::options().append(true).open(&path)?)
        .status()?;
    let text = String::from_utf8_lossy(&fs::read(&path)?).into_owned();
    Ok(Log { path, held: status.success(), said: summary(&text) })
}

fn command(target: &str, out: &Path, sanitizer: &str, seconds: u32) -> Command {
    let mut command = cargo_command(&["fuzz", "run", "--sanitizer", sanitizer, target]);
    command.arg(out).arg(Path::new("fuzz/corpus").join(target));
    command.args(MORE_SEEDS.iter().filter(|(of, _)| *of == target).map(|(_, folder)| folder));
    command.arg("--").args([
        format!("-max_total_time={seconds}"),
        format!("-max_len={INPUT_MAX}"),
        "-timeout=20".into(),
        "-rss_limit_mb=2048".into(),
    ]);
    // The flags that make a program fuzzable are not stable; the language of the code stays the stable one.
    command.env("RUSTC_BOOTSTRAP", "1");
    command
}

/// The line that counts the executions; where there is none, the last ones, which tell why.
fn summary(log: &str) -> String {
    let done = log.lines().rev().find(|line| line.starts_with("Done "));
    done.map_or_else(
        || {
            let lines: Vec<_> = log.lines().collect();
            format!("broke:\n{}", lines[lines.len().saturating_sub(30)..].join("\n"))
        },
        str::to_owned,
    )
}

fn has_address_sanitizer() -> bool {
    let output = Command::new("rustc").args(["--print", "target-libdir"]).output();
    let folder = output.map(|output| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    let names = folder.and_then(fs::read_dir).into_iter().flatten().flatten().map(|entry| entry.file_name());
    names.into_iter().any(|name| name.to_string_lossy().ends_with("_rt.asan.a"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards what a person sees: how much was tried, or why it ended.
    #[test]
    fn a_log_is_summed_up_by_its_count_or_its_end() {
        assert_eq!(summary("#1 INITED\nDone 812 runs in 61 second(s)\n"), "Done 812 runs in 61 second(s)");
        let crash = format!("{}==1== ERROR: deadly signal\n", "#2 NEW\n".repeat(50));
        let said = summary(&crash);
        assert!(said.ends_with("deadly signal") && said.lines().count() == 31, "{said}");
    }
}
