//! Builds the initramfs: busybox, kernel modules, the workload, and the script that starts it.
//!
//! The archive is "newc" cpio, uncompressed (a few MiB, and booting is quicker so). Its layout is in the kernel's
//! `Documentation/driver-api/early-userspace/buffer-format.rst`: a header of ASCII hexadecimal fields, the name with
//! its NUL, padding to 4 bytes, the content, padding to 4 bytes; a record named `TRAILER!!!` ends it.

use std::collections::BTreeSet;
use std::fs;
use std::hash::Hash;
use std::path::{Path, PathBuf};

use super::agent::AgentFile;
use super::kernel::Kernel;
use crate::command::run;
use crate::error::{Error, Result};

/// Name of the archive in the folder it is built in.
pub(super) const FILE_NAME: &str = "initrd.cpio";

const INIT: &str = include_str!("../../guest/init");
const WORKLOAD: [(&str, &str); 7] = [
    ("main.rs", include_str!("../../guest/main.rs")),
    ("commands.rs", include_str!("../../guest/commands.rs")),
    ("disks.rs", include_str!("../../guest/disks.rs")),
    ("memory.rs", include_str!("../../guest/memory.rs")),
    ("power.rs", include_str!("../../guest/power.rs")),
    ("serial.rs", include_str!("../../guest/serial.rs")),
    ("source.rs", include_str!("../../guest/source.rs")),
];

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const LINK: u32 = 0o120_777;

/// Everything the archive is made from, for naming it.
pub(super) fn inputs(kernel: &Kernel) -> impl Hash + use<> {
    (INIT, WORKLOAD, include_str!("initramfs.rs"), include_str!("kernel.rs"), kernel.image.clone())
}

/// Builds the archive in `folder`, with the files of the guest agent where it is wanted.
pub(super) fn build(kernel: &Kernel, agent: &[AgentFile], folder: &Path) -> Result<()> {
    let workload = compile_workload(folder)?;
    let busybox = find_busybox()?;
    let mut archive = Archive::default();
    for name in ["bin", "dev", "mnt", "mnt2", "modules", "proc", "run", "sys"] {
        archive.add(name, FOLDER, &[]);
    }
    archive.add("init", PROGRAM, INIT.as_bytes());
    archive.add("bin/busybox", PROGRAM, &fs::read(&busybox).map_err(Error::io("read", &busybox))?);
    archive.add("bin/sh", LINK, b"busybox");
    archive.add("bin/workload", PROGRAM, &fs::read(&workload).map_err(Error::io("read", &workload))?);
    for (number, module) in kernel.modules_in_order()?.iter().enumerate() {
        // The script loads them in the order of their names.
        archive.add(&format!("modules/{number:02}-{}.ko", module.name), PROGRAM, &module.content);
    }
    if !agent.is_empty() {
        // The agent refuses to set the clock where it could not set the hardware's too.
        archive.add("sbin", FOLDER, &[]);
        archive.add("sbin/hwclock", LINK, b"../bin/busybox");
    }
    for file in agent {
        archive.add_folders_of(&file.guest);
        archive.add(&file.guest, PROGRAM, &fs::read(&file.host).map_err(Error::io("read", &file.host))?);
    }
    let path = folder.join(FILE_NAME);
    fs::write(&path, archive.finish()).map_err(Error::io("write", path))
}

/// Compiles with plain `rustc`: under cargo it would wait for the lock of the cargo that runs the tests.
fn compile_workload(folder: &Path) -> Result<PathBuf> {
    for (name, content) in WORKLOAD {
        let path = folder.join(name);
        fs::write(&path, content).map_err(Error::io("write", path))?;
    }
    let program = folder.join("workload");
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    let source = folder.join("main.rs");
    let mut arguments =
        vec!["--edition=2024", "--crate-name=workload", "-O", "-Cpanic=abort", "-Cstrip=symbols"];
    let (source, output) = (source.to_string_lossy().into_owned(), format!("-o{}", program.display()));
    arguments.extend(["-Ctarget-feature=+crt-static", &source, &output]);
    run(&rustc, arguments)?;
    Ok(program)
}

fn find_busybox() -> Result<PathBuf> {
    let candidates = ["/bin/busybox", "/usr/bin/busybox"].map(PathBuf::from);
    let found = candidates.into_iter().find(|path| path.is_file());
    found.ok_or_else(|| Error::Missing { what: "busybox".into(), searched: "/bin".into() })
}

/// A "newc" archive being written.
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    records: u32,
    folders: BTreeSet<String>,
}

impl Archive {
    fn add(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.records += 1;
        let length = u32::try_from(content.len()).unwrap_or(u32::MAX);
        let name_length = u32::try_from(name.len() + 1).unwrap_or(u32::MAX);
        // inode, mode, uid, gid, links, mtime, size, device (2), its own device (2), length of the name, check
        let fields = [self.records, mode, 0, 0, 1, 0, length, 0, 0, 0, 0, name_length, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    /// Adds the folders above `name` that are not there yet: the kernel makes none by itself.
    fn add_folders_of(&mut self, name: &str) {
        for (at, _) in name.match_indices('/') {
            if self.folders.insert(name[..at].to_owned()) {
                self.add(&name[..at], FOLDER, &[]);
            }
        }
    }

    fn finish(mut self) -> Vec<u8> {
        self.add("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    /// Guards the archive format against another reader of it: a wrong padding is a kernel panic without a cause.
    #[test]
    fn busybox_reads_the_archive() {
        let mut archive = Archive::default();
        archive.add("bin", FOLDER, &[]);
        archive.add("bin/five", PROGRAM, b"12345");
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.cpio"), archive.finish()).unwrap();
        let input = fs::File::open(folder.path().join("a.cpio")).unwrap();
        let status = Command::new(find_busybox().unwrap())
            .args(["cpio", "-i"])
            .current_dir(folder.path())
            .stdin(input)
            .stderr(Stdio::null())
            .status();
        assert!(status.unwrap().success());
        assert_eq!(fs::read(folder.path().join("bin/five")).unwrap(), b"12345");
    }
}
