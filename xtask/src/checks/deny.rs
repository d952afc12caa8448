//! The rules of `deny.toml`: libraries, licences and where they come from.

use crate::steps::{Outcome, cargo, cargo_command};

/// What is asked of every library, whatever the network says. An exception that nobody needs any more is refused too.
const RULES: [&str; 10] = [
    "deny",
    "--workspace",
    "check",
    "-D",
    "unmatched-skip",
    "-D",
    "unnecessary-skip",
    "bans",
    "licenses",
    "sources",
];

/// Holds the lock file against `deny.toml`, and against the list of known holes where that can be had.
pub(crate) fn run() -> Outcome {
    if !cargo_command(&["deny", "--version"]).output()?.status.success() {
        return Err(
            "cargo-deny is not installed, so deny.toml can't be checked: `./x setup` installs it".into()
        );
    }
    cargo(RULES)?;
    advisories()
}

fn advisories() -> Outcome {
    let fetched = cargo_command(&["deny", "fetch", "db"]).output()?;
    if fetched.status.success() {
        return cargo(["deny", "--workspace", "check", "--disable-fetch", "advisories"]);
    }
    println!("advisories: NOT checked, their database can't be fetched: {}", reason(&fetched.stderr));
    Ok(())
}

/// The line of cargo-deny, or of the git that it ran, that tells most.
fn reason(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let line = text.lines().rev().find(|line| line.starts_with("fatal:")).or_else(|| text.lines().next());
    line.unwrap_or("it did not say why").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards the line that tells why a check was left out.
    #[test]
    fn the_reason_is_the_line_that_tells_most() {
        let git =
            b"[ERROR] failed to fetch\nCloning into 'x'...\nfatal: unable to access 'y': no such host\n";
        assert_eq!(reason(git), "fatal: unable to access 'y': no such host");
        assert_eq!(reason(b"[ERROR] no git\n"), "[ERROR] no git");
        assert_eq!(reason(b""), "it did not say why");
    }
}
