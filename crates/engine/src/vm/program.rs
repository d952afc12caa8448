//! What must be known of a QEMU program before it is used: its version and its machine types.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use vmrewind_qemu::arch::Arch;

use crate::error::{Error, Result, ToolError};
use crate::hint::Hint;

/// The oldest QEMU that is supported.
const OLDEST: (u32, u32) = (7, 2);

/// A QEMU program.
#[derive(Debug)]
pub(crate) struct Program {
    /// Its version, as `10.0.2`.
    pub(crate) version: String,
    /// Its machine types.
    pub(crate) machines: Machines,
}

/// The machine types of a QEMU program, as `-machine help` lists them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Machines {
    /// Alias and versioned name.
    aliases: Vec<(String, String)>,
}

/// Asks the program.
///
/// # Errors
/// `Failed` where it can't be run, or is too old.
pub(crate) fn ask(program: &str, working_dir: &Path) -> Result<Program> {
    let banner = run(program, &["--version"], working_dir)?;
    let version = parse_version(&banner).ok_or_else(|| {
        Error::failed(format!("'{program}' does not say which version of QEMU it is"))
            .with_hint(Hint::EmulatorWanted { example: Arch::host().program })
    })?;
    if (version.0, version.1) < OLDEST {
        return Err(Error::failed(format!(
            "'{program}' is QEMU {}.{}.{}, which is not supported",
            version.0, version.1, version.2
        ))
        .with_hint(Hint::NewerQemu { major: OLDEST.0, minor: OLDEST.1 }));
    }
    let machines = parse_machines(&run(program, &["-machine", "help"], working_dir)?);
    Ok(Program { version: format!("{}.{}.{}", version.0, version.1, version.2), machines })
}

fn run(program: &str, arguments: &[&str], working_dir: &Path) -> Result<String> {
    let package = Arch::of_program(program).unwrap_or_else(Arch::host).package;
    let output = Command::new(program)
        .args(arguments)
        .current_dir(working_dir)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| {
            Error::failed(format!("cannot run '{program}'"))
                .with_hint(Hint::EmulatorMissing { package })
                .because(error)
        })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::failed(format!("'{program} {}' failed", arguments.join(" "))).because(ToolError(words)))
}

fn parse_version(banner: &str) -> Option<(u32, u32, u32)> {
    let version = banner.lines().find_map(|line| line.strip_prefix("QEMU emulator version "))?;
    let mut numbers = version.split([' ', '(']).next()?.split('.').map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??, numbers.next().flatten().unwrap_or(0)))
}

/// Lines are `NAME   DESCRIPTION (alias of VERSIONED) (default)`.
fn parse_machines(help: &str) -> Machines {
    let alias = |line: &str| {
        let name = line.split_ascii_whitespace().next()?;
        let versioned = line.split_once("(alias of ")?.1.split_once(')')?.0;
        Some((name.to_owned(), versioned.to_owned()))
    };
    Machines { aliases: help.lines().filter_map(alias).collect() }
}

impl Machines {
    /// The versioned machine type behind an alias.
    pub(crate) fn resolve(&self, alias: &str) -> Option<String> {
        self.aliases.iter().find(|(name, _)| name == alias).map(|(_, versioned)| versioned.clone())
    }
}

/// Whether this QEMU can use KVM here: it starts an empty machine with it.
pub(crate) fn kvm_works(program: &str) -> bool {
    let commands = "{\"execute\":\"qmp_capabilities\"}\n{\"execute\":\"quit\"}\n";
    let child = Command::new(program)
        .args(["-machine", "none", "-accel", "kvm", "-nodefaults", "-display", "none", "-qmp", "stdio"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut child) = child else { return false };
    if let Some(mut input) = child.stdin.take() {
        let _ = input.write_all(commands.as_bytes());
    }
    child.wait().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        let version = |text| parse_version(text);
        assert_eq!(
            version("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)\nCopyright"),
            Some((10, 0, 2))
        );
        assert_eq!(version("QEMU emulator version 6.2.0\n"), Some((6, 2, 0)));
        assert_eq!(version("QEMU emulator version 9.1\n"), Some((9, 1, 0)));
        assert_eq!(version("bash, version 5.2"), None);
    }

    /// A VM must keep its machine type when QEMU is updated: aliases are resolved once, at create.
    #[test]
    fn aliases() {
        let help = "Supported machines are:\nmicrovm   microvm (i386)\n\
            pc      Standard PC (i440FX + PIIX, 1996) (alias of pc-i440fx-10.0)\n\
            pc-i440fx-10.0 Standard PC (i440FX + PIIX, 1996) (default)\n\
            q35     Standard PC (Q35 + ICH9, 2009) (alias of pc-q35-10.0)\n";
        let machines = parse_machines(help);
        assert_eq!(machines.resolve("q35").as_deref(), Some("pc-q35-10.0"));
        assert_eq!(machines.resolve("pc").as_deref(), Some("pc-i440fx-10.0"));
        assert_eq!(machines.resolve("microvm"), None);
    }
}
