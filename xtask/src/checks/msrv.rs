//! The oldest Rust that builds this, `rust-version` in `Cargo.toml`.
//!
//! Three things keep that promise: clippy's `incompatible_msrv` finds younger parts of std (a lint of the workspace),
//! every locked library must say that it is for that Rust or an older one, and where the toolchain itself is
//! installed, it builds everything.

use std::process::Command;

use serde_json::Value;

use crate::steps::{Outcome, metadata, metadata_of_all, run_shown, workspace};

/// A version of Rust: 1.88 is 1.88.0.
type Version = [u32; 3];

/// Holds the libraries, and with the toolchain the code, against the oldest Rust.
pub(crate) fn run() -> Outcome {
    let ours = metadata()?["packages"][0]["rust_version"]
        .as_str()
        .ok_or("Cargo.toml names no rust-version")?
        .to_owned();
    let oldest = version(&ours).ok_or("the rust-version of Cargo.toml is no version")?;
    let metadata = metadata_of_all()?;
    let libraries = Libraries::of(&metadata, oldest);
    println!(
        "rust-version {ours}: {} locked packages are for it or an older one, {} do not say",
        libraries.fit, libraries.silent
    );
    if !libraries.younger.is_empty() {
        return Err(format!("these need a younger Rust than {ours}: {}", libraries.younger.join(", ")).into());
    }
    build_with(&ours, oldest)
}

fn build_with(ours: &str, oldest: Version) -> Outcome {
    let listed = Command::new("rustup").args(["toolchain", "list"]).output();
    let listed =
        listed.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let Some(toolchain) = toolchain(&listed, oldest) else {
        println!(
            "rust-version {ours}: NOT built with it, as that toolchain is not installed (rustup toolchain install {ours}); \
             the lint incompatible_msrv has looked for younger parts of std"
        );
        return Ok(());
    };
    let mut cargo = Command::new("rustup");
    cargo.args(["run", toolchain, "cargo", "check", "--workspace", "--all-targets", "--locked"]);
    // Artefacts of two compilers in one folder would be built anew each time.
    cargo
        .current_dir(workspace())
        .env_remove("RUSTC")
        .env("CARGO_TARGET_DIR", workspace().join("target/msrv"));
    run_shown(&mut cargo)
}

/// How the locked libraries stand to the oldest Rust.
#[derive(Debug, Default, PartialEq, Eq)]
struct Libraries {
    fit: usize,
    silent: usize,
    younger: Vec<String>,
}

impl Libraries {
    /// Takes them out of what `cargo metadata` says.
    fn of(metadata: &Value, oldest: Version) -> Self {
        let mut found = Self::default();
        for package in metadata["packages"].as_array().into_iter().flatten() {
            match package["rust_version"].as_str().map(|text| (text, version(text))) {
                None => found.silent += 1,
                Some((_, Some(needed))) if needed <= oldest => found.fit += 1,
                Some((text, _)) => found.younger.push(format!(
                    "{} {} ({text})",
                    package["name"].as_str().unwrap_or("?"),
                    package["version"].as_str().unwrap_or("?")
                )),
            }
        }
        found
    }
}

fn version(text: &str) -> Option<Version> {
    let mut parts = [0; 3];
    let mut given = text.split('.');
    for (part, text) in parts.iter_mut().zip(given.by_ref()) {
        *part = text.parse().ok()?;
    }
    given.next().is_none().then_some(parts)
}

/// The toolchain of that minor version among those that `rustup toolchain list` names.
fn toolchain(listed: &str, [major, minor, _]: Version) -> Option<&str> {
    let names = listed.lines().filter_map(|line| line.split_whitespace().next());
    names.into_iter().find(|name| {
        let number = name.split('-').next().unwrap_or_default();
        number.contains('.') && version(number).is_some_and(|version| version[..2] == [major, minor])
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Guards the promise to those who have just that Rust: a library that needs more is named.
    #[test]
    fn libraries_for_a_younger_rust_are_found() {
        let package = |name: &str, needed: Option<&str>| json!({ "name": name, "version": "1.2.3", "rust_version": needed });
        let packages = [
            ("old", Some("1.70")),
            ("same", Some("1.88.0")),
            ("silent", None),
            ("young", Some("1.88.1")),
            ("odd", Some("x")),
        ];
        let packages: Vec<_> = packages.map(|(name, needed)| package(name, needed)).into();
        let found = Libraries::of(&json!({ "packages": packages }), [1, 88, 0]);
        let younger = vec!["young 1.2.3 (1.88.1)".to_owned(), "odd 1.2.3 (x)".to_owned()];
        assert_eq!(found, Libraries { fit: 2, silent: 1, younger });
    }

    /// Guards against another toolchain being taken for the oldest one.
    #[test]
    fn only_the_toolchain_of_that_version_counts() {
        let listed = "stable-x86_64-unknown-linux-gnu (active, default)\n1.95.0-x86_64-unknown-linux-gnu\n1.8.8-x\n1.88.0-x86_64\n";
        assert_eq!(toolchain(listed, [1, 88, 0]), Some("1.88.0-x86_64"));
        assert_eq!(toolchain("1.88-x86_64\n", [1, 88, 0]), Some("1.88-x86_64"));
        assert_eq!(toolchain("stable-x86_64\n1.89.0-x\n", [1, 88, 0]), None);
        assert_eq!(toolchain("", [1, 88, 0]), None);
    }
}
