//! Checks the programs of QEMU: that they are there, and not too old.

use std::process::{Command, Stdio};

use super::report::{Check, Status};

/// The oldest QEMU that is supported.
const OLDEST: (u32, u32) = (7, 2);

/// A program to look for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Program {
    /// Its name.
    pub(super) name: &'static str,
    /// Debian's and Ubuntu's package of it.
    pub(super) package: &'static str,
    /// Whether vmrewind can't work without it.
    pub(super) needed: bool,
}

/// Looks for a program in the search path and asks it for its version.
pub(super) fn check(program: Program) -> Check {
    let bad = if program.needed { Status::Missing } else { Status::Warning };
    let install = format!("install it (Debian and Ubuntu: package {})", program.package);
    let output = match Command::new(program.name).arg("--version").stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => output,
        Ok(output) => {
            let words = String::from_utf8_lossy(&output.stderr);
            let words = words.lines().next().unwrap_or("it fails").to_owned();
            return Check::bad(program.name, bad, words, "it does not work: install it anew");
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Check::bad(program.name, bad, "not installed", install);
        }
        Err(error) => return Check::bad(program.name, bad, error.to_string(), install),
    };
    let banner = String::from_utf8_lossy(&output.stdout).into_owned();
    match version(&banner) {
        Some(version) if version.number >= OLDEST => Check::ok(program.name, version.text),
        Some(version) => {
            let hint = format!("use QEMU {}.{} or later", OLDEST.0, OLDEST.1);
            Check::bad(program.name, bad, format!("{} is too old", version.text), hint)
        }
        None => Check::bad(program.name, bad, "it does not say its version", install),
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Version {
    number: (u32, u32),
    text: String,
}

/// Finds `version X.Y.Z` in the first line, as all programs of QEMU write it.
fn version(banner: &str) -> Option<Version> {
    let after = banner.lines().next()?.split_once("version ")?.1;
    let text = after.split([' ', '(']).next()?;
    let mut parts = text.split('.').map(|part| part.parse().ok());
    Some(Version { number: (parts.next()??, parts.next()??), text: text.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        let number = |banner| version(banner).map(|version| version.number);
        assert_eq!(number("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)\n"), Some((10, 0)));
        assert_eq!(number("qemu-img version 7.2.22 (Debian 1:7.2+dfsg-7)\n"), Some((7, 2)));
        assert_eq!(number("qemu-storage-daemon version 6.2\n"), Some((6, 2)));
        assert_eq!(number("something else"), None);
    }
}
