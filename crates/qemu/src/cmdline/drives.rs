//! `-drive`, its short forms (`-hda`, `-sd`, `-pflash`, ...), and disk images without an option.
//!
//! Names and ids follow `drive_new()` of QEMU's `blockdev.c`: a drive gets the bus and unit it asks for, or
//! the first that is free in the order of the command line; without an id it is called after them
//! (`ide0-hd1`, `virtio0`, `pflash1`). The short forms stand for (`qemu_init()` in `system/vl.c`):
//!
//! ```text
//! -hda F ... -hdd F   file=F,index=0..3,media=disk      F alone: as -hda F
//! -cdrom F            file=F,index=2,media=cdrom
//! -fda F, -fdb F      file=F,if=floppy,index=0..1
//! -sd F, -pflash F, -mtdblock F   file=F,if=sd|pflash|mtd    (next free unit)
//! ```

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::base::{BaseSpec, DiskOptions, driver_of, is_protocol, protocol_of};
use super::disks::{BlockHandle, DiskAt, DiskSpec, Place};
use super::keyvalues::KeyValues;
use super::properties::insert;
use super::{CmdlineError, CommandLine, Opt};

/// A drive, with or without a medium.
#[derive(Debug)]
pub(super) struct Drive {
    /// What devices and QMP call it.
    pub(super) id: String,
    /// Its node name, by which devices can use it as well.
    pub(super) node_name: Option<String>,
    /// Its medium.
    pub(super) disk: Option<DiskSpec>,
}

impl Drive {
    /// Whether a device can use the drive by this name.
    pub(super) fn is_called(&self, name: &str) -> bool {
        self.id == name || self.node_name.as_deref() == Some(name)
    }
}

/// A short form: its keys besides `file`.
pub(super) fn shortcut_keys(name: &str) -> Option<&'static str> {
    Some(match name {
        "" | "hda" => "index=0,media=disk",
        "hdb" => "index=1,media=disk",
        "hdc" => "index=2,media=disk",
        "hdd" => "index=3,media=disk",
        "cdrom" => "index=2,media=cdrom",
        "fda" => "if=floppy,index=0",
        "fdb" => "if=floppy,index=1",
        "sd" => "if=sd",
        "pflash" => "if=pflash",
        "mtdblock" => "if=mtd",
        _ => return None,
    })
}

/// All drives in the order of the command line.
pub(super) fn drives(line: &CommandLine) -> Result<Vec<Drive>, CmdlineError> {
    let mut slots = Slots::new(line);
    let cd_drives = drives_of_cd_devices(line)?;
    let mut drives = Vec::new();
    for option in &line.options {
        let (keys, place) = match shortcut_keys(option.name()) {
            Some(rest) => {
                let mut keys = KeyValues::parse(rest, None);
                keys.push("file", option.text());
                (keys, Place::Shortcut(option.id))
            }
            None if option.name() == "drive" => (option.keys(), Place::Drive(option.id)),
            None => continue,
        };
        drives.push(drive(option, &keys, place, &mut slots, &cd_drives)?);
    }
    Ok(drives)
}

fn drive(
    option: &Opt,
    keys: &KeyValues,
    place: Place,
    slots: &mut Slots,
    cd_drives: &BTreeSet<String>,
) -> Result<Drive, CmdlineError> {
    let slot = slots.take(option, keys)?;
    let id = keys.get("id").map_or_else(|| slot.auto_id(keys.get("media") == Some("cdrom")), str::to_owned);
    let node_name = keys.get("node-name").map(str::to_owned);
    let Some(base) = base_of(option, keys)? else { return Ok(Drive { id, node_name, disk: None }) };
    let given = keys.get("id").map(str::to_owned).or_else(|| node_name.clone());
    let short = match option.name() {
        "" => Some("hda".to_owned()),
        name if name.starts_with("hd") || name.starts_with("fd") => Some(name.to_owned()),
        _ => None,
    };
    let disk = DiskSpec {
        name: given.or(short).unwrap_or_else(|| slot.short_name()),
        base,
        options: DiskOptions::from_drive(keys),
        read_only: is_read_only(keys) || cd_drives.contains(&id),
        handle: BlockHandle::Device(id.clone()),
        at: DiskAt(place),
    };
    Ok(Drive { id, node_name, disk: Some(disk) })
}

fn is_read_only(keys: &KeyValues) -> bool {
    let set = |key: &str| keys.get_bool(key) == Some(true);
    // A directory shown as a FAT disk can't be written unless `rw` is asked for, which is refused.
    let is_fat = keys.get("file").and_then(protocol_of) == Some("fat");
    set("readonly") || set("read-only") || keys.get("media") == Some("cdrom") || is_fat
}

/// The drives whose device is a CD drive, which never writes.
fn drives_of_cd_devices(line: &CommandLine) -> Result<BTreeSet<String>, CmdlineError> {
    let mut found = BTreeSet::new();
    for option in line.named("device") {
        let device = option.properties()?;
        if matches!(device.get("driver").as_deref(), Some("ide-cd" | "scsi-cd")) {
            found.extend(device.get("drive"));
        }
    }
    Ok(found)
}

/// Keys that every drive has, whatever its block driver.
pub(super) const GENERIC: &[&str] = &[
    "addr",
    "aio",
    "auto-read-only",
    "boot",
    "bus",
    "cache",
    "copy-on-read",
    "cyls",
    "detect-zeroes",
    "discard",
    "file",
    "force-share",
    "format",
    "heads",
    "id",
    "if",
    "index",
    "iops",
    "iops_rd",
    "iops_wr",
    "bps",
    "bps_rd",
    "bps_wr",
    "media",
    "node-name",
    "read-only",
    "readonly",
    "rerror",
    "secs",
    "serial",
    "snapshot",
    "stats-account-failed",
    "stats-account-invalid",
    "trans",
    "unit",
    "werror",
];

/// Whether a key belongs to every drive; also for groups such as `cache.direct` and `throttling.*`.
pub(super) fn is_generic(key: &str) -> bool {
    let throttle = key.starts_with("iops_") || key.starts_with("bps_") || key.starts_with("throttling.");
    GENERIC.contains(&key) || throttle || key.starts_with("cache.") || key.starts_with("stats-intervals")
}

/// Keys that belong to the image a drive has, and not to the one it gets.
pub(super) fn is_about_image(key: &str) -> bool {
    let group = key.split('.').next().unwrap_or(key);
    matches!(group, "file" | "backing" | "data-file" | "encrypt" | "driver" | "format" | "offset" | "size")
        || matches!(key, "key-secret" | "encryption-format")
}

fn base_of(option: &Opt, keys: &KeyValues) -> Result<Option<BaseSpec>, CmdlineError> {
    let file = keys.get("file").unwrap_or_default();
    let format = keys.get("format").or_else(|| keys.get("driver"));
    let beside_file = |key: &str| is_about_image(key) && !matches!(key, "file" | "format" | "driver");
    if format.is_some_and(is_protocol) || keys.any_key(beside_file) {
        return Ok(graph_of(keys, file, format).map(BaseSpec::from_graph));
    }
    if file.is_empty() {
        return Ok(None);
    }
    let base = BaseSpec::from_filename(file, format);
    base.map(Some).map_err(|source| CmdlineError::Json { option: option.display(), source })
}

/// The block graph of a drive that says more than file and format; `None` where it has no medium.
fn graph_of(keys: &KeyValues, file: &str, format: Option<&str>) -> Option<Value> {
    let mut graph = Value::Object(Map::new());
    if let Some(format) = format {
        insert(&mut graph, "driver", Value::String(format.to_owned()));
    }
    for (key, value) in keys.iter().filter(|(key, _)| !is_generic(key) && *key != "driver") {
        insert(&mut graph, key, Value::String(value.to_owned()));
    }
    if !file.is_empty() {
        let key = if format.is_some_and(is_protocol) { "filename" } else { "file.filename" };
        insert(&mut graph, key, Value::String(file.to_owned()));
    }
    let has_medium = graph.get("file").is_some() || driver_of(&graph).is_some_and(is_protocol);
    has_medium.then_some(graph)
}

/// Which bus and unit of each interface is taken.
struct Slots {
    taken: BTreeSet<(String, u64, u64)>,
    default_interface: &'static str,
    ide_units: u64,
}

/// The place of a drive.
struct Slot {
    interface: String,
    bus: u64,
    unit: u64,
    units: u64,
}

impl Slots {
    fn new(line: &CommandLine) -> Self {
        let machine = line.machine_type().unwrap_or_default();
        // The class of a machine says what a drive is that does not say it; `virt` is that of Arm and others.
        let default_interface = match machine.as_str() {
            name if name.contains("microvm") => "none",
            name if name == "virt" || name.starts_with("virt-") => "virtio",
            _ => "ide",
        };
        // The machine's class says how many units a bus has; q35's SATA ports have one each.
        let ide_units = if machine.contains("q35") { 1 } else { 2 };
        Self { taken: BTreeSet::new(), default_interface, ide_units }
    }

    fn take(&mut self, option: &Opt, keys: &KeyValues) -> Result<Slot, CmdlineError> {
        let interface = keys.get("if").unwrap_or(self.default_interface).to_owned();
        let units = match interface.as_str() {
            "ide" => self.ide_units,
            "scsi" => 7,
            "none" if self.default_interface == "none" => 1,
            _ => 0,
        };
        let number = |key: &str| number_of(option, keys, key);
        let (bus, unit) = match (number("index")?, number("bus")?, number("unit")?) {
            (Some(index), ..) if units > 0 => (index / units, Some(index % units)),
            (Some(index), ..) => (0, Some(index)),
            (None, bus, unit) => (bus.unwrap_or(0), unit),
        };
        let mut slot = Slot { interface, bus, unit: unit.unwrap_or(0), units };
        while unit.is_none() && self.taken.contains(&slot.key()) {
            slot.unit += 1;
            if units > 0 && slot.unit >= units {
                slot.unit -= units;
                slot.bus = slot.bus.saturating_add(1);
            }
        }
        self.taken.insert(slot.key());
        Ok(slot)
    }
}

impl Slot {
    fn key(&self) -> (String, u64, u64) {
        (self.interface.clone(), self.bus, self.unit)
    }

    /// The id QEMU gives a drive that has none.
    fn auto_id(&self, is_cdrom: bool) -> String {
        let medium = match self.interface.as_str() {
            "ide" | "scsi" => {
                if is_cdrom {
                    "-cd"
                } else {
                    "-hd"
                }
            }
            _ => "",
        };
        let Self { interface, bus, unit, units } = self;
        if *units > 0 {
            format!("{interface}{bus}{medium}{unit}")
        } else {
            format!("{interface}{medium}{unit}")
        }
    }

    fn short_name(&self) -> String {
        let index = self.bus.saturating_mul(self.units.max(1)).saturating_add(self.unit);
        format!("{}{index}", self.interface)
    }
}

fn number_of(option: &Opt, keys: &KeyValues, key: &str) -> Result<Option<u64>, CmdlineError> {
    let Some(text) = keys.get(key) else { return Ok(None) };
    let number = text.parse().ok().filter(|number| *number <= u64::from(u16::MAX));
    number.map(Some).ok_or_else(|| CmdlineError::Value {
        option: option.display(),
        key: key.to_owned(),
        value: text.to_owned(),
        reason: "a small whole number is wanted",
    })
}
