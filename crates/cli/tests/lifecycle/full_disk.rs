//! A root on a file system that fills up: while memory is captured, while clones are to share it, while it is restored.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;
use vmrewind_testkit::guest::{DiskKind, GuestOptions, Mix};
use vmrewind_testkit::rig::Action::{Damage, Restore, Snapshot, Unplug, Verify};
use vmrewind_testkit::rig::{GuestSpec, Rig};

use crate::failures::{SOON, names, unharmed, wait_until};
use crate::lazy::signal_servers;
use crate::{assert_says, is_root};

/// A small file system in memory, for as long as this lives.
pub(crate) struct SmallDisk {
    path: PathBuf,
    _folder: TempDir,
}

impl SmallDisk {
    /// One of 1000 MiB, with a rig whose root is on it; nothing where only root can set that up.
    pub(crate) fn with_rig() -> Option<(Self, Rig)> {
        if !is_root("a small file system") {
            return None;
        }
        let folder = tempfile::Builder::new().prefix("rig-").tempdir().unwrap();
        let path = folder.path().join("small");
        fs::create_dir(&path).unwrap();
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=1000m", "rig"]).arg(&path).status();
        assert!(mount.unwrap().success());
        let rig = Rig::with_root(Path::new(env!("CARGO_BIN_EXE_vmrewind")), &path.join("root"));
        Some((Self { path, _folder: folder }, rig))
    }

    fn free_bytes(&self) -> u64 {
        let stat = rustix::fs::statvfs(&self.path).unwrap();
        stat.f_bavail * stat.f_frsize
    }

    /// Takes all space but this; gives the file that is to be removed to free it.
    pub(crate) fn fill(&self, leave_bytes: u64) -> PathBuf {
        let path = self.path.join("ballast");
        let file = File::create(&path).unwrap();
        let mut taken = 0;
        // By halves: whoever writes at the same time would make one large step fail.
        while let Some(step @ 1..) = self.free_bytes().checked_sub(leave_bytes).map(|free| free.div_ceil(2)) {
            let flags = rustix::fs::FallocateFlags::empty();
            if rustix::fs::fallocate(&file, flags, taken, step.next_multiple_of(4096)).is_ok() {
                taken += step.next_multiple_of(4096);
            }
        }
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a test that fails can leave files open.
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}

/// A guest whose disks hardly write, of memory that does not compress.
fn guest(fill_mib: u32, change: impl FnOnce(&mut GuestOptions)) -> GuestSpec {
    GuestSpec::new("full").disk("disk.qcow2", "qcow2", DiskKind::Virtio).with(|options| {
        options.memory_mib = 512;
        options.fill_mib = fill_mib;
        options.mix = Mix::Random;
        options.disk_ms = 3_600_000;
        change(options);
    })
}

/// Guards a full disk: foreseen or not, the capture fails, nothing is left of it, and the guest does not notice.
#[test]
fn a_disk_that_fills_up_costs_only_the_snapshot() {
    let Some((small, rig)) = SmallDisk::with_rig() else { return };
    let guest = rig.guest(guest(320, |_| {}));
    guest.ask("sync", "SYNCED");
    let before = names(&rig);

    let ballast = small.fill(24 << 20);
    let error = rig.run_fails(&["snapshot", "create", "full", "foreseen"], 1);
    assert_says(&error, "not enough space");
    unharmed(&guest, &before);
    fs::remove_file(&ballast).unwrap();

    // There is space when it is looked for, and little of it once memory comes.
    let capture = rig.stop_at("guard-armed", &["snapshot", "create", "full", "unforeseen", "--json"]);
    let ballast = small.fill(16 << 20);
    let run = capture.go_on(SOON);
    assert_eq!(run.status, 1, "{run}");
    assert_says(&run.error(), "space");
    unharmed(&guest, &before);
    fs::remove_file(&ballast).unwrap();

    guest.play(&[Snapshot("one"), Damage, Restore("one"), Unplug]);
}

/// Guards a full disk where clones are to share memory: nothing is made, and what needs less room can be.
#[test]
fn a_disk_without_room_for_a_memory_file_makes_no_clone() {
    let Some((small, rig)) = SmallDisk::with_rig() else { return };
    let guest = rig.guest(guest(128, |options| options.memory_mib = 256));
    guest.play(&[Snapshot("one")]);
    let before = names(&rig);
    let ballast = small.fill(100 << 20);
    let error = rig.run_fails(&["vm", "clone", "full@one", "c", "--count", "2", "--start"], 1);
    assert_says(&error, "memory file");
    assert_says(&error, "--cold");
    guest.runs();
    let after = names(&rig);
    assert_eq!(
        after.iter().filter(|path| !before.contains(path)).collect::<Vec<_>>(),
        Vec::<&PathBuf>::new()
    );
    rig.run_ok(&["vm", "clone", "full@one", "booted", "--cold"]);
    fs::remove_file(&ballast).unwrap();
    let (clone, _) = guest.clone_as("one", "c", &["--start"]);
    clone.play(&[Verify, Unplug]);
    guest.play(&[Verify, Unplug]);
}

/// Guards a disk that fills up while a guest gets its memory: all of that comes; a guest that wants to write its disk
/// stands still and it is said why; a restore that has no room for new layers leaves the guest as it is; and with space again all is well.
#[test]
fn a_disk_that_fills_up_during_a_lazy_restore() {
    let Some((small, rig)) = SmallDisk::with_rig() else { return };
    let guest = rig.guest(guest(192, |options| options.disk_ms = 20));
    guest.play(&[Snapshot("one")]);
    let other = rig.guest(GuestSpec::new("other"));
    other.play(&[Snapshot("kept")]);

    let view = rig.run_json(&["snapshot", "restore", "full@one"]);
    let is_lazy = view["mode"] == "lazy";
    signal_servers(&rig, "full", "-STOP");
    let ballast = small.fill(0);
    signal_servers(&rig, "full", "-CONT");
    wait_until("the guest met the full disk", || guest.state_now() == "io-error");
    wait_until("all memory has come", || guest.show()["restore"] == Value::Null);
    assert!(!is_lazy || guest.show()["failure"] == Value::Null, "{}", guest.show());
    let text = rig.run_ok(&["vm", "show", "full"]).stdout;
    assert!(text.contains("io-error") && text.contains("full"), "{text}");
    assert_says(&rig.run_fails(&["snapshot", "create", "full", "two"], 5), "io-error");

    let before = names(&rig);
    assert_says(&rig.run_fails(&["snapshot", "restore", "full@one"], 1), "not enough space");
    assert_eq!((names(&rig), guest.state_now().as_str()), (before, "io-error"));
    other.play(&[Verify]);
    assert_eq!(rig.run_json(&["vm", "show", "other"])["state"], "running");
    fs::remove_file(&ballast).unwrap();

    // To undo one that was begun takes no space.
    let begun = rig.stop_at("layers-made", &["snapshot", "restore", "full@one"]);
    let ballast = small.fill(0);
    begun.kill();
    assert_eq!(guest.state_now(), "io-error");
    assert!(!rig.vm_folder("full").join("journal.json").exists());
    fs::remove_file(&ballast).unwrap();
    // Where it stood still it goes on: nothing was lost but time.
    guest.qmp("cont", &serde_json::json!({}));
    guest.runs();
    rig.run_ok(&["check", "--read-data"]);
    guest.play(&[Damage, Restore("one"), Snapshot("two"), Restore("two"), Unplug]);
    other.play(&[Restore("kept"), Unplug]);
}
