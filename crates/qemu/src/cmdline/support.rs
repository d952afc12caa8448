//! What vmrewind does not take over, decided at `vm create`.
//!
//! Refused is what could not be brought back as it was: state outside QEMU that no migration stream holds
//! (vfio, vhost-user, 9p), disks with other writers, memory that is encrypted; what would take the process
//! out of vmrewind's hands (`-daemonize`, `-incoming`, file descriptors); and what hides options from it
//! (`-readconfig`). Each refusal names the option, why, and what to do instead.

use super::base::protocol_of;
use super::properties::Properties;
use super::{CmdlineError, CommandLine, Opt, Refusal};

/// Why and what instead.
type Reason = (&'static str, &'static str);

const INHERITED_FD: Reason = (
    "vmrewind starts QEMU itself, without inherited file descriptors",
    "name the file, socket or interface instead",
);
const OUTSIDE_DISK: Reason = (
    "its state is in another process or in hardware, out of reach of a restore point",
    "use a virtio device of QEMU's own",
);
const SHARED_FOLDER: Reason = (
    "a folder shared by 9p can't be captured with the VM",
    "use a disk, or a network share inside the guest",
);
const OTHER_WRITERS: Reason = (
    "other writers could change the disk under its restore points",
    "leave the option out and give the VM its disk alone",
);
const NO_INPUT: Reason = (
    "QEMU has no terminal under vmrewind",
    "leave it out: vmrewind adds its own monitor; `vm console` is the serial console",
);
const EXITS: Reason = ("it makes QEMU print something and exit", "leave it out");
const XEN: Reason = ("Xen guests are not supported", "use KVM or TCG");
const HIDDEN: Reason = ("a configuration file could hide disks and devices", "write its settings as options");
const ENCRYPTED: Reason = (
    "the memory of an encrypted guest can't be captured",
    "leave out the SEV or TDX object and `confidential-guest-support`",
);

const BAD_JSON: Reason = ("its JSON is not valid", "mend it: QEMU would not start with it either");

impl CommandLine {
    /// Whether vmrewind can take this VM over.
    ///
    /// # Errors
    /// All reasons why not, in the order of the command line; never an empty list.
    pub fn check_supported(&self) -> Result<(), Vec<Refusal>> {
        let mut refusals = Vec::new();
        for option in &self.options {
            let reason = self.refused(option).unwrap_or(Some(BAD_JSON));
            refusals.extend(reason.map(|(why, hint)| Refusal { option: option.display(), why, hint }));
        }
        if refusals.is_empty() { Ok(()) } else { Err(refusals) }
    }

    fn refused(&self, option: &Opt) -> Result<Option<Reason>, CmdlineError> {
        let name = option.name();
        if let Some(reason) = refused_by_name(name) {
            return Ok(Some(reason));
        }
        Ok(match name {
            "monitor" | "qmp" | "qmp-pretty" if option.text() == "stdio" => Some(NO_INPUT),
            "mon" => self.refused_monitor(option),
            "display" => (option.keys().get("type") == Some("curses")).then_some(NO_INPUT),
            "machine" | "M" => refused_machine(&option.keys().to_string(), option),
            "accel" => (option.keys().get("accel") == Some("xen")).then_some(XEN),
            "run-with" if option.keys().get("user").is_some() => Some(OTHER_USER),
            "run-with" => option.keys().get("chroot").is_some().then_some(CHROOT),
            "icount" => option.keys().get("rr").is_some_and(|rr| rr != "none").then_some(REPLAY),
            "device" => refused_device(&option.properties()?),
            "object" => refused_object(&option.properties()?),
            "chardev" => option.properties()?.get("fd").map(|_| INHERITED_FD),
            "netdev" | "net" | "nic" => refused_network(&option.properties()?),
            "drive" => refused_disk(&option.keys().iter().map(owned).collect::<Vec<_>>()),
            "blockdev" => refused_disk(&super::properties::flatten(&option.properties()?.tree())),
            "" | "hda" | "hdb" | "hdc" | "hdd" | "fda" | "fdb" | "sd" | "pflash" | "mtdblock" => {
                refused_disk(&[("file".to_owned(), option.text().to_owned())])
            }
            _ => None,
        })
    }

    /// A monitor on standard input; one that shares it with a serial port (`mux=on`) can be read in the log.
    fn refused_monitor(&self, option: &Opt) -> Option<Reason> {
        let chardev = self.chardev(option.keys().get("chardev")?)?;
        (chardev.get("backend").as_deref() == Some("stdio") && !chardev.is_on("mux")).then_some(NO_INPUT)
    }
}

const CHROOT: Reason = (
    "QEMU could not open the files of new restore points from inside another root",
    "leave it out; confine vmrewind instead",
);
const OTHER_USER: Reason = (
    "QEMU could not open the files of new restore points as another user",
    "leave it out; run vmrewind as that user instead",
);
const PERSISTENT_MEMORY: Reason =
    ("what the guest writes to it goes to its file, out of reach of a restore point", "use a disk instead");
const REPLAY: Reason = ("a recorded or replayed run can't be migrated", "leave out `rr`");

fn refused_by_name(name: &str) -> Option<Reason> {
    Some(match name {
        "snapshot" => {
            ("the disks would forget what the guest writes", "leave it out; go back with `snapshot restore`")
        }
        "daemonize" => ("vmrewind supervises QEMU and detaches it itself", "leave it out"),
        "incoming" => ("vmrewind gives QEMU the state to start from", "leave it out"),
        "loadvm" => ("vmrewind gives QEMU the state to start from", "leave it out; use `snapshot restore`"),
        "S" => {
            ("vmrewind decides when the guest starts to run", "leave it out; to start paused, use --paused")
        }
        "preconfig" => ("vmrewind does not talk to a QEMU that waits to be configured", "leave it out"),
        "virtfs" | "fsdev" => SHARED_FOLDER,
        "readconfig" | "nodefconfig" => HIDDEN,
        "set" => (
            "it changes other options in a way that could hide disks",
            "write the value at the option itself",
        ),
        "xen-attach" | "xen-domid" | "xen-domid-restrict" => XEN,
        "add-fd" => INHERITED_FD,
        "chroot" => CHROOT,
        "runas" => OTHER_USER,
        "curses" => NO_INPUT,
        "h" | "help" | "version" | "audio-help" | "dump-vmstate" | "writeconfig" => EXITS,
        "qtest" => ("a VM under qtest does not run", "leave it out"),
        _ => return None,
    })
}

fn refused_machine(text: &str, option: &Opt) -> Option<Reason> {
    let keys = option.keys();
    match keys.get("type") {
        Some("none") => {
            return Some((
                "a machine without CPU and memory has nothing to capture",
                "choose q35, pc or virt",
            ));
        }
        Some("help" | "?") => return Some(EXITS),
        Some(name) if name.starts_with("xen") => return Some(XEN),
        _ => {}
    }
    if keys.get("accel").is_some_and(|accel| accel.split(':').any(|name| name == "xen")) {
        return Some(XEN);
    }
    let is_encrypted = text.contains("confidential-guest-support") || text.contains("memory-encryption");
    is_encrypted.then_some(ENCRYPTED)
}

fn refused_device(device: &Properties) -> Option<Reason> {
    let driver = device.get("driver").unwrap_or_default();
    if matches!(driver.as_str(), "help" | "?") {
        return Some(EXITS);
    }
    if driver.starts_with("vfio-") || driver.starts_with("vhost-user") || driver.starts_with("vhost-scsi") {
        return Some(OUTSIDE_DISK);
    }
    if driver.starts_with("vhost-vdpa") || driver == "ivshmem-doorbell" || driver == "x-pci-proxy-dev" {
        return Some(OUTSIDE_DISK);
    }
    if driver == "nvdimm" || driver.starts_with("virtio-pmem") {
        return Some(PERSISTENT_MEMORY);
    }
    if driver.starts_with("virtio-9p") {
        return Some(SHARED_FOLDER);
    }
    if driver.starts_with("xen") {
        return Some(XEN);
    }
    if matches!(driver.as_str(), "scsi-block" | "scsi-generic") {
        return Some((
            "a passed-through SCSI device can't have restore points",
            "use scsi-hd on the block device",
        ));
    }
    device.is_on("share-rw").then_some(OTHER_WRITERS)
}

fn refused_object(object: &Properties) -> Option<Reason> {
    let kind = object.get("qom-type").unwrap_or_default();
    if matches!(kind.as_str(), "sev-guest" | "sev-snp-guest" | "tdx-guest" | "pef-guest") {
        return Some(ENCRYPTED);
    }
    let is_outside = matches!(kind.as_str(), "x-remote-object" | "x-vfio-user-server" | "vhost-user-backend");
    is_outside.then_some(OUTSIDE_DISK)
}

fn refused_network(network: &Properties) -> Option<Reason> {
    let kind = network.get("type").unwrap_or_default();
    if matches!(kind.as_str(), "vhost-user" | "vhost-vdpa") {
        return Some(OUTSIDE_DISK);
    }
    let inherits = ["fd", "fds", "vhostfd", "vhostfds"].iter().any(|key| network.get(key).is_some());
    let by_address = ["addr.type", "local.type", "remote.type"]
        .iter()
        .any(|key| network.get(key).as_deref() == Some("fd"));
    (inherits || by_address).then_some(INHERITED_FD)
}

/// A disk by all its keys: what other writers, other processes or a folder underneath would mean.
fn refused_disk(keys: &[(String, String)]) -> Option<Reason> {
    let mut writable_fat = false;
    for (key, value) in keys {
        let own_key = key.rsplit('.').next().unwrap_or(key);
        match (own_key, value.as_str()) {
            ("snapshot", value) if super::parse_bool(value) == Some(true) => {
                return refused_by_name("snapshot");
            }
            ("locking", value) if super::parse_bool(value) == Some(false) => return Some(OTHER_WRITERS),
            ("force-share" | "share-rw", value) if super::parse_bool(value) == Some(true) => {
                return Some(OTHER_WRITERS);
            }
            (
                "driver" | "format",
                "virtio-blk-vhost-user"
                | "virtio-blk-vhost-vdpa"
                | "virtio-blk-vfio-pci"
                | "nvme"
                | "nvme-io_uring",
            ) => {
                return Some(OUTSIDE_DISK);
            }
            ("if", "xen") => return Some(XEN),
            ("file" | "filename", name) if name.starts_with("/dev/fdset/") => return Some(INHERITED_FD),
            ("file" | "filename", name) if protocol_of(name) == Some("fat") && name.contains(":rw:") => {
                writable_fat = true;
            }
            ("rw", value) if super::parse_bool(value) == Some(true) => {
                writable_fat |= keys.iter().any(|(_, driver)| driver == "vvfat");
            }
            _ => {}
        }
    }
    writable_fat.then_some(("a folder written as a FAT disk can't have restore points", "use an image file"))
}

fn owned((key, value): (&str, &str)) -> (String, String) {
    (key.to_owned(), value.to_owned())
}
