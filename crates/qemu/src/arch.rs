//! Architectures of guests as data: all that vmrewind writes, looks for or tells by name and that is another one elsewhere.
//!
//! A VM's architecture is its program's; one that is not in the list is used as it is given, with nothing taken for granted.
//! New VMs are of the host's architecture.

/// What differs from one architecture to the next.
#[derive(Debug, PartialEq, Eq)]
pub struct Arch {
    /// Its name, as Linux and Rust say it.
    pub name: &'static str,
    /// Its QEMU program.
    pub program: &'static str,
    /// The program's package on Debian and Ubuntu.
    pub package: &'static str,
    /// The machine type of new VMs, with QEMU's newest version of it.
    pub machine: &'static str,
    /// The processor of new VMs that are emulated. With KVM it is the host's.
    pub emulated_cpu: &'static str,
    /// Whether a machine starts its disks without UEFI.
    pub has_bios: bool,
    /// Where distributions keep UEFI firmware for machines without secure boot.
    pub firmware: &'static [Firmware],
    /// The firmware's package on Debian and Ubuntu.
    pub firmware_package: &'static str,
    /// The graphics device that firmware and guests know.
    pub graphics: &'static str,
    /// Whether a screen needs a keyboard put beside it: the machine has none.
    pub needs_keyboard: bool,
    /// Whether QEMU has the device `vmgenid` for it.
    pub has_generation_id: bool,
    /// Names of the RAM block that its machines have without a memory backend.
    pub ram_blocks: &'static [&'static str],
}

/// Two files of UEFI firmware that belong together.
#[derive(Debug, PartialEq, Eq)]
pub struct Firmware {
    /// The code.
    pub code: &'static str,
    /// Variables to begin with.
    pub vars: &'static str,
}

/// All architectures that are known. The first one is that of hosts that are not.
pub const ARCHES: [Arch; 2] = [X86_64, AARCH64];

const X86_64: Arch = Arch {
    name: "x86_64",
    program: "qemu-system-x86_64",
    package: "qemu-system-x86",
    machine: "q35",
    emulated_cpu: "max",
    has_bios: true,
    firmware: &[
        Firmware { code: "/usr/share/OVMF/OVMF_CODE_4M.fd", vars: "/usr/share/OVMF/OVMF_VARS_4M.fd" },
        Firmware { code: "/usr/share/OVMF/OVMF_CODE.fd", vars: "/usr/share/OVMF/OVMF_VARS.fd" },
        Firmware { code: "/usr/share/edk2/ovmf/OVMF_CODE.fd", vars: "/usr/share/edk2/ovmf/OVMF_VARS.fd" },
        Firmware { code: "/usr/share/edk2/x64/OVMF_CODE.4m.fd", vars: "/usr/share/edk2/x64/OVMF_VARS.4m.fd" },
    ],
    firmware_package: "ovmf",
    graphics: "VGA",
    needs_keyboard: false,
    has_generation_id: true,
    ram_blocks: &["pc.ram", "microvm.ram"],
};

const AARCH64: Arch = Arch {
    name: "aarch64",
    program: "qemu-system-aarch64",
    package: "qemu-system-arm",
    machine: "virt",
    emulated_cpu: "max",
    has_bios: false,
    firmware: &[
        Firmware { code: "/usr/share/AAVMF/AAVMF_CODE.fd", vars: "/usr/share/AAVMF/AAVMF_VARS.fd" },
        Firmware {
            code: "/usr/share/edk2/aarch64/QEMU_EFI-pflash.raw",
            vars: "/usr/share/edk2/aarch64/vars-template-pflash.raw",
        },
        Firmware {
            code: "/usr/share/edk2/aarch64/QEMU_CODE.fd",
            vars: "/usr/share/edk2/aarch64/QEMU_VARS.fd",
        },
    ],
    firmware_package: "qemu-efi-aarch64",
    // Memory of the device VGA is mapped in a way that KVM on Arm does not keep coherent.
    graphics: "virtio-gpu-pci",
    needs_keyboard: true,
    has_generation_id: false,
    ram_blocks: &["mach-virt.ram"],
};

impl Arch {
    /// The host's architecture: that of the computer that this was built for.
    pub fn host() -> &'static Self {
        Self::named(std::env::consts::ARCH).unwrap_or(&ARCHES[0])
    }

    /// The architecture of that name.
    pub fn named(name: &str) -> Option<&'static Self> {
        ARCHES.iter().find(|arch| arch.name == name)
    }

    /// The architecture of a QEMU program, by the name of its file.
    pub fn of_program(program: &str) -> Option<&'static Self> {
        let name = program.rsplit('/').next().unwrap_or(program);
        ARCHES.iter().find(|arch| arch.program == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards what is looked up: each entry is found by its own names and by no other's.
    #[test]
    fn each_is_found_by_its_names() {
        for arch in &ARCHES {
            assert_eq!(Arch::named(arch.name), Some(arch));
            assert_eq!(Arch::of_program(arch.program), Some(arch));
            assert_eq!(Arch::of_program(&format!("/opt/qemu/bin/{}", arch.program)), Some(arch));
            assert_eq!(Arch::of_program(&format!("{}-wrapped", arch.program)), None);
            assert!(!arch.firmware.is_empty() && !arch.ram_blocks.is_empty(), "{}", arch.name);
        }
        assert_eq!(Arch::named("riscv64"), None);
        assert_eq!(Arch::of_program("qemu-system-riscv64"), None);
        assert_eq!(ARCHES[0].name, "x86_64", "the one that hosts of other architectures emulate");
    }
}
