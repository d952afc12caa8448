//! The QEMU guest agent's program and the libraries it needs, from the package that `./x setup` unpacks.
//!
//! The package is never installed: its agent must not serve this machine's own hypervisor. Its libraries are those of
//! the machine, which QEMU needs too, found by `ldd`.

use std::hash::Hash;
use std::path::{Path, PathBuf};

use crate::command::run;
use crate::error::{Error, Result};

/// Where the guest finds the agent.
const GUEST_PATH: &str = "usr/sbin/qemu-ga";

/// A file of this machine for the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AgentFile {
    /// Its path on the host.
    pub(super) host: PathBuf,
    /// Its path in the guest, from the root, without the slash.
    pub(super) guest: String,
}

/// The agent, its libraries and the dynamic linker.
///
/// # Errors
/// [`Error::Missing`] without the package, or where a library is not installed.
pub(super) fn files(cache: &Path) -> Result<Vec<AgentFile>> {
    let missing = |what: &str| Error::Missing { what: what.to_owned(), searched: cache.join("agent") };
    let root = cache.join("agent").canonicalize().map_err(|_| missing("the guest agent"))?;
    let places = [GUEST_PATH, "usr/bin/qemu-ga"].map(|place| root.join(place));
    let host = places.into_iter().find(|path| path.is_file()).ok_or_else(|| missing("the guest agent"))?;
    let listed = run("ldd", [&host])?;
    let libraries = libraries(&String::from_utf8_lossy(&listed)).map_err(|name| missing(&name))?;
    let libraries = libraries
        .into_iter()
        .map(|path| AgentFile { guest: path.trim_start_matches('/').to_owned(), host: PathBuf::from(path) });
    Ok([AgentFile { host, guest: GUEST_PATH.into() }].into_iter().chain(libraries).collect())
}

/// What tells these files from others, for naming what is made from them.
pub(super) fn inputs(files: &[AgentFile]) -> impl Hash + use<> {
    let state = |file: &AgentFile| {
        let metadata = std::fs::metadata(&file.host).ok();
        let modified = metadata.as_ref().and_then(|metadata| metadata.modified().ok());
        (file.host.clone(), metadata.map(|metadata| metadata.len()), modified)
    };
    (include_str!("agent.rs"), files.iter().map(state).collect::<Vec<_>>())
}

/// The paths in what `ldd` prints: `NAME => PATH (ADDRESS)`, or `PATH (ADDRESS)` for the dynamic linker.
///
/// Fails with the name of a library that it did not find.
fn libraries(text: &str) -> std::result::Result<Vec<String>, String> {
    let mut paths = Vec::new();
    for line in text.lines() {
        let (name, path) = line.split_once(" => ").unwrap_or((line, line));
        if path.contains("not found") {
            return Err(name.trim().to_owned());
        }
        let path = path.split_whitespace().next().unwrap_or_default();
        if path.starts_with('/') {
            paths.push(path.to_owned());
        }
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards the guest against an agent that can't start: linker and libraries come along, the kernel's page does not.
    #[test]
    fn libraries_and_the_linker_are_found() {
        let text =
            "\tlinux-vdso.so.1 (0x0007)\n\tlibc.so.6 => /lib/libc.so.6 (0x07)\n\t/lib64/ld.so.2 (0x07)\n";
        assert_eq!(libraries(text).unwrap(), ["/lib/libc.so.6", "/lib64/ld.so.2"]);
        assert_eq!(libraries("\tlibnuma.so.1 => not found\n").unwrap_err(), "libnuma.so.1");
    }
}
