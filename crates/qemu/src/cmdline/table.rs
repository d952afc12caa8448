//! The options of QEMU's system emulators 7.2 to 10.0, and what follows each.
//!
//! Source: `qemu-options.hx` of these versions (`-help` prints it), which is one for all architectures: each program knows
//! all options, and refuses those that are not for its own; with options that older versions
//! took: QEMU itself refuses those it has dropped. An option that is not here is an error, never a guess: guessing whether
//! the next word is its argument or a disk image would lose disks.

/// What follows an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Argument {
    /// Nothing.
    None,
    /// One word that is taken as it stands: no keys, no comma escapes.
    Plain,
    /// One word of `key=value,...`, with the key of a first word without `=`; or JSON.
    Keys(Option<&'static str>),
    /// A character device in the short form (`unix:PATH,server`, `file:PATH`, `stdio`).
    Character,
}

/// What follows the option `name` (without its dashes); `None` where QEMU has no such option.
pub(super) fn argument_of(name: &str) -> Option<Argument> {
    if NO_ARGUMENT.contains(&name) {
        return Some(Argument::None);
    }
    if PLAIN.contains(&name) {
        return Some(Argument::Plain);
    }
    if CHARACTER.contains(&name) {
        return Some(Argument::Character);
    }
    KEYS.iter().find(|(known, _)| *known == name).map(|(_, implied)| Argument::Keys(*implied))
}

const NO_ARGUMENT: &[&str] = &[
    "S",
    "alt-grab",
    "async-teardown",
    "audio-help",
    "ctrl-grab",
    "curses",
    "daemonize",
    "enable-fips",
    "enable-hax",
    "enable-kvm",
    "enable-sync-profile",
    "full-screen",
    "h",
    "help",
    "jitdump",
    "mem-prealloc",
    "no-acpi",
    "no-fd-bootchk",
    "no-hpet",
    "no-quit",
    "no-reboot",
    "no-shutdown",
    "no-user-config",
    "nodefaults",
    "nodefconfig",
    "nographic",
    "old-param",
    "one-insn-per-tb",
    "only-migratable",
    "perfmap",
    "preconfig",
    "s",
    "sdl",
    "semihosting",
    "show-cursor",
    "singlestep",
    "snapshot",
    "usb",
    "version",
    "win2k-hack",
    "xen-attach",
    "xen-domid-restrict",
];

const PLAIN: &[&str] = &[
    "D",
    "L",
    "append",
    "balloon",
    "bios",
    "cdrom",
    "chroot",
    "cpu",
    "d",
    "dfilter",
    "dtb",
    "dump-vmstate",
    "echr",
    "fda",
    "fdb",
    "g",
    "hda",
    "hdb",
    "hdc",
    "hdd",
    "incoming",
    "initrd",
    "k",
    "kernel",
    "loadvm",
    "mem-path",
    "mtdblock",
    "pflash",
    "pidfile",
    "prom-env",
    "qtest",
    "qtest-log",
    "readconfig",
    "rotate",
    "runas",
    "sd",
    "seed",
    "set",
    "shim",
    "soundhw",
    "tb-size",
    "usbdevice",
    "uuid",
    "vga",
    "watchdog",
    "watchdog-action",
    "writeconfig",
    "xen-domid",
];

const CHARACTER: &[&str] = &["debugcon", "gdb", "monitor", "parallel", "qmp", "qmp-pretty", "serial"];

const KEYS: &[(&str, Option<&str>)] = &[
    ("M", Some("type")),
    ("accel", Some("accel")),
    ("acpitable", None),
    ("action", None),
    ("add-fd", None),
    ("audio", Some("driver")),
    ("audiodev", Some("driver")),
    ("blockdev", Some("driver")),
    ("boot", Some("order")),
    ("chardev", Some("backend")),
    ("compat", None),
    ("device", Some("driver")),
    ("display", Some("type")),
    ("drive", None),
    ("fsdev", Some("fsdriver")),
    ("fw_cfg", Some("name")),
    ("global", None),
    ("icount", Some("shift")),
    ("iscsi", None),
    ("m", Some("size")),
    ("machine", Some("type")),
    ("mon", Some("chardev")),
    ("msg", None),
    ("name", Some("guest")),
    ("net", Some("type")),
    ("netdev", Some("type")),
    ("nic", Some("type")),
    ("numa", Some("type")),
    ("object", Some("qom-type")),
    ("option-rom", Some("romfile")),
    ("overcommit", None),
    ("plugin", Some("file")),
    ("realtime", None),
    ("rtc", None),
    ("run-with", None),
    ("sandbox", Some("enable")),
    ("semihosting-config", Some("enable")),
    ("smbios", None),
    ("smp", Some("cpus")),
    ("spice", None),
    ("tpmdev", Some("type")),
    ("trace", Some("enable")),
    ("virtfs", Some("fsdriver")),
    ("vnc", Some("vnc")),
];
