//! Ends the guest as a well-behaved system would: on the ACPI power button, or when told.

use std::fs::File;
use std::io::Read;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::{Guest, lock, say};

/// Watches every input device for the power button, and powers off when it is pressed.
///
/// The layout read is `struct input_event` of linux/input.h on 64-bit: 16 bytes of time, u16 type, u16 code, i32 value.
pub(crate) fn watch_buttons(guest: &Arc<Guest>) {
    let Ok(devices) = std::fs::read_dir("/dev/input") else { return };
    for device in devices.flatten().filter(|device| device.file_name().to_string_lossy().starts_with("event"))
    {
        if let Ok(events) = File::open(device.path()) {
            let guest = Arc::clone(guest);
            thread::spawn(move || wait_for_button(&guest, events));
        }
    }
}

fn wait_for_button(guest: &Guest, mut events: File) {
    const EV_KEY: u16 = 1;
    const KEY_POWER: u16 = 116;
    let mut event = [0; 24];
    while events.read_exact(&mut event).is_ok() {
        let kind = u16::from_ne_bytes([event[16], event[17]]);
        let code = u16::from_ne_bytes([event[18], event[19]]);
        let pressed = event[20..24] != [0; 4];
        if kind == EV_KEY && code == KEY_POWER && pressed {
            off(guest);
        }
    }
}

/// Stops the counters, unmounts the disks and powers off.
pub(crate) fn off(guest: &Guest) -> ! {
    let mut disks = lock(&guest.disks);
    disks.close();
    busybox(&["sync"]);
    busybox(&["umount", "-r", "/mnt2"]);
    busybox(&["umount", "-r", "/mnt"]);
    say("STOPPING");
    loop {
        busybox(&["poweroff", "-f"]);
        thread::sleep(Duration::from_secs(1));
    }
}

/// Runs a busybox applet; what it says is of no use to the host.
pub(crate) fn busybox(arguments: &[&str]) {
    let quiet = std::process::Stdio::null;
    let _ =
        Command::new("/bin/busybox").args(arguments).stdin(quiet()).stdout(quiet()).stderr(quiet()).status();
}
