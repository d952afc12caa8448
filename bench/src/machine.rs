//! The machine a figure was measured on: without it a figure means nothing.

use std::fmt;
use std::path::Path;
use std::process::Command;

use serde::Serialize;
use vmrewind_qemu::arch::Arch;

use crate::outcome::{Outcome, context};

/// What a reader of a figure has to know of the machine, and how busy it was before the first round.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Machine {
    /// Processors that this process may use.
    pub(crate) cores: usize,
    /// Their name.
    pub(crate) processor: String,
    /// Memory, in bytes.
    pub(crate) ram_bytes: u64,
    /// Linux's release.
    pub(crate) kernel: String,
    /// QEMU's version line.
    pub(crate) qemu: String,
    /// The file system measured on.
    pub(crate) file_system: String,
    /// Load average of 1, 5 and 15 minutes.
    pub(crate) load: String,
}

impl Machine {
    /// Looks at this machine; figures will be taken in `dir`.
    ///
    /// # Errors
    /// Where there is no QEMU, or no folder `dir`.
    pub(crate) fn look(dir: &Path) -> Outcome<Self> {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let version = Command::new(Arch::host().program)
            .arg("--version")
            .output()
            .map_err(context(|| "cannot run QEMU: `./x setup` installs it".into()))?;
        let version = String::from_utf8_lossy(&version.stdout).lines().next().unwrap_or_default().to_owned();
        let statistics = rustix::fs::statfs(dir)
            .map_err(context(|| format!("cannot look at the file system of '{}'", dir.display())))?;
        Ok(Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            processor: field(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| "unknown".into()),
            ram_bytes: field(&read("/proc/meminfo"), "MemTotal")
                .and_then(|text| kibibytes(&text))
                .unwrap_or(0),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            qemu: version,
            file_system: file_system_name(u64::from_ne_bytes(statistics.f_type.to_ne_bytes())),
            load: read("/proc/loadavg").split(' ').take(3).collect::<Vec<_>>().join(" "),
        })
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cores, processor, ram_bytes, kernel, qemu, file_system, load } = self;
        let gibibytes = ram_bytes >> 30;
        write!(
            f,
            "{cores} cores ({processor}), {gibibytes} GiB RAM, Linux {kernel}, {qemu}, accelerator TCG, files on \
             {file_system}, load average before: {load}"
        )
    }
}

/// The value of `name : value`, at its first place.
fn field(text: &str, name: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    })
}

/// Bytes of `N kB` as /proc/meminfo writes it.
fn kibibytes(text: &str) -> Option<u64> {
    Some(text.strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

/// Magic numbers of statfs(2).
fn file_system_name(magic: u64) -> String {
    match magic {
        0xef53 => "ext4".into(),
        0x5846_5342 => "xfs".into(),
        0x9123_683e => "btrfs".into(),
        0x0102_1994 => "tmpfs (in memory: not what a disk does)".into(),
        0x794c_7630 => "overlayfs".into(),
        0x2fc1_2fc1 => "zfs".into(),
        other => format!("file system {other:#x}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards the machine line: a figure under a wrong one misleads.
    #[test]
    fn the_kernels_tables_are_read_right() {
        let text =
            "MemFree:  1 kB\nMemTotal:       24607720 kB\nmodel name\t: A CPU: fast\nmodel name\t: B\n";
        assert_eq!(field(text, "MemTotal").and_then(|text| kibibytes(&text)), Some(24_607_720 << 10));
        assert_eq!(field(text, "model name").as_deref(), Some("A CPU: fast"));
        assert_eq!(field(text, "nothing"), None);
        assert_eq!(file_system_name(0xef53), "ext4");
        assert_eq!(file_system_name(7), "file system 0x7");
    }
}
