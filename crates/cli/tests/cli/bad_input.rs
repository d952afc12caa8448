//! Guards what is said, and which exit status is given, where a request can't be carried out.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::sandbox::{QEMU, Run, Sandbox};

/// What does not exist is status 4, whatever is done to it.
#[test]
fn unknown_names() {
    let sandbox = Sandbox::new();
    sandbox.vm("web");
    for verb in [
        &["vm", "show"][..],
        &["vm", "start"],
        &["vm", "stop"],
        &["vm", "delete", "-y"],
        &["vm", "console"],
        &["snapshot", "create"],
        &["snapshot", "list"],
    ] {
        let run = sandbox.run(&[verb, &["nobody"]].concat());
        run.fails(4, &["error: there is no VM 'nobody'", "hint: `vmrewind vm list`"]);
    }
    for verb in [
        &["snapshot", "show"][..],
        &["snapshot", "restore"],
        &["snapshot", "verify"],
        &["snapshot", "delete", "-y"],
    ] {
        sandbox
            .run(&[verb, &["web@nothing"]].concat())
            .fails(4, &["VM 'web' has no snapshot 'nothing'", "hint: "]);
        sandbox.run(&[verb, &["nobody@x"]].concat()).fails(4, &["there is no VM 'nobody'"]);
    }
    sandbox.run(&["snapshot", "rename", "web@nothing", "new"]).fails(4, &["no snapshot 'nothing'"]);
}

/// A name becomes a folder: none may lead out of the root, and a long one is not repeated in full.
#[test]
fn illegal_names() {
    let sandbox = Sandbox::new();
    let long = "x".repeat(300);
    for name in ["../x", "", ".", "a/b", "a b", "a@b", "ü", &long] {
        let create = sandbox.run(&[&["vm", "create", name, "--"], QEMU].concat());
        create.fails(2, &["error: VM name", "is not allowed", "hint: use 1 to 64 letters"]);
        assert!(create.stderr.len() < 300, "{create:?}");
        assert_eq!(sandbox.run(&["vm", "show", name]).status, Some(2), "{name}");
    }
    sandbox.vm("web");
    for name in ["../x", "", &long] {
        let create = sandbox.run(&["snapshot", "create", "web", name]);
        create.fails(2, &["error: snapshot name", "is not allowed"]);
        assert_eq!(sandbox.run(&["snapshot", "show", &format!("web@{name}")]).status, Some(2), "{name}");
    }
    sandbox.run(&["snapshot", "show", "web"]).fails(2, &["'web' is not the address", "VM@SNAPSHOT"]);
}

#[test]
fn names_that_are_taken() {
    let sandbox = Sandbox::new();
    sandbox.vm("web");
    sandbox
        .run(&[&["vm", "create", "web", "--"], QEMU].concat())
        .fails(5, &["there is a VM 'web' already", "hint:"]);
    sandbox.ok(&["snapshot", "create", "web", "one"]);
    sandbox.run(&["snapshot", "create", "web", "one"]).fails(5, &["'one'", "already"]);
    sandbox.ok(&["snapshot", "create", "web", "two"]);
    sandbox.run(&["snapshot", "rename", "web@two", "one"]).fails(5, &["'one' already"]);
}

/// Sizes and durations need their units, and what excludes each other is not mixed.
#[test]
fn usage() {
    let sandbox = Sandbox::new();
    let disk = sandbox.disk("a.qcow2");
    for (arguments, words) in [
        (&["vm", "create", "web"][..], "--disk"),
        (&["vm", "create", "web", "--disk", &disk, "--memory", "512"], "unit"),
        (&["vm", "create", "web", "--disk", &disk, "--memory", "2GB"], "unit"),
        (&["vm", "create", "web", "--disk", &disk, "--cpus", "0"], "--cpus"),
        (&["vm", "create", "web", "--disk", &disk, "--accel", "xen"], "possible values: kvm, tcg"),
        (&["vm", "create", "web", "--disk", &disk, "--net", "wifi"], "user, none and bridge=NAME"),
        (&["vm", "create", "web", "--disk", &disk, "--", "qemu-system-x86_64"], "cannot be used with"),
        (&["vm", "create", "web", "--cpus", "1", "--", "qemu-system-x86_64"], "cannot be used with"),
        (&["vm", "stop", "web", "--timeout", "60"], "unit"),
        (&["vm", "stop", "web", "--force", "--timeout", "60s"], "cannot be used with"),
        (&["snapshot", "create", "web", "--require", "best"], "possible values: live, crash, off]"),
        (&["snapshot", "create", "web", "--label", "x"], "KEY=VALUE"),
        (&["snapshot", "create", "web", "--max-pause", "fast"], "unit"),
        (&["snapshot", "delete"], "VM@NAME"),
        (&["snapshot", "create", "web@x", "y"], "'web@x' is a whole address"),
        (&["snapshot", "restore", "web@x", "y"], "VM and NAME as two words"),
        (&["snapshot", "delete", "web@x", "y", "-y"], "write each snapshot as VM@NAME"),
        (&["snapshot", "delete", "web", "-y"], "'web' is not the address"),
        (&["snapshot", "rename", "web", "x"], "'web' is not the address"),
        (&["snapshot", "rename", "web@x", "y", "z"], "'web@x' is a whole address"),
        (&["snapshot", "delete", "a@x", "b@y", "-y"], "several VMs"),
        (&["vm", "lisst"], "list"),
        (&["--root", "", "vm", "list"], "--root"),
    ] {
        sandbox.run(arguments).fails(2, &[words]);
    }
    assert!(!sandbox.root().join("vms/web").exists());
}

/// A root that a later vmrewind wrote must not be touched by this one.
#[test]
fn a_root_of_a_newer_format() {
    let sandbox = Sandbox::new();
    sandbox.vm("web");
    fs::write(sandbox.root().join("VERSION"), "99\n").unwrap();
    sandbox.run(&["vm", "list"]).fails(5, &["format version 99", "hint: use the vmrewind that wrote it"]);
    let doctor = sandbox.run(&["doctor"]);
    assert_eq!(doctor.status, Some(1), "{doctor:?}");
    assert!(doctor.stdout.contains("format version 99"), "{doctor:?}");
}

/// A slip in a path must not be answered with an empty root of that name; only a VM that is put there makes one.
#[test]
fn a_root_that_is_not_there() {
    let sandbox = Sandbox::new();
    let typo = sandbox.path("typo");
    for arguments in [
        &["vm", "list"][..],
        &["snapshot", "list"],
        &["usage"],
        &["gc"],
        &["check"],
        &["vm", "show", "web"],
        &["vm", "start", "web"],
        &["vm", "delete", "web", "-y"],
        &["vm", "clone", "web@one", "new"],
        &["snapshot", "list", "web"],
        &["snapshot", "create", "web"],
        &["snapshot", "restore", "web@one"],
        &["guard", "web", "--", "true"],
    ] {
        let run = sandbox.run(&[&["--root", &typo], arguments].concat());
        run.fails(4, &[&format!("there is no root '{typo}'"), "hint: is it the one you mean"]);
    }
    // An empty folder is not taken for one either.
    fs::create_dir(&typo).unwrap();
    sandbox.run(&["--root", &typo, "vm", "list"]).fails(4, &["there is no root"]);
    assert!(fs::read_dir(&typo).unwrap().next().is_none());
    // The root of all commands has no VMs until there is a first one.
    for arguments in
        [&["vm", "list"][..], &["snapshot", "list"], &["usage"], &["gc"], &["check"], &["doctor"]]
    {
        sandbox.ok(arguments);
    }
    sandbox.run(&["vm", "show", "web"]).fails(4, &["there is no root"]);
    assert!(!sandbox.root().exists(), "looking made a root");
    sandbox.vm("web");
    assert_eq!(sandbox.json(&["vm", "list"])[0]["name"], "web");
}

#[test]
fn a_folder_that_is_no_root() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.folder().join("letter.txt"), "dear").unwrap();
    sandbox
        .run(&["vm", "list", "--root", &sandbox.path("")])
        .fails(5, &["is not a vmrewind root", "letter.txt"]);
    sandbox.run(&["vm", "list", "--root", &sandbox.path("letter.txt")]).fails(1, &["letter.txt"]);
}

/// Damage is told apart from all other failures, and names the file. A manifest's is that of its snapshot: what was done
/// to the VM is no failure for it.
#[test]
fn damaged_records() {
    let sandbox = Sandbox::new();
    sandbox.vm("web");
    sandbox.ok(&["snapshot", "create", "web", "one"]);
    let manifest = sandbox.manifest("web");
    let id = manifest.file_stem().unwrap().to_str().unwrap().to_owned();
    let whole = fs::read(&manifest).unwrap();
    sandbox.ok(&["snapshot", "create", "web", "two"]);
    for bytes in [&b"{\"version\": 1"[..], b"", b"[]", &whole[..whole.len() / 2]] {
        fs::write(&manifest, bytes).unwrap();
        for command in [["snapshot", "show", "web@one"], ["snapshot", "verify", "web@one"]] {
            sandbox.run(&command).fails(7, &["is damaged", manifest.to_str().unwrap(), "hint:", &id]);
        }
        for command in
            [&["snapshot", "list"][..], &["snapshot", "list", "web", "--tree"], &["vm", "show", "web"]]
        {
            let text = sandbox.ok(command);
            assert!(text.contains("damaged") && text.contains(&id), "{text}");
        }
        assert!(sandbox.ok(&["vm", "list"]).contains("1 (1 damaged)"));
        let list = sandbox.json(&["snapshot", "list", "web"]);
        assert_eq!((&list[0]["name"], &list[1]["id"]), (&"two".into(), &id.as_str().into()), "{list}");
        assert!(list[1]["damaged"].as_str().unwrap().contains("is damaged"), "{list}");
        assert_eq!(sandbox.run(&["check"]).status, Some(7));
        sandbox.ok(&["snapshot", "restore", "web@two", "--discard-current"]);
        assert_eq!(sandbox.json(&["vm", "start", "web"])["state"], "running");
        assert_eq!(sandbox.json(&["vm", "stop", "web", "--force"])["state"], "stopped");
    }
    let plan = sandbox.json(&["snapshot", "delete", &format!("web@{id}"), "--dry-run"]);
    assert_eq!(plan["snapshots"], serde_json::json!([format!("web@{id}")]));
    fs::write(&manifest, &whole).unwrap();
    sandbox.ok(&["snapshot", "restore", "web@one"]);
    let record = sandbox.root().join("vms/web/vm.json");
    let whole = fs::read(&record).unwrap();
    fs::write(&record, "{}").unwrap();
    sandbox.run(&["vm", "show", "web"]).fails(7, &["vm.json' is damaged", "hint:"]);
    sandbox.run(&["vm", "start", "web"]).fails(7, &["vm.json' is damaged"]);
    fs::write(&record, whole).unwrap();
    sandbox.ok(&["vm", "start", "web"]);
    fs::write(&record, "{}").unwrap();
    let stopped = sandbox.run(&["vm", "stop", "web", "--force"]);
    assert_eq!((stopped.status, &*stopped.stdout), (Some(0), "web: stopped\n"), "{stopped:?}");
    assert!(stopped.stderr.contains("vm.json' is damaged"), "{stopped:?}");
}

/// Whoever may not write the root is told so, and by which path.
#[test]
fn no_permission() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.root()).unwrap();
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    mode(&sandbox.root(), 0o555);
    mode(sandbox.folder(), 0o755);
    // The build's folder can be one that others may not enter.
    let copy = sandbox.folder().join("vmrewind");
    fs::copy(env!("CARGO_BIN_EXE_vmrewind"), &copy).unwrap();
    let create = ["vm", "create", "web", "--", "qemu-system-x86_64"];
    let run = if rustix::process::geteuid().is_root() {
        let mut command = sandbox.prepared(Path::new("setpriv"));
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&copy);
        Run::of(&command.args(create).output().unwrap())
    } else {
        sandbox.run(&create)
    };
    run.fails(1, &[sandbox.root().to_str().unwrap(), "Permission denied", "hint: check the owner and mode"]);
    mode(&sandbox.root(), 0o755);
}

/// A guest that is not there, a program that is too old, and one that is no QEMU at all.
#[test]
fn programs() {
    let sandbox = Sandbox::new();
    let program = |name: &str, prints: &str| {
        let path = sandbox.folder().join(name);
        fs::write(&path, format!("#!/bin/sh\necho '{prints}'\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        sandbox.path(name)
    };
    let old = program("qemu-old", "QEMU emulator version 6.2.0 (Debian 1:6.2)");
    let other = program("other", "something else");
    sandbox
        .run(&["vm", "create", "web", "--", &old])
        .fails(1, &["QEMU 6.2.0", "not supported", "7.2 or later"]);
    sandbox.run(&["vm", "create", "web", "--", &other]).fails(1, &["does not say which version of QEMU"]);
    sandbox
        .run(&["vm", "create", "web", "--", "no-such-qemu"])
        .fails(1, &["cannot run 'no-such-qemu'", "hint:"]);
    assert_eq!(sandbox.ok(&["vm", "list", "--json"]), "[]\n");
}

/// What a restore point could not keep is refused before the VM is taken over, and the option is named.
#[test]
fn unsupported_options() {
    let sandbox = Sandbox::new();
    for options in [
        &["-snapshot"][..],
        &["-daemonize"],
        &["-incoming", "defer"],
        &["-device", "vfio-pci,host=00:02.0"],
        &["-device", "vhost-user-blk-pci,chardev=c"],
        &["-virtfs", "local,path=/tmp,mount_tag=x,security_model=none"],
        &["-readconfig", "machine.cfg"],
    ] {
        let run = sandbox.run(&[&["vm", "create", "web", "--"], QEMU, options].concat());
        run.fails(5, &["cannot take over this QEMU command line", options[0], "hint:"]);
    }
    assert_eq!(sandbox.ok(&["vm", "list", "--json"]), "[]\n");
}

/// A QEMU that does not start is heard: its own words say what to mend.
#[test]
fn qemu_that_refuses_to_start() {
    let sandbox = Sandbox::new();
    sandbox.vm_with("web", &["-device", "flux-capacitor"]);
    let run = sandbox.run(&["vm", "start", "web"]);
    run.fails(
        1,
        &["QEMU did not start VM 'web'", "'flux-capacitor' is not a valid device model name", "qemu.log"],
    );
    assert_eq!(sandbox.json(&["vm", "show", "web"])["state"], "stopped");
}
