//! What guests of tests differ in from one host to the next.
//!
//! `vmrewind-qemu` has such a list too. This one is the tests' own, so that a mistake in that one is not made here as well.

/// A machine for guests of the host's architecture.
#[derive(Debug)]
pub struct HostArch {
    /// The QEMU program.
    pub program: &'static str,
    /// The machine type.
    pub machine: &'static str,
    /// The processor, where the machine's own is not one of this architecture.
    pub cpu: Option<&'static str>,
    /// The serial console, as the guest's kernel names it.
    pub console: &'static str,
    /// The folder of UEFI firmware, and what its files' names begin with.
    pub firmware: (&'static str, &'static str),
}

/// That of this host.
pub const HOST: HostArch = if cfg!(target_arch = "aarch64") {
    HostArch {
        program: "qemu-system-aarch64",
        machine: "virt",
        cpu: Some("max"),
        console: "ttyAMA0",
        firmware: ("/usr/share/AAVMF", "AAVMF"),
    }
} else {
    HostArch {
        program: "qemu-system-x86_64",
        machine: "q35",
        cpu: None,
        console: "ttyS0",
        firmware: ("/usr/share/OVMF", "OVMF"),
    }
};
