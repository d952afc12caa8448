//! From what a test wants of a guest to the QEMU command line that boots it.

use std::path::{Path, PathBuf};

use super::GuestImage;
use crate::arch::HOST;
use crate::disk;
use crate::error::Result;

/// What a test wants of a guest; start from [`Default`] and change what matters to the test.
#[derive(Debug, Clone)]
pub struct GuestOptions {
    /// The QEMU program, or one that takes its place.
    pub program: String,
    /// RAM, MiB.
    pub memory_mib: u32,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Machine type: `q35`, `pc`, `virt`, or a versioned one.
    pub machine: String,
    /// Disks; the first two with an ext4 file system get counters.
    pub disks: Vec<DiskArg>,
    /// UEFI variables (see [`disk::uefi_vars`]); without them the firmware is a BIOS.
    pub uefi_vars: Option<PathBuf>,
    /// A file whose content the guest's memory is made from, with [`Mix::Desktop`]: a read-only disk.
    pub source: Option<PathBuf>,
    /// Checksummed memory, MiB.
    pub fill_mib: u32,
    /// What that memory looks like to a compressor.
    pub mix: Mix,
    /// Seed of that memory's content; 0 is another content at each boot.
    pub seed: u64,
    /// Self-checking memory that is rewritten all the time, MiB.
    pub dirty_mib: u32,
    /// Pages of it rewritten per second.
    pub dirty_hz: u32,
    /// Milliseconds between ticks.
    pub tick_ms: u32,
    /// Milliseconds between writes of the disk counters.
    pub disk_ms: u32,
    /// The QEMU guest agent.
    pub agent: Agent,
    /// Further QEMU options.
    pub extra: Vec<String>,
}

impl Default for GuestOptions {
    fn default() -> Self {
        Self {
            program: HOST.program.into(),
            memory_mib: 256,
            cpus: 1,
            machine: HOST.machine.into(),
            disks: Vec::new(),
            uefi_vars: None,
            source: None,
            fill_mib: 64,
            mix: Mix::Mixed,
            seed: 0,
            dirty_mib: 8,
            dirty_hz: 200,
            tick_ms: 10,
            disk_ms: 20,
            agent: Agent::No,
            extra: Vec::new(),
        }
    }
}

/// The QEMU guest agent of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Agent {
    /// Neither channel nor agent.
    No,
    /// A channel that nobody in the guest serves.
    ChannelOnly,
    /// A channel, on the socket `{run}/agent.sock`, and the agent.
    Running,
}

/// What the checksummed memory of a guest looks like to a compressor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mix {
    /// Does not compress.
    Random,
    /// Compresses like logs or source code.
    Text,
    /// All zero.
    Zero,
    /// Of four pages two are text, one is random, one is zero.
    Mixed,
    /// As the memory of a desktop: of 20 MiB 12 are of [`GuestOptions::source`], 3 text, 3 random, 2 zero.
    Desktop,
}

/// One disk of a guest.
#[derive(Debug, Clone)]
pub struct DiskArg {
    /// File or block device.
    pub path: PathBuf,
    /// Format as QEMU names it: `raw`, `qcow2`, ...
    pub format: String,
    /// How it is attached.
    pub kind: DiskKind,
    /// Whether it holds the ext4 file system of [`disk::ext4_raw`] and the like: the guest waits for those at boot.
    pub mounted: bool,
}

/// How a disk is attached: each is another way to say it on QEMU's command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskKind {
    /// `-drive if=none` and a virtio-blk device.
    Virtio,
    /// `-drive if=virtio`: no id, no node name.
    VirtioShort,
    /// `-blockdev` with dotted keys, file node within, and a virtio-blk device.
    Blockdev,
    /// `-drive if=none`, and a disk on a virtio-scsi controller.
    Scsi,
    /// `-drive if=ide`; only machine `pc` (the guest kernel has no AHCI).
    Ide,
}

impl DiskArg {
    /// A virtio disk with a counter on it, in `format`.
    pub fn new(path: impl Into<PathBuf>, format: &str) -> Self {
        Self { path: path.into(), format: format.into(), kind: DiskKind::Virtio, mounted: true }
    }

    /// The same disk attached in another way.
    #[must_use]
    pub fn attached_as(mut self, kind: DiskKind) -> Self {
        self.kind = kind;
        self
    }

    /// The same disk, without the file system that the guest would wait for.
    #[must_use]
    pub fn blank(mut self) -> Self {
        self.mounted = false;
        self
    }
}

/// The QEMU command line, program included, that boots the guest image with `options`.
///
/// The placeholder `{run}` stands for the VM's own folder: the serial console is a socket `{run}/console.sock`, and all
/// that comes out of it is also in `{run}/console.log`. There is no QMP socket: whoever starts QEMU adds its own.
pub fn command_line(options: &GuestOptions) -> Result<Vec<String>> {
    let image = if options.agent == Agent::Running { GuestImage::with_agent()? } else { GuestImage::get()? };
    let mut line = vec![options.program.clone()];
    let mut add = |option: &str, value: String| line.extend([option.to_owned(), value]);
    add("-machine", options.machine.clone());
    add("-accel", "tcg".into());
    if let Some(cpu) = HOST.cpu {
        add("-cpu", cpu.into());
    }
    add("-m", options.memory_mib.to_string());
    add("-smp", options.cpus.to_string());
    add("-display", "none".into());
    let console = "socket,id=console,path={run}/console.sock,server=on,wait=off";
    add("-chardev", format!("{console},logfile={{run}}/console.log,logappend=on"));
    add("-serial", "chardev:console".into());
    add("-kernel", image.kernel.display().to_string());
    add("-initrd", image.initrd.display().to_string());
    add("-append", kernel_parameters(options));
    if let Some(vars) = &options.uefi_vars {
        let code = disk::uefi_code()?;
        add("-drive", format!("if=pflash,unit=0,format=raw,readonly=on,file={}", escaped(&code)));
        add("-drive", format!("if=pflash,unit=1,format=raw,file={}", escaped(vars)));
    }
    for (number, disk) in options.disks.iter().enumerate() {
        line.extend(disk_options(number, disk));
    }
    if let Some(source) = &options.source {
        let drive = format!("file={},format=raw,if=none,id=source,readonly=on", escaped(source));
        line.extend(["-drive".into(), drive, "-device".into()]);
        line.push("virtio-blk-pci,drive=source,serial=source".into());
    }
    if options.agent != Agent::No {
        line.extend(AGENT_CHANNEL.map(String::from));
    }
    line.extend(["-nodefaults".to_owned(), "-no-reboot".to_owned()]);
    line.extend(options.extra.iter().cloned());
    Ok(line)
}

/// The guest agent's channel, as libvirt and others give it.
const AGENT_CHANNEL: [&str; 6] = [
    "-chardev",
    "socket,id=agent,path={run}/agent.sock,server=on,wait=off",
    "-device",
    "virtio-serial-pci",
    "-device",
    "virtserialport,chardev=agent,name=org.qemu.guest_agent.0",
];

fn kernel_parameters(options: &GuestOptions) -> String {
    let mix = match options.mix {
        Mix::Random => "random",
        Mix::Text => "text",
        Mix::Zero => "zero",
        Mix::Mixed => "mixed",
        Mix::Desktop => "desktop",
    };
    // Only two disks have counters; the guest need not wait for more.
    let disks = options.disks.iter().filter(|disk| disk.mounted).count().min(2);
    let GuestOptions { fill_mib, seed, dirty_mib, dirty_hz, tick_ms, disk_ms, .. } = options;
    let console = HOST.console;
    // A kernel that is emulated on a busy host counts too few timer interrupts while it boots, and panics: it must not count.
    format!(
        "console={console} quiet panic=-1 no_timer_check FILL={fill_mib} MIX={mix} SEED={seed} DIRTY_MIB={dirty_mib} \
         DIRTY_HZ={dirty_hz} TICK_MS={tick_ms} DISK_MS={disk_ms} DISKS={disks}"
    )
}

fn disk_options(number: usize, disk: &DiskArg) -> Vec<String> {
    let (file, format) = (escaped(&disk.path), &disk.format);
    let host_device = disk.path.starts_with("/dev");
    let driver = if host_device { "host_device" } else { "file" };
    let drive = |interface: &str| format!("file={file},format={format},if={interface}");
    let named = format!("{},id=disk{number}", drive("none"));
    match disk.kind {
        DiskKind::Virtio => {
            vec!["-drive".into(), named, "-device".into(), format!("virtio-blk-pci,drive=disk{number}")]
        }
        DiskKind::VirtioShort => vec!["-drive".into(), drive("virtio")],
        DiskKind::Ide => vec!["-drive".into(), drive("ide")],
        DiskKind::Blockdev => vec![
            "-blockdev".into(),
            format!("driver={format},node-name=disk{number},file.driver={driver},file.filename={file}"),
            "-device".into(),
            format!("virtio-blk-pci,drive=disk{number}"),
        ],
        DiskKind::Scsi => vec![
            "-drive".into(),
            named,
            "-device".into(),
            format!("virtio-scsi-pci,id=scsi{number}"),
            "-device".into(),
            format!("scsi-hd,drive=disk{number},bus=scsi{number}.0"),
        ],
    }
}

/// A path as a value in a QEMU option, where a comma is doubled.
fn escaped(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards the way QEMU reads option values: a bare comma would begin a new key.
    #[test]
    fn a_comma_in_a_path_is_doubled() {
        let options = disk_options(0, &DiskArg::new("/a,b.raw", "raw"));
        assert_eq!(options[1], "file=/a,,b.raw,format=raw,if=none,id=disk0");
    }

    /// Guards the boot: waiting for a disk that has no file system costs five seconds.
    #[test]
    fn the_guest_waits_for_disks_with_a_file_system_only() {
        let disks = vec![DiskArg::new("/a", "raw"), DiskArg::new("/b", "raw").blank()];
        let parameters = kernel_parameters(&GuestOptions { disks, ..GuestOptions::default() });
        assert!(parameters.ends_with(" DISKS=1"), "{parameters}");
    }
}
