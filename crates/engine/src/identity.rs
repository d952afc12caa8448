//! Who a VM is to its guest, its host and its network: what a clone gets of its own, and what it can't.

use vmrewind_qemu::cmdline::{CloneValues, CommandLine, Separation, Shared};

use crate::error::{Context, Result};
use crate::host::Host;
use crate::ids::VmName;
use crate::record::vm::Hardware;
use crate::view::clone::{Changed, NotUnique, StartMode};

/// A clone's hardware, and what of it is its own.
pub(crate) struct Identity {
    /// The hardware.
    pub(crate) hardware: Hardware,
    /// What was changed.
    pub(crate) changed: Vec<Changed>,
    /// What is the parent's too, for this kind of start.
    pub(crate) not_unique: Vec<NotUnique>,
}

/// Makes the hardware of a clone: the parent's, with an identity and host resources of its own.
///
/// # Errors
/// `Failed` for a command line that can't be read.
pub(crate) fn of_clone(host: &Host, parent: &Hardware, name: &VmName, start: StartMode) -> Result<Identity> {
    let bad = || format!("cannot make a command line for VM '{name}'");
    let mut line = CommandLine::parse(&parent.command_line).context(bad)?;
    // Addresses up to 2 are reserved (vsock(7)); those below a million are what people give out by hand.
    let random = u32::from_str_radix(&host.random_hex::<4>(), 16).unwrap_or_default();
    let mut values = CloneValues {
        name: name.to_string(),
        uuid: host.random_uuid(),
        generation: host.random_uuid(),
        mac: &mut || host.random_mac(),
        vsock: (random >> 1) | (1 << 20),
    };
    let done = line.separate(&mut values).context(bad)?;
    let not_unique = not_unique(&line, &done, start);
    let changed = done.changed.into_iter();
    Ok(Identity {
        hardware: Hardware { command_line: line.to_argv(), ..parent.clone() },
        changed: changed.map(|it| Changed { option: it.option, from: it.from, to: it.to }).collect(),
        not_unique,
    })
}

/// The same hardware with another generation id, by which the guest learns that it was put back.
pub(crate) fn renewed(host: &Host, hardware: &Hardware) -> Result<Hardware> {
    let bad = || "cannot read the snapshot's command line".to_owned();
    let mut line = CommandLine::parse(&hardware.command_line).context(bad)?;
    line.set_generation(&host.random_uuid()).context(bad)?;
    Ok(Hardware { command_line: line.to_argv(), ..hardware.clone() })
}

fn not_unique(line: &CommandLine, done: &Separation, start: StartMode) -> Vec<NotUnique> {
    let entry =
        |what: &str, why: &str, fix: &str| NotUnique { what: what.into(), why: why.into(), fix: fix.into() };
    let mut list = Vec::new();
    let has = |key: &str| done.changed.iter().any(|change| change.option.ends_with(key));
    let has_network = has(" mac") || has(" macaddr");
    if start == StartMode::Warm {
        if has_network {
            list.push(entry(
                "MAC addresses",
                "they are part of the captured devices",
                "the clone's own ones hold from the guest's next reboot on; keep its links down until then, or where \
                 clones share a network change them in the guest (`ip link set dev eth0 address ...`)",
            ));
        }
        if has("uuid") {
            list.push(entry(
                "system UUID (SMBIOS)",
                "the tables are in the captured memory",
                "the clone's own one holds from the guest's next reboot on",
            ));
        }
    }
    list.push(entry(
        "machine-id and host name of the guest",
        "they are on its disks",
        "in the guest: rm /etc/machine-id && systemd-machine-id-setup; hostnamectl set-hostname NAME",
    ));
    list.push(entry(
        "ssh host keys of the guest",
        "they are on its disks",
        "in the guest: rm /etc/ssh/ssh_host_* && ssh-keygen -A, and restart sshd",
    ));
    if has_network {
        list.push(entry(
            "DHCP lease",
            "the guest remembers it",
            "in the guest: release it and ask again, after the machine-id was changed",
        ));
    }
    if !line.has_generation_device() {
        list.push(entry(
            "random numbers of the guest",
            "there is no vmgenid device that tells the guest that it was cloned",
            "make VMs with `-device vmgenid,guid=auto`",
        ));
    }
    list.extend(done.shared.iter().map(of_host));
    list
}

fn of_host(shared: &Shared) -> NotUnique {
    NotUnique {
        what: format!("{} {}", shared.option, shared.value),
        why: shared.why.into(),
        fix: "make the parent with {name}, {run} or {port:N} in its place".into(),
    }
}
