//! Which process a VM's QEMU is, where notes, locks and sockets agree, and where they don't.

use std::os::unix::net::UnixListener;
use std::process::{Child, Command};

use super::*;
use crate::testing::folder;
use crate::vm::session::inherit;

/// Somebody who holds the VM's `alive`, as QEMU does.
fn living(folder: &VmFolder) -> Child {
    let mut command = Command::new("sleep");
    inherit(command.arg("600"), Alive::take(folder).unwrap()).spawn().unwrap()
}

fn end(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

fn note(folder: &VmFolder, change: impl FnOnce(&mut Note)) {
    let mut note: Note = folder.files().read_json(&folder.process(), RECORD_VERSION).unwrap().unwrap();
    change(&mut note);
    folder.files().write_json(&folder.process(), &note).unwrap();
}

/// Guards the way from a VM to its process and back: found while it lives, by its own mark, and not afterwards.
#[test]
fn a_qemu_is_found_as_long_as_it_lives() {
    let (_dir, folder) = folder();
    assert!(Process::find(&folder).unwrap().is_none(), "a VM that was never started");
    let qemu = living(&folder);
    Process::remember(qemu.id(), &folder).unwrap();
    let found = Process::find(&folder).unwrap().unwrap();
    assert_eq!((found.mark.pid, Some(found.mark)), (qemu.id(), ProcessMark::of(qemu.id())));
    assert!(found.is_alive() && !found.wait_end(Duration::from_millis(1)));
    assert!(resident_bytes(found.mark.pid).unwrap() > 0);
    found.kill().unwrap();
    assert!(!found.is_alive());
    end(qemu);
    assert!(Process::find(&folder).unwrap().is_none());
    assert_eq!(resident_bytes(found.mark.pid), None);
    found.kill().unwrap();
}

/// Guards a VM's layers: while one QEMU lives no other can be started, by whatever command.
#[test]
fn a_second_qemu_is_refused() {
    let (_dir, folder) = folder();
    let qemu = living(&folder);
    Process::remember(qemu.id(), &folder).unwrap();
    let error = Alive::take(&folder).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    assert!(folder.process().exists(), "its note is of one that lives");
    end(qemu);
    drop(Alive::take(&folder).unwrap());
    assert!(!folder.process().exists(), "the note is of one that is gone");
}

/// Guards everybody else's processes: a pid that was given to another process, in this boot, after the next or in another
/// container, is not the VM's QEMU.
#[test]
fn a_pid_alone_counts_for_nothing() {
    let another_start = |note: &mut Note| note.process.iter_mut().for_each(|mark| mark.start_ticks += 1);
    let another_boot = |note: &mut Note| note.boot = "another".into();
    for (what, is_start) in [("another start", true), ("another boot", false)] {
        let (_dir, folder) = folder();
        let helper = living(&folder);
        Process::remember(helper.id(), &folder).unwrap();
        note(&folder, |note| if is_start { another_start(note) } else { another_boot(note) });
        // What holds the lock is then a helper that QEMU left behind.
        assert!(Process::find(&folder).unwrap().is_none(), "{what}");
        drop(Alive::take(&folder).unwrap_or_else(|error| panic!("{what}: {error}")));
        end(helper);
    }
}

/// Guards a QEMU whose command died before it had written down which one it is: the kernel says who listens on its socket.
#[test]
fn a_qemu_without_a_note_is_known_by_its_socket() {
    let (_dir, folder) = folder();
    std::fs::create_dir(folder.run()).unwrap();
    let qemu = living(&folder);
    let _listener = UnixListener::bind(folder.run().join(socket::STATUS)).unwrap();
    let found = Process::find(&folder).unwrap().unwrap();
    assert_eq!(found.mark.pid, std::process::id(), "who listens is this test");
    std::fs::write(folder.process(), "cut o").unwrap();
    assert_eq!(
        Process::find(&folder).unwrap().unwrap().mark,
        found.mark,
        "a note that can't be read is as good as none"
    );
    end(qemu);
    assert!(Process::find(&folder).unwrap().is_none(), "nobody holds the lock");
}

/// Guards a VM's images: a process that has given the lock up, and still closes its files, is waited for.
#[test]
fn a_qemu_that_is_ending_is_waited_for() {
    let (_dir, folder) = folder();
    drop(Alive::take(&folder).unwrap());
    let mut ending = Command::new("sleep").arg("0.3").spawn().unwrap();
    Process::remember(ending.id(), &folder).unwrap();
    assert!(Process::find(&folder).unwrap().is_none());
    assert!(Process::open(ending.id(), folder.run()).unwrap().is_none(), "it was not waited for");
    ending.wait().unwrap();
}

/// Guards the next start: once a QEMU is forgotten nothing of it stands in the way, whoever holds its old lock.
#[test]
fn a_qemu_that_is_forgotten_leaves_nothing() {
    let (_dir, folder) = folder();
    let helper = living(&folder);
    Process::remember(helper.id(), &folder).unwrap();
    assert!(Process::left_its_note(&folder));
    Process::forget(&folder).unwrap();
    Process::forget(&folder).unwrap();
    assert!(!Process::left_its_note(&folder) && Process::find(&folder).unwrap().is_none());
    drop(Alive::take(&folder).unwrap());
    end(helper);
}

/// Guards against processes that can't be: 0, more than a pid can be, one that is gone.
#[test]
fn no_process_is_opened_that_is_not_there() {
    let mut gone = Command::new("true").spawn().unwrap();
    gone.wait().unwrap();
    for pid in [0, u32::MAX, 1 << 23, gone.id()] {
        assert!(Process::open(pid, PathBuf::new()).unwrap().is_none(), "{pid}");
    }
}
