//! What a command line says about the machine: type, memory, CPUs, accelerators, name.

use super::keyvalues::KeyValues;
use super::{CmdlineError, CommandLine};

/// QEMU's memory where none is asked for.
const DEFAULT_MEMORY_BYTES: u64 = 128 << 20;

impl CommandLine {
    /// The machine type or alias, as written; `None` where QEMU's default is used.
    #[must_use]
    pub fn machine_type(&self) -> Option<String> {
        self.machine_value("type")
    }

    /// Memory of the guest at start, in bytes.
    ///
    /// # Errors
    /// [`CmdlineError::Value`] for a size QEMU would not take either.
    pub fn memory_bytes(&self) -> Result<u64, CmdlineError> {
        let option =
            self.named("m").rev().find_map(|option| Some((option, option.keys().get("size")?.to_owned())));
        if let Some((option, size)) = option {
            let bytes = size_bytes(&size, 1 << 20).filter(|bytes| *bytes > 0);
            return bytes.ok_or_else(|| CmdlineError::Value {
                option: option.display(),
                key: "size".to_owned(),
                value: size,
                reason: "a size such as 512, 512M or 2G is wanted",
            });
        }
        let by_machine = self.machine_value("memory.size").and_then(|size| size_bytes(&size, 1));
        Ok(by_machine.unwrap_or(DEFAULT_MEMORY_BYTES))
    }

    /// Number of CPUs of the guest at start.
    ///
    /// # Errors
    /// [`CmdlineError::Value`] for a number QEMU would not take either.
    pub fn cpus(&self) -> Result<u32, CmdlineError> {
        let Some(option) = self.named("smp").next_back() else { return Ok(1) };
        let keys = option.keys();
        let number = |key: &str| match keys.get(key) {
            None | Some("0") => Ok(None),
            Some(text) => text.parse::<u32>().map(Some).map_err(|_| CmdlineError::Value {
                option: option.display(),
                key: key.to_owned(),
                value: text.to_owned(),
                reason: "a whole number is wanted",
            }),
        };
        if let Some(cpus) = number("cpus")?.or(number("maxcpus")?) {
            return Ok(cpus);
        }
        let mut product = 1_u32;
        for level in ["drawers", "books", "sockets", "dies", "clusters", "modules", "cores", "threads"] {
            product = product.saturating_mul(number(level)?.unwrap_or(1));
        }
        Ok(product)
    }

    /// Accelerators in the order QEMU tries them; empty where none is named.
    #[must_use]
    pub fn accelerators(&self) -> Vec<String> {
        let by_option: Vec<_> =
            self.named("accel").filter_map(|option| option.keys().get("accel").map(str::to_owned)).collect();
        if !by_option.is_empty() {
            return by_option;
        }
        let last = self.options.iter().rev().find_map(|option| match option.name() {
            "enable-kvm" => Some("kvm".to_owned()),
            "machine" | "M" => option.keys().get("accel").map(str::to_owned),
            _ => None,
        });
        last.map(|list| list.split(':').map(str::to_owned).collect()).unwrap_or_default()
    }

    /// The guest's name as given by `-name`.
    #[must_use]
    pub fn name(&self) -> Option<String> {
        self.named("name").rev().find_map(|option| option.keys().get("guest").map(str::to_owned))
    }

    /// The guest's UUID as given by `-uuid`.
    #[must_use]
    pub fn uuid(&self) -> Option<String> {
        self.named("uuid").next_back().map(|option| option.text().to_owned())
    }

    /// The last value of a key of all `-machine` options together, as QEMU merges them.
    pub(super) fn machine_value(&self, key: &str) -> Option<String> {
        let machines = self.options.iter().rev().filter(|option| matches!(option.name(), "machine" | "M"));
        machines.map(super::Opt::keys).find_map(|keys: KeyValues| keys.get(key).map(str::to_owned))
    }
}

/// Reads a size as QEMU does: a decimal or hexadecimal number with a suffix from B to E.
fn size_bytes(text: &str, default_unit: u64) -> Option<u64> {
    if let Some(hex) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        return u64::from_str_radix(hex, 16).ok()?.checked_mul(default_unit);
    }
    let digits_end = text.find(|char: char| !char.is_ascii_digit() && char != '.').unwrap_or(text.len());
    let (digits, suffix) = text.split_at(digits_end);
    let unit: u64 = match suffix.to_ascii_uppercase().as_str() {
        "" => default_unit,
        "B" => 1,
        "K" => 1 << 10,
        "M" => 1 << 20,
        "G" => 1 << 30,
        "T" => 1 << 40,
        "P" => 1 << 50,
        "E" => 1 << 60,
        _ => return None,
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let whole = whole.parse::<u64>().ok()?.checked_mul(unit)?;
    whole.checked_add(fraction_of(fraction, unit)?)
}

/// `0.fraction` of a unit, rounded down; at most nine digits count.
fn fraction_of(fraction: &str, unit: u64) -> Option<u64> {
    if fraction.is_empty() {
        return Some(0);
    }
    let digits = &fraction[..fraction.len().min(9)];
    let scale = 10_u128.pow(u32::try_from(digits.len()).ok()?);
    let part = u128::from(digits.parse::<u64>().ok()?) * u128::from(unit) / scale;
    u64::try_from(part).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(words: &str) -> CommandLine {
        let argv: Vec<_> = words.split(' ').map(str::to_owned).collect();
        CommandLine::parse(&argv).unwrap()
    }

    /// Guards every way of writing the memory size.
    #[test]
    fn memory_sizes() {
        let cases = [
            ("qemu", Some(128 << 20)),
            ("qemu -m 512", Some(512 << 20)),
            ("qemu -m 2G", Some(2 << 30)),
            ("qemu -m size=1.5g,slots=2,maxmem=8G", Some(3 << 29)),
            ("qemu -m 1048576K", Some(1 << 30)),
            ("qemu -m 512 -m 1G", Some(1 << 30)),
            ("qemu -m 1G -m maxmem=4G", Some(1 << 30)),
            ("qemu -M q35,memory.size=2G", Some(2 << 30)),
            ("qemu -m 0x10", Some(16 << 20)),
            ("qemu -m lots", None),
            ("qemu -m 99999999999E", None),
            ("qemu -m 1.2.3G", None),
        ];
        for (words, wanted) in cases {
            assert_eq!(line(words).memory_bytes().ok(), wanted, "{words}");
        }
    }

    /// Guards the number of CPUs, where topology alone gives it too.
    #[test]
    fn cpus_and_accelerators() {
        let cases = [
            ("qemu", Some(1)),
            ("qemu -smp 4", Some(4)),
            ("qemu -smp cpus=2,maxcpus=8", Some(2)),
            ("qemu -smp sockets=2,cores=4,threads=2", Some(16)),
            ("qemu -smp 2,sockets=2", Some(2)),
            ("qemu -smp many", None),
        ];
        for (words, wanted) in cases {
            assert_eq!(line(words).cpus().ok(), wanted, "{words}");
        }
        let none: [&str; 0] = [];
        assert_eq!(line("qemu").accelerators(), none);
        assert_eq!(line("qemu -enable-kvm").accelerators(), ["kvm"]);
        assert_eq!(line("qemu -M q35,accel=kvm:tcg").accelerators(), ["kvm", "tcg"]);
        assert_eq!(line("qemu -accel kvm -accel tcg,thread=multi").accelerators(), ["kvm", "tcg"]);
    }

    /// Guards that machine options merge as in QEMU: the last value of each key.
    #[test]
    fn machine_name_and_uuid() {
        let line = line(
            "qemu -M pc --machine type=q35,accel=tcg -machine usb=on -name guest=a,,b,process=x -uuid U",
        );
        assert_eq!(line.machine_type().as_deref(), Some("q35"));
        assert_eq!(line.name().as_deref(), Some("a,b"));
        assert_eq!(line.uuid().as_deref(), Some("U"));
    }
}
