//! The command `vmrewind`, run as a user runs it, with `--json`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

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

    /// Runs a command and returns its document.
    ///
    /// # Errors
    /// Where it can't be run, fails, or prints something else.
    pub(crate) fn run<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Outcome<Value> {
        let arguments: Vec<_> = arguments.into_iter().collect();
        let shown = format!("vmrewind {}", arguments.iter().take(4).copied().collect::<Vec<_>>().join(" "));
        let output = Command::new(&self.path)
            .arg("--root")
            .arg(&self.root)
            .args(["--json", "-y"])
            .args(&arguments)
            .stdin(Stdio::null())
            .output()
            .map_err(context(|| format!("cannot run '{}'", self.path.display())))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(format!("`{shown}` ended with {}: {said}", output.status).into());
        }
        serde_json::from_slice(&output.stdout)
            .map_err(context(|| format!("`{shown}` printed no JSON document")))
    }
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
