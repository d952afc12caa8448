//! Whether the code is right for 64-bit ARM: checked by the compiler for that target, built and run nowhere here.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::steps::{Outcome, cargo};

const TARGET: &str = "aarch64-unknown-linux-gnu";
/// What the C parts of blake3 and zstd are compiled with, also where Rust is only checked.
const C_COMPILER: &str = "aarch64-linux-gnu-gcc";
const C_COMPILER_VARIABLE: &str = "CC_aarch64_unknown_linux_gnu";

/// Checks everything for [`TARGET`], where its standard library and a C compiler for it are installed.
pub(crate) fn run() -> Outcome {
    if let Some(missing) = missing() {
        println!("{TARGET}: NOT checked: {missing}");
        return Ok(());
    }
    cargo(["check", "--workspace", "--all-targets", "--target", TARGET])
}

fn missing() -> Option<String> {
    if !has_library() {
        return Some(format!("this Rust has no standard library for it (rustup target add {TARGET})"));
    }
    let runs = |program: &str| {
        let probe =
            Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        probe.is_ok_and(|status| status.success())
    };
    let has_compiler = std::env::var_os(C_COMPILER_VARIABLE).is_some() || runs(C_COMPILER);
    (!has_compiler)
        .then(|| format!("there is no {C_COMPILER} for the C parts of libraries (`./x setup` installs it)"))
}

/// Asks the compiler that cargo will use: `RUSTC` may name one with more targets than rustup's.
fn has_library() -> bool {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).args(["--print", "target-libdir", "--target", TARGET]).output();
    output.is_ok_and(|output| {
        output.status.success() && holds_core(Path::new(String::from_utf8_lossy(&output.stdout).trim()))
    })
}

/// The compiler names the folder whether it is there or not.
fn holds_core(folder: &Path) -> bool {
    let names = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.file_name());
    names.into_iter().any(|name| name.to_string_lossy().starts_with("libcore-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards against a folder that is only named, or empty, counting as a standard library.
    #[test]
    fn a_standard_library_is_a_folder_with_core_in_it() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!holds_core(folder.path()) && !holds_core(&folder.path().join("none")));
        std::fs::write(folder.path().join("libcore-0.rlib"), "").unwrap();
        assert!(holds_core(folder.path()));
    }
}
