//! Checks what the kernel and the file systems offer.

use std::fs::{self, OpenOptions};
use std::path::Path;

use rustix::fs::{Access, access};
use vmrewind_engine::Arch;

use super::report::{Check, Status};
use crate::session::Session;

/// The capability that allows userfaultfd for faults of the kernel (`linux/capability.h`).
const CAP_SYS_PTRACE: u32 = 19;

/// The root can be written, or made; where it is there, this vmrewind knows its format.
pub(super) fn root(session: &Session) -> Check {
    let path = match session.root() {
        Ok(path) => path,
        Err(error) => {
            return Check::bad("root", Status::Missing, error.to_string(), "give a folder with --root");
        }
    };
    let existing = path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/"));
    let existing = if existing.as_os_str().is_empty() { Path::new(".") } else { existing };
    if let Err(error) = access(existing, Access::WRITE_OK | Access::EXEC_OK) {
        let why = format!("'{}': {}", existing.display(), std::io::Error::from(error));
        return Check::bad(
            "root",
            Status::Missing,
            why,
            "give a folder of your own with --root or VMREWIND_ROOT",
        );
    }
    if path.join("VERSION").exists()
        && let Err(error) = session.operation()
    {
        return Check::bad(
            "root",
            Status::Missing,
            error.to_string(),
            error.hint().unwrap_or_else(|| "look at it".into()),
        );
    }
    Check::ok("root", path.display().to_string())
}

/// KVM can be used; without it guests are emulated.
pub(super) fn kvm() -> Check {
    let hint = "guests run without KVM too, but slowly; \
                it needs virtualisation in the firmware and membership of the group kvm";
    match OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        Ok(_) => Check::ok("kvm", "/dev/kvm"),
        Err(error) => Check::bad("kvm", Status::Warning, format!("/dev/kvm: {error}"), hint),
    }
}

/// QEMU may use userfaultfd: as privileged, by its device (Linux 6.1, QEMU 8.1), or as the kernel allows all users.
pub(super) fn userfaultfd() -> Check {
    const NAME: &str = "userfaultfd";
    let all_users = fs::read_to_string("/proc/sys/vm/unprivileged_userfaultfd").unwrap_or_default();
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    if has_capability(&status, CAP_SYS_PTRACE) {
        Check::ok(NAME, "by capability")
    } else if all_users.trim() == "1" {
        Check::ok(NAME, "for all users")
    } else if OpenOptions::new().read(true).write(true).open("/dev/userfaultfd").is_ok() {
        Check::ok(NAME, "/dev/userfaultfd")
    } else {
        let hint = "busy guests can't be captured in the background; \
                    allow it with `sysctl vm.unprivileged_userfaultfd=1` or access to /dev/userfaultfd";
        Check::bad(NAME, Status::Warning, "not allowed", hint)
    }
}

/// UEFI firmware for `vm create --uefi`; without a BIOS, for each VM whose command line vmrewind writes.
pub(super) fn firmware(arch: &Arch) -> Check {
    match arch.firmware.iter().find(|files| Path::new(files.code).exists()) {
        Some(files) => Check::ok("uefi", files.code),
        None => {
            let form = if arch.has_bios { "--uefi" } else { "--disk" };
            let package = arch.firmware_package;
            let hint = format!(
                "`vm create {form}` can't be used; install it (Debian and Ubuntu: package {package})"
            );
            Check::bad("uefi", Status::Warning, "no firmware", hint)
        }
    }
}

/// Whether `/proc/PID/status` shows the effective capability of that number.
fn has_capability(status: &str, number: u32) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> number & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Root in a container often lacks the capability: the user id alone must not count.
    #[test]
    fn capabilities() {
        assert!(has_capability("Name:\tx\nCapEff:\t0000000000080000\n", CAP_SYS_PTRACE));
        assert!(has_capability("CapEff:\t000001ffffffffff\n", CAP_SYS_PTRACE));
        assert!(!has_capability("CapEff:\t00000000a80425fb\n", CAP_SYS_PTRACE));
        assert!(!has_capability("", CAP_SYS_PTRACE));
    }
}
