//! The command `vmrewind`, run as a user runs it, with `--json`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;

use crate::outcome::{Outcome, context};

/// A program and the root that it works on.
pub(crate) struct Program {
    path: PathBuf,
    root: PathBuf,
}

impl Program {
    /// The program at `path`, working on `root`, which it makes itself.
    pub(crate) fn new(path: &Path, root: PathBuf) -> Self {
        Self { path: path.into(), root }
    }

    /// The root.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Runs a command and returns its document.
    ///
    /// # Errors
    /// Where it can't be run, fails, or prints something else.
    pub(crate) fn run<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Outcome<Value> {
        self.run_watched(arguments).map(|(document, _)| document)
    }

    /// The same; gives the most memory that the process had too, in bytes.
    ///
    /// # Errors
    /// As for `run`.
    pub(crate) fn run_watched<'a>(
        &self,
        arguments: impl IntoIterator<Item = &'a str>,
    ) -> Outcome<(Value, u64)> {
        let arguments: Vec<_> = arguments.into_iter().collect();
        let shown = format!("vmrewind {}", arguments.iter().take(4).copied().collect::<Vec<_>>().join(" "));
        let cannot = || format!("cannot run '{}'", self.path.display());
        let child = Command::new(&self.path)
            .arg("--root")
            .arg(&self.root)
            .args(["--json", "-y"])
            .args(&arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(context(cannot))?;
        let peak = watch_memory(child.id());
        let output = child.wait_with_output().map_err(context(cannot))?;
        let peak_bytes = peak.join().unwrap_or(0);
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(format!("`{shown}` ended with {}: {said}", output.status).into());
        }
        let document = serde_json::from_slice(&output.stdout)
            .map_err(context(|| format!("`{shown}` printed no JSON document")))?;
        Ok((document, peak_bytes))
    }
}

/// Looks at a process's high-water mark until it ends, which it has to before its status is taken.
fn watch_memory(pid: u32) -> JoinHandle<u64> {
    const EVERY: Duration = Duration::from_millis(2);
    std::thread::spawn(move || {
        let mut most_bytes = 0;
        // A process that has ended has no such line any more.
        while let Some(bytes) = high_water_mark(pid) {
            most_bytes = bytes.max(most_bytes);
            std::thread::sleep(EVERY);
        }
        most_bytes
    })
}

fn high_water_mark(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

/// Builds the program of this tree for release, and returns where it is: beside this program.
///
/// # Errors
/// Where it doesn't build.
pub(crate) fn built_program() -> Outcome<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--quiet", "--release", "--package", "vmrewind-cli", "--bin", "vmrewind"])
        .current_dir(package_folder())
        .status()
        .map_err(context(|| "cannot run cargo; or give a program with --program".into()))?;
    if !status.success() {
        return Err("vmrewind does not build; or give a program with --program".into());
    }
    let own = std::env::current_exe()?;
    let path = own.with_file_name("vmrewind");
    if path.is_file() { Ok(path) } else { Err(format!("there is no '{}'", path.display()).into()) }
}

/// The folder of this package.
pub(crate) fn package_folder() -> PathBuf {
    // Set by `cargo run`, also where the tree has moved since this was built.
    std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards the figure of memory: it is that of the process, while it lives.
    #[test]
    fn the_high_water_mark_is_read_from_the_kernel() {
        assert!(high_water_mark(std::process::id()).is_some_and(|bytes| bytes > 1 << 20));
        assert_eq!(high_water_mark(u32::MAX), None);
    }

    /// Guards reports: a failed round must say which command failed, and in the program's own words.
    #[test]
    fn a_failure_is_told_in_the_programs_words() {
        let run = |program: &str| Program::new(Path::new(program), "/nowhere".into()).run(["vm", "list"]);
        let error = crate::outcome::chain(run("/nowhere/vmrewind").unwrap_err().as_ref());
        assert!(error.contains("cannot run '/nowhere/vmrewind': "), "{error}");
        // ls refuses the option --root, as any program refuses what it doesn't know.
        let error = run("ls").unwrap_err().to_string();
        assert!(error.contains("`vmrewind vm list` ended with") && error.contains("--root"), "{error}");
        let error = run("echo").unwrap_err().to_string();
        assert_eq!(error, "`vmrewind vm list` printed no JSON document");
    }
}
