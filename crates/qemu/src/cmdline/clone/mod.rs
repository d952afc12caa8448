//! A command line for a clone: what the host or the network could mistake for the parent's gets a value of its own.
//!
//! ```text
//! host      sockets, logs, pid files that would collide      -> {run}/NAME          paths.rs
//!           ports that QEMU listens on                       -> {port:N}            ports.rs
//!           VNC displays                                     -> the next free one   ports.rs
//!           tap interfaces                                   -> named by the kernel
//! identity  name, UUID, MAC addresses, generation id, vsock address                 this file
//! ```
//! What is written with `{name}`, `{run}` or `{port:N}` is its own already and stays. What can't be changed here, since
//! it is somebody else's (a socket that QEMU connects to, a device of the host), is listed as shared.
//! Disks are not touched: each start puts a VM on layers of its own. No edit changes what hardware the guest sees, nor
//! what a captured state of the parent needs to be loaded.

mod paths;
mod ports;
#[cfg(test)]
mod tests;

use super::properties::Properties;
use super::{CmdlineError, CommandLine};
use paths::Paths;

/// The first MAC address that QEMU gives to a network device without one, but for its last two digits.
const DEFAULT_MAC: &str = "QEMU's default";

/// The values of a clone.
pub struct CloneValues<'a> {
    /// Its name.
    pub name: String,
    /// A UUID.
    pub uuid: String,
    /// A generation id (a UUID as well).
    pub generation: String,
    /// Makes a MAC address that no other VM has.
    pub mac: &'a mut dyn FnMut() -> String,
    /// A vsock address, above 2.
    pub vsock: u32,
}

/// One value that was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The option and key: `-chardev path`.
    pub option: String,
    /// What it was.
    pub from: String,
    /// What it is; placeholders are not replaced yet.
    pub to: String,
}

/// Something of the host that the clone shares with its parent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shared {
    /// The option and key.
    pub option: String,
    /// Its value.
    pub value: String,
    /// Why it stays.
    pub why: &'static str,
}

/// What was done to make a clone's command line its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Separation {
    /// What was changed.
    pub changed: Vec<Change>,
    /// What could not be.
    pub shared: Vec<Shared>,
}

impl CommandLine {
    /// Makes this command line that of a clone; placeholders are to be in it still.
    ///
    /// # Errors
    /// An option whose JSON can't be read.
    pub fn separate(&mut self, values: &mut CloneValues<'_>) -> Result<Separation, CmdlineError> {
        let mut done = Separation::default();
        let mut paths = Paths::of(self);
        for at in 0..self.options.len() {
            self.separate_option(at, &mut paths, &mut done)?;
            self.identify_option(at, values, &mut done)?;
        }
        Ok(done)
    }

    /// Gives every `vmgenid` device with a fixed generation id this one. Whether there is one, `auto` included.
    ///
    /// # Errors
    /// An option whose JSON can't be read.
    pub fn set_generation(&mut self, generation: &str) -> Result<bool, CmdlineError> {
        let mut done = Separation::default();
        let mut any = false;
        for at in 0..self.options.len() {
            if self.options[at].name() == "device" {
                let mut device = self.options[at].properties()?;
                if is_generation_device(&device) {
                    any = true;
                    renew_generation(&mut device, generation, &mut done);
                    self.options[at].value = Some(device.to_text());
                }
            }
        }
        Ok(any)
    }

    /// Whether the guest has a device that tells it that it was restored or cloned.
    #[must_use]
    pub fn has_generation_device(&self) -> bool {
        self.named("device").filter_map(|option| option.properties().ok()).any(|it| is_generation_device(&it))
    }

    /// Name, UUID, addresses.
    fn identify_option(
        &mut self,
        at: usize,
        values: &mut CloneValues<'_>,
        done: &mut Separation,
    ) -> Result<(), CmdlineError> {
        let option = &mut self.options[at];
        match option.name() {
            "name" => {
                let mut keys = option.keys();
                if let Some(from) =
                    keys.get("guest").map(str::to_owned).filter(|name| !name.contains("{name}"))
                {
                    keys.set("guest", &values.name);
                    done.change("-name", from, values.name.clone());
                    option.value = Some(keys.to_string());
                }
            }
            "uuid" => {
                done.change("-uuid", option.text().to_owned(), values.uuid.clone());
                option.value = Some(values.uuid.clone());
            }
            "smbios" if option.keys().get("type") == Some("1") => {
                let mut keys = option.keys();
                if let Some(from) = keys.get("uuid").map(str::to_owned) {
                    keys.set("uuid", &values.uuid);
                    done.change("-smbios uuid", from, values.uuid.clone());
                    option.value = Some(keys.to_string());
                }
            }
            "device" => {
                let mut device = option.properties()?;
                identify_device(&mut device, values, done);
                option.value = Some(device.to_text());
            }
            "net" | "nic" => {
                let key = if option.name() == "net" { "macaddr" } else { "mac" };
                let label = format!("-{} {key}", option.name());
                let mut nic = option.properties()?;
                let kind = nic.get("type").unwrap_or_default();
                if (key == "mac" && kind != "none") || kind == "nic" {
                    renew_mac(&mut nic, key, &label, values, done);
                    option.value = Some(nic.to_text());
                }
            }
            _ => {}
        }
        Ok(())
    }
}

fn identify_device(device: &mut Properties, values: &mut CloneValues<'_>, done: &mut Separation) {
    if is_generation_device(device) {
        renew_generation(device, &values.generation.clone(), done);
    }
    if device.get("netdev").is_some() || device.get("mac").is_some() {
        renew_mac(device, "mac", "-device mac", values, done);
    }
    if let Some(from) = device.get("guest-cid") {
        let to = values.vsock.to_string();
        device.rewrite(&mut |key, _| (key == "guest-cid").then(|| to.clone()));
        done.change("-device guest-cid", from, to);
    }
}

fn is_generation_device(device: &Properties) -> bool {
    device.get("driver").as_deref() == Some("vmgenid")
}

/// `auto` is a new one at each start as it is.
fn renew_generation(device: &mut Properties, generation: &str, done: &mut Separation) {
    if let Some(from) = device.get("guid").filter(|guid| guid != "auto") {
        device.rewrite(&mut |key, _| (key == "guid").then(|| generation.to_owned()));
        done.change("-device vmgenid guid", from, generation.to_owned());
    }
}

fn renew_mac(
    nic: &mut Properties,
    key: &str,
    label: &str,
    values: &mut CloneValues<'_>,
    done: &mut Separation,
) {
    let mac = (values.mac)();
    match nic.get(key) {
        Some(from) => {
            nic.rewrite(&mut |other, _| (other == key).then(|| mac.clone()));
            done.change(label, from, mac);
        }
        None => {
            nic.push(key, &mac);
            done.change(label, DEFAULT_MAC.to_owned(), mac);
        }
    }
}

impl Separation {
    fn change(&mut self, option: &str, from: String, to: String) {
        self.changed.push(Change { option: option.to_owned(), from, to });
    }

    fn share(&mut self, option: &str, value: String, why: &'static str) {
        self.shared.push(Shared { option: option.to_owned(), value, why });
    }
}
