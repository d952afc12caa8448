//! What the host is told: lines on the serial port.

use std::fs;
use std::io::Write;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use crate::lock;

/// Counts the bytes of each serial port.
const PORTS: &str = "/proc/tty/driver/serial";
/// A line takes far less, even where the host is busy.
const PATIENCE: Duration = Duration::from_millis(200);

/// One line at a time, so that the bytes counted are those of the line.
static LINE: Mutex<()> = Mutex::new(());

/// Writes one line to the serial port, whole, and returns when it has left the kernel.
pub(crate) fn say(line: &str) {
    let _line = lock(&LINE);
    let line = format!("{line}\n");
    let before = sent_bytes();
    // Nobody can be told when the console fails; the host notices by the missing ticks.
    let _ = std::io::stdout().lock().write_all(line.as_bytes());
    let deadline = Instant::now() + PATIENCE;
    // With two processors the one that sends can be behind the one that writes.
    while let Some(before) = before
        && sent_bytes().is_some_and(|now| now < before + line.len() as u64)
        && Instant::now() < deadline
    {
        thread::yield_now();
    }
}

/// Bytes that have been given to the first serial port; none where the console is something else.
fn sent_bytes() -> Option<u64> {
    let ports = fs::read_to_string(PORTS).ok()?;
    let first = ports.lines().find(|line| line.starts_with("0:"))?;
    first.split(' ').find_map(|field| field.strip_prefix("tx:"))?.parse().ok()
}
