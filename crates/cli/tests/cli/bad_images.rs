//! Guards the user's images, and the host's files against images from elsewhere.

use std::fs::OpenOptions;
use std::io::Write;

use vmrewind_testkit::qemu;

use crate::sandbox::{QEMU, Run, Sandbox};

fn create(sandbox: &Sandbox, disk: &str, more: &[&str]) -> Run {
    let drive = format!("file={disk},if=virtio,format=qcow2");
    sandbox.run(&[&["vm", "create", "web"], more, &["--"], QEMU, &["-drive", &drive]].concat())
}

#[test]
fn missing() {
    let sandbox = Sandbox::new();
    create(&sandbox, "none.qcow2", &[]).fails(1, &["none.qcow2", "No such file"]);
    sandbox.run(&["vm", "create", "web", "--disk", "none.qcow2"]).fails(1, &["none.qcow2", "No such file"]);
    assert_eq!(sandbox.ok(&["vm", "list", "--json"]), "[]\n");
}

/// An image from elsewhere that names a host file would give its content to the guest.
#[test]
fn images_that_name_other_files() {
    let sandbox = Sandbox::new();
    let secret = sandbox.path("secret");
    std::fs::write(&secret, vec![7; 1 << 20]).unwrap();
    let backed = sandbox.path("backed.qcow2");
    sandbox.qemu_img(&["create", "-q", "-f", "qcow2", "-F", "raw", "-b", &secret, &backed]);
    let outside = sandbox.path("outside.qcow2");
    let option = format!("data_file={}", sandbox.path("data.raw"));
    sandbox.qemu_img(&["create", "-q", "-f", "qcow2", "-o", &option, &outside, "1M"]);
    for (image, kind) in [(&backed, "backing file"), (&outside, "data file")] {
        create(&sandbox, image, &[]).fails(5, &[image, kind, "hint:", "--trust-backing"]);
        sandbox.run(&["vm", "create", "web", "--disk", image]).fails(5, &[kind, "--trust-backing"]);
        let trusted = create(&sandbox, image, &["--trust-backing"]);
        assert_eq!(trusted.status, Some(0), "{trusted:?}");
        sandbox.ok(&["vm", "delete", "web", "-y"]);
    }
}

/// Two writers would destroy the image.
#[test]
fn in_use_by_another_qemu() {
    let sandbox = Sandbox::new();
    let disk = sandbox.disk("a.qcow2");
    let run = sandbox.folder().join("run");
    std::fs::create_dir(&run).unwrap();
    let drive = format!("file={disk},if=virtio");
    let line: Vec<String> = QEMU.iter().copied().chain(["-S", "-drive", &drive]).map(str::to_owned).collect();
    let other = qemu::spawn(&line, &run).unwrap();
    create(&sandbox, &disk, &[]).fails(5, &["in use", &disk, "hint:"]);
    drop(other);
    assert_eq!(create(&sandbox, &disk, &[]).status, Some(0));
}

#[test]
fn one_image_for_two_disks() {
    let sandbox = Sandbox::new();
    let disk = sandbox.disk("a.qcow2");
    sandbox.run(&["vm", "create", "web", "--disk", &disk, "--disk", &disk]).fails(5, &["same image", &disk]);
}

/// All snapshots read through the base: what was changed under them is said before anything is built on it.
#[test]
fn a_base_that_was_changed() {
    let sandbox = Sandbox::new();
    sandbox.vm("web");
    let mut base = OpenOptions::new().append(true).open(sandbox.path("web.qcow2")).unwrap();
    base.write_all(&[0; 512]).unwrap();
    for command in [&["vm", "start", "web"][..], &["snapshot", "create", "web"]] {
        sandbox.run(command).fails(5, &["web.qcow2", "changed since", "hint:"]);
    }
}
