//! What the host can ask for on the serial line: one command per line, one line of answer.

use std::fs::{self, File};
use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use crate::{Guest, lock, power, say};

/// Namespace of Linux's own crash dumps: the one whose variables the kernel lets be rewritten and deleted freely.
const EFI_NAMESPACE: &str = "cfc8fc79-be2e-4ddc-97f0-9f98bfe298a0";
const EFI_FOLDER: &str = "/sys/firmware/efi/efivars";
/// Non-volatile, with access at boot and at run time.
const EFI_ATTRIBUTES: [u8; 4] = [7, 0, 0, 0];

/// Answers commands until the serial line ends.
pub(crate) fn serve(guest: &Guest) {
    for line in io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        if !line.trim().is_empty() {
            say(&answer(guest, line.trim()));
        }
    }
}

fn answer(guest: &Guest, line: &str) -> String {
    let words: Vec<&str> = line.splitn(4, ' ').collect();
    match words[..] {
        ["verify"] => verify(guest),
        ["ready"] => ready(guest),
        ["sync"] => {
            power::busybox(&["sync"]);
            "SYNCED".into()
        }
        ["stop"] => power::off(guest),
        ["damage"] => damage(guest),
        ["uptime"] => format!("UPTIME {}", first_word_of("/proc/uptime")),
        ["cpus"] => format!("CPUS {}", std::thread::available_parallelism().map_or(0, usize::from)),
        ["cable"] => {
            power::busybox(&["ip", "link", "set", "eth0", "up"]);
            format!("CABLE {}", first_word_of("/sys/class/net/eth0/carrier"))
        }
        ["id"] => format!("ID {}", first_word_of("/proc/sys/kernel/random/boot_id")),
        ["clock"] => format!("CLOCK {}", milliseconds_since_1970()),
        ["churn", percent] => {
            let mut fill = guest.fill.write().unwrap_or_else(PoisonError::into_inner);
            format!("CHURNED {}", fill.churn(percent.parse().unwrap_or(0)))
        }
        ["agent", "hang"] => signal_agent("STOP"),
        ["agent", "kill"] => signal_agent("KILL"),
        ["write", name, ..] => write(name, line.splitn(3, ' ').nth(2).unwrap_or_default()),
        ["read", name] => read(name),
        ["efivar", "set", name, text] => set_variable(name, text),
        ["efivar", "get", name] => get_variable(name),
        _ => format!("UNKNOWN {line}"),
    }
}

/// What was there at start: the checksum of the fill, and the counters found on the disks.
pub(crate) fn ready(guest: &Guest) -> String {
    let disks = lock(&guest.disks);
    let sum = guest.fill.read().unwrap_or_else(PoisonError::into_inner).expected();
    let found = |index| disks.found(index).map_or_else(|| "-".into(), |counter| counter.to_string());
    format!("READY sum={sum:016x} found={} found2={}", found(0), found(1))
}

/// Checks memory and disks. The disks stand still while they are read back, so all counters must be equal.
fn verify(guest: &Guest) -> String {
    let (expected, actual) = {
        let fill = guest.fill.read().unwrap_or_else(PoisonError::into_inner);
        (fill.expected(), fill.actual())
    };
    let dirty_right = lock(&guest.dirty).is_consistent();
    let disks = lock(&guest.disks);
    let done = guest.progress.done();
    let (file, file2) = (disks.read_back(0), disks.read_back(1));
    let disk_right =
        |read: &Option<io::Result<u64>>| read.as_ref().is_none_or(|r| r.as_ref().ok() == Some(&done));
    let right = expected == actual && dirty_right && disk_right(&file) && disk_right(&file2);
    let number = |read: Option<io::Result<u64>>| match read {
        None => "-".into(),
        Some(Ok(counter)) => counter.to_string(),
        Some(Err(error)) => format!("{:?}", error.kind()),
    };
    let done2 = if file2.is_some() { done.to_string() } else { "-".into() };
    let verdict = |right| if right { "OK" } else { "BAD" };
    format!(
        "VERIFY ok={} big={} sum={actual:016x} dirty={} tick={} disk={done} disk2={done2} file={} file2={}",
        u8::from(right),
        verdict(expected == actual),
        verdict(dirty_right),
        guest.ticks.load(Ordering::SeqCst),
        number(file),
        number(file2),
    )
}

fn damage(guest: &Guest) -> String {
    guest.fill.write().unwrap_or_else(PoisonError::into_inner).damage();
    lock(&guest.dirty).damage();
    match lock(&guest.disks).damage() {
        Ok(()) => "DAMAGED".into(),
        Err(error) => format!("DAMAGE failed: {error}"),
    }
}

fn write(name: &str, text: &str) -> String {
    match write_durably(&file_on_disk(name), text) {
        Ok(()) => format!("WROTE {name}"),
        Err(error) => format!("WRITE {name} failed: {error}"),
    }
}

fn write_durably(path: &Path, text: &str) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    File::open("/mnt")?.sync_all()
}

fn read(name: &str) -> String {
    fs::read_to_string(file_on_disk(name))
        .map_or_else(|_| format!("READ {name} missing"), |t| format!("READ {name} = {t}"))
}

fn file_on_disk(name: &str) -> PathBuf {
    Path::new("/mnt").join(name.replace('/', "_"))
}

fn set_variable(name: &str, text: &str) -> String {
    let content = [&EFI_ATTRIBUTES, text.as_bytes()].concat();
    // The kernel takes a variable as one write: attributes, then content.
    match fs::write(variable(name), content) {
        Ok(()) => format!("EFIVAR {name} set"),
        Err(error) => format!("EFIVAR {name} failed: {error}"),
    }
}

fn get_variable(name: &str) -> String {
    match fs::read(variable(name)) {
        Ok(bytes) => {
            format!("EFIVAR {name} = {}", String::from_utf8_lossy(bytes.get(4..).unwrap_or_default()))
        }
        Err(error) => format!("EFIVAR {name} missing: {error}"),
    }
}

fn variable(name: &str) -> PathBuf {
    Path::new(EFI_FOLDER).join(format!("{name}-{EFI_NAMESPACE}"))
}

/// What the guest takes for the time of day.
fn milliseconds_since_1970() -> u128 {
    #[allow(clippy::disallowed_methods, reason = "the host asks for this very clock")]
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis())
}

fn signal_agent(signal: &str) -> String {
    power::busybox(&["killall", &format!("-{signal}"), "qemu-ga"]);
    format!("AGENT {signal}")
}

fn first_word_of(path: &str) -> String {
    fs::read_to_string(path)
        .ok()
        .and_then(|text| text.split_whitespace().next().map(String::from))
        .unwrap_or_default()
}
