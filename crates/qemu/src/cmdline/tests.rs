//! Whole command lines as people and programs write them: what is found in them, and what an edit leaves.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn argv(words: &[&str]) -> Vec<String> {
    std::iter::once("qemu-system-x86_64").chain(words.iter().copied()).map(str::to_owned).collect()
}

fn line(words: &[&str]) -> CommandLine {
    CommandLine::parse(&argv(words)).unwrap()
}

/// Name, image, format and QMP handle of each disk, in one readable line.
fn summary(disks: &[DiskSpec]) -> Vec<String> {
    let one = |disk: &DiskSpec| {
        let place = match &disk.base.location {
            BaseLocation::File(path) => path.clone(),
            BaseLocation::Json(graph) => graph.to_string(),
            BaseLocation::Uri(name) => format!("uri {name}"),
        };
        let handle = match &disk.handle {
            BlockHandle::Device(name) => format!("device {name}"),
            BlockHandle::Node(name) => format!("node {name}"),
        };
        format!("{} = {place} ({}) {handle}", disk.name, disk.base.format.as_deref().unwrap_or("?"))
    };
    disks.iter().map(one).collect()
}

/// The options behind the program after every disk was put on `/d/NAME`.
fn on_deltas(words: &[&str]) -> Vec<String> {
    let mut line = line(words);
    for disk in line.disks().unwrap() {
        line.set_disk_file(&disk, &format!("/d/{}", disk.name)).unwrap();
    }
    line.to_argv()[1..].to_vec()
}

#[test]
fn the_short_forms_are_drives() {
    // Guards names, ids and expansion against what QEMU 10.0.2 shows in query-block.
    let words =
        ["a.img", "--hdb", "b,1.img", "-fda", "f.img", "-cdrom", "c.iso", "-sd", "s.img", "-pflash", "v.fd"];
    let pc = line(&words);
    assert_eq!(
        summary(&pc.disks().unwrap()),
        [
            "hda = a.img (?) device ide0-hd0",
            "hdb = b,1.img (?) device ide0-hd1",
            "fda = f.img (?) device floppy0",
            "sd0 = s.img (?) device sd0",
            "pflash0 = v.fd (?) device pflash0",
        ]
    );
    assert_eq!(summary(&pc.read_only_media().unwrap()), ["ide2 = c.iso (?) device ide1-cd0"]);
    assert_eq!(
        on_deltas(&words),
        [
            "-drive",
            "file=/d/hda,format=qcow2,index=0,media=disk",
            "-drive",
            "file=/d/hdb,format=qcow2,index=1,media=disk",
            "-drive",
            "file=/d/fda,format=qcow2,if=floppy,index=0",
            "-cdrom",
            "c.iso",
            "-drive",
            "file=/d/sd0,format=qcow2,if=sd",
            "-drive",
            "file=/d/pflash0,format=qcow2,if=pflash",
        ]
    );
}

#[test]
fn buses_are_counted_as_the_machine_counts_them() {
    // Guards against snapshotting the wrong device: ids follow the machine's units and the free slots.
    let drives = [
        "-drive",
        "file=a",
        "-drive",
        "file=b",
        "-drive",
        "file=c,index=3",
        "-drive",
        "file=d,if=scsi,unit=2",
    ];
    let handles = |machine: &[&str]| -> Vec<_> {
        line(&[machine, &drives].concat()).disks().unwrap().into_iter().map(|disk| disk.handle).collect()
    };
    let device = |id: &str| BlockHandle::Device(id.to_owned());
    assert_eq!(handles(&[]), ["ide0-hd0", "ide0-hd1", "ide1-hd1", "scsi0-hd2"].map(device));
    assert_eq!(handles(&["-M", "q35"]), ["ide0-hd0", "ide1-hd0", "ide3-hd0", "scsi0-hd2"].map(device));
    // As QEMU 10.0.2 for Arm names them in `query-block`.
    let virt = ["virtio0", "virtio1", "virtio3", "scsi0-hd2"].map(device);
    assert_eq!(handles(&["-M", "virt"]), virt);
    assert_eq!(handles(&["-M", "virt-10.0,highmem=on"]), virt);
    let microvm = ["none00", "none10", "none30", "scsi0-hd2"].map(device);
    assert_eq!(handles(&["-machine", "type=microvm,acpi=off"]), microvm);
}

#[test]
fn quickemu_and_proxmox_disks_are_found_and_edited_in_place() {
    // Guards that ids, bus settings, odd spelling and order survive an edit word for word.
    let quickemu = [
        "-name",
        "ubuntu,process=ubuntu",
        "-machine",
        "q35,smm=off,vmport=off,accel=kvm",
        "-device",
        "virtio-blk-pci,drive=SystemDisk",
        "-drive",
        "id=SystemDisk,if=none,format=qcow2,file=ubuntu/disk.qcow2,l2-cache-size=8M,readonly=off",
        "-drive",
        "media=cdrom,index=0,file=ubuntu/x.iso",
        "-drive",
        "if=pflash,format=raw,unit=0,file=/c.fd,readonly=on",
        "-drive",
        "if=pflash,format=raw,unit=1,file=ubuntu/OVMF_VARS.fd",
    ];
    let found = line(&quickemu);
    assert_eq!(found.check_supported(), Ok(()));
    assert_eq!(
        summary(&found.disks().unwrap()),
        [
            "SystemDisk = ubuntu/disk.qcow2 (qcow2) device SystemDisk",
            "pflash1 = ubuntu/OVMF_VARS.fd (raw) device pflash1"
        ]
    );
    let mut wanted = quickemu.map(str::to_owned);
    wanted[7] =
        "id=SystemDisk,if=none,format=qcow2,file=/d/SystemDisk,l2-cache-size=8M,readonly=off".to_owned();
    wanted[13] = "if=pflash,format=qcow2,unit=1,file=/d/pflash1".to_owned();
    assert_eq!(on_deltas(&quickemu), wanted);

    let proxmox = [
        "-drive",
        "file=/dev/pve/vm-100,if=none,id=drive-scsi0,cache=writeback,format=raw,aio=io_uring,detect-zeroes=on",
        "-device",
        "scsi-hd,bus=virtioscsi0.0,drive=drive-scsi0,id=scsi0,bootindex=100",
        "-drive",
        "if=none,id=drive-ide2,media=cdrom,aio=io_uring",
    ];
    assert_eq!(
        on_deltas(&proxmox)[1],
        "file=/d/drive-scsi0,if=none,id=drive-scsi0,cache=writeback,format=qcow2,aio=io_uring,detect-zeroes=on"
    );
    let disks = line(&proxmox).disks().unwrap();
    assert_eq!((disks.len(), disks[0].options.aio.as_deref()), (1, Some("io_uring")));
}

const LIBVIRT: &[&str] = &[
    "-blockdev",
    r#"{"driver":"file","filename":"/img/a\"b,c.qcow2","node-name":"st","auto-read-only":true,"aio":"native","cache":{"direct":true},"discard":"unmap"}"#,
    "-blockdev",
    r#"{"node-name":"fmt","read-only":false,"cache":{"direct":true},"driver":"qcow2","file":"st"}"#,
    "-device",
    r#"{"driver":"virtio-blk-pci","drive":"fmt","id":"virtio-disk0"}"#,
    "-blockdev",
    r#"{"driver":"file","filename":"/iso/x.iso","node-name":"cd","read-only":true}"#,
    "-device",
    r#"{"driver":"ide-cd","drive":"cd"}"#,
];

#[test]
fn libvirt_graphs_are_followed_and_edited() {
    // Guards JSON graphs: the file behind a reference, node name and options kept, the old storage node gone.
    let found = line(LIBVIRT);
    let disks = found.disks().unwrap();
    assert_eq!(summary(&disks), [r#"fmt = /img/a"b,c.qcow2 (qcow2) node fmt"#]);
    let options =
        DiskOptions { cache_direct: Some(true), aio: Some("native".to_owned()), ..DiskOptions::default() };
    assert_eq!(disks[0].options, options);
    assert_eq!(summary(&found.read_only_media().unwrap()), ["cd = /iso/x.iso (raw) node cd"]);
    let edited = on_deltas(LIBVIRT);
    assert_eq!(
        edited[1],
        r#"{"node-name":"fmt","read-only":false,"cache":{"direct":true},"driver":"qcow2","file":{"driver":"file","filename":"/d/fmt","aio":"native","cache":{"direct":true},"discard":"unmap"}}"#
    );
    assert_eq!(edited[2..], LIBVIRT[4..], "everything else stays, byte for byte");
}

#[test]
fn a_storage_node_used_directly_becomes_the_format_node() {
    // Guards raw disks without a format node: the device's node keeps its name and its own options.
    let words = [
        "-blockdev",
        "file,node-name=d0,filename=/a,aio=threads,discard=unmap",
        "-device",
        "virtio-blk,drive=d0",
    ];
    assert_eq!(summary(&line(&words).disks().unwrap()), ["d0 = /a (raw) node d0"]);
    assert_eq!(
        on_deltas(&words)[1],
        "qcow2,file.driver=file,file.filename=/d/d0,file.aio=threads,node-name=d0,discard=unmap"
    );
}

#[test]
fn filters_stay_on_top_and_shared_nodes_stay_at_all() {
    // Guards filters above the disk, inline nodes, and nodes that something else still needs.
    let inline = [
        "-blockdev",
        "throttle,node-name=t,throttle-group=g,file.driver=raw,file.node-name=f,file.file.driver=file,file.file.filename=/a",
        "-device",
        "virtio-blk,drive=t",
    ];
    assert_eq!(summary(&line(&inline).disks().unwrap()), ["f = /a (raw) node f"]);
    assert_eq!(
        on_deltas(&inline)[1],
        "throttle,node-name=t,throttle-group=g,file.driver=qcow2,file.file.driver=file,file.file.filename=/d/f,file.node-name=f"
    );
    let shared = [
        "-blockdev",
        "file,node-name=base,filename=/base,read-only=on",
        "-blockdev",
        "file,node-name=s,filename=/top",
        "-blockdev",
        "qcow2,node-name=top,file=s,backing=base",
        "-device",
        "virtio-blk,drive=top",
        "-device",
        "virtio-blk,drive=base",
    ];
    let graph = json!({"driver": "qcow2", "file": {"driver": "file", "filename": "/top"}, "backing": {"driver": "file", "filename": "/base"}});
    assert_eq!(line(&shared).disks().unwrap()[0].base.location, BaseLocation::Json(graph));
    assert_eq!(
        on_deltas(&shared),
        [
            "-blockdev",
            "file,node-name=base,filename=/base,read-only=on",
            "-blockdev",
            "qcow2,file.driver=file,file.filename=/d/top,node-name=top",
            "-device",
            "virtio-blk,drive=top",
            "-device",
            "virtio-blk,drive=base",
        ]
    );
}

#[test]
fn graphs_without_one_place_for_a_delta_are_refused() {
    // Guards against a delta put where it would not see all writes, and against endless graphs.
    let with = |nodes: &[&str]| {
        let words: Vec<_> = nodes.iter().flat_map(|node| ["-blockdev", *node]).collect();
        line(&[words.as_slice(), &["-device", "virtio-blk,drive=d"]].concat()).disks()
    };
    let unsupported = |result| matches!(result, Err(CmdlineError::NodeUnsupported { .. }));
    assert!(unsupported(with(&["quorum,node-name=d,children.0=a"])));
    assert!(unsupported(with(&["throttle,node-name=d,file.driver=raw,file.file.driver=file"])));
    assert!(matches!(
        with(&["throttle,node-name=d,file=e", "throttle,node-name=e,file=d"]),
        Err(CmdlineError::NodeCycle { .. })
    ));
    assert!(matches!(
        with(&["qcow2,node-name=d,file=e", "qcow2,node-name=e,file=d"]),
        Err(CmdlineError::NodeCycle { .. })
    ));
    assert!(matches!(with(&["raw,node-name=d,file=no"]), Err(CmdlineError::UnknownNode { .. })));
    assert!(matches!(
        with(&["file,node-name=d", "file,node-name=d"]),
        Err(CmdlineError::DuplicateName { .. })
    ));
    assert!(matches!(with(&["{bad"]), Err(CmdlineError::Json { .. })));
}

#[test]
fn drives_with_graphs_of_their_own_are_read() {
    // Guards driver-specific keys of -drive: they make the base, and none of them reaches the delta.
    let cases = [
        (
            "driver=raw,file.driver=file,file.filename=/a,if=virtio",
            "virtio0 = /a (raw) device virtio0",
            "file=/d/virtio0,format=qcow2,if=virtio",
        ),
        (
            "if=virtio,format=raw,offset=512,file=/a",
            r#"virtio0 = {"driver":"raw","offset":"512","file":{"filename":"/a"}} (raw) device virtio0"#,
            "if=virtio,format=qcow2,file=/d/virtio0",
        ),
        (
            "id=n,driver=nbd,host=h,port=1,if=none,throttling.iops-total=9",
            r#"n = {"driver":"raw","file":{"driver":"nbd","host":"h","port":"1"}} (raw) device n"#,
            "id=n,if=none,throttling.iops-total=9,file=/d/n,format=qcow2",
        ),
        ("file=nbd://h/e,id=n", "n = uri nbd://h/e (?) device n", "file=/d/n,format=qcow2,id=n"),
        ("file=/a,,b.img,id=x/y", "x_y = /a,b.img (?) device x/y", "file=/d/x_y,format=qcow2,id=x/y"),
    ];
    for (text, wanted, edited) in cases {
        assert_eq!(summary(&line(&["-drive", text]).disks().unwrap()), [wanted]);
        assert_eq!(on_deltas(&["-drive", text])[1], edited);
    }
    let by_node = ["-drive", "file=/a,if=none,node-name=n", "-device", "virtio-blk,drive=n"];
    assert_eq!(summary(&line(&by_node).disks().unwrap()), ["n = /a (?) device none0"]);
    assert_eq!(line(&["-drive", "if=none,id=empty", "-drive", "media=cdrom,file="]).disks(), Ok(vec![]));
}

#[test]
fn what_is_refused_names_the_option() {
    // Guards the list of what can't be brought back, and that nothing else is refused with it.
    let refused: &[&[&str]] = &[
        &["-snapshot"],
        &["--daemonize"],
        &["-incoming", "defer"],
        &["-loadvm", "x"],
        &["-S"],
        &["-readconfig", "f"],
        &["-virtfs", "local,path=/,mount_tag=t,security_model=none"],
        &["-fsdev", "local,id=f,path=/"],
        &["-device", "vfio-pci,host=1"],
        &["-device", r#"{"driver":"vhost-user-fs-pci"}"#],
        &["-device", "virtio-9p-pci,fsdev=f"],
        &["-device", "ivshmem-doorbell,chardev=c"],
        &["-device", "virtio-blk,drive=d,share-rw=on"],
        &["-device", "scsi-block,drive=d"],
        &["-netdev", "vhost-user,id=n,chardev=c"],
        &["-netdev", "tap,id=n,fd=3"],
        &["-add-fd", "fd=3,set=1"],
        &["-object", "sev-guest,id=s"],
        &["-object", r#"{"qom-type":"tdx-guest","id":"t"}"#],
        &["-machine", "none"],
        &["-M", "q35,confidential-guest-support=s"],
        &["-accel", "xen"],
        &["-xen-attach"],
        &["-monitor", "stdio"],
        &["-qmp", "stdio"],
        &["-chardev", "stdio,id=m", "-mon", "m"],
        &["-drive", "file=/a,snapshot=on"],
        &["-drive", "file=/a,file.locking=off"],
        &["-hda", "fat:rw:/dir"],
        &["-blockdev", "file,node-name=n,filename=/a,locking=off"],
        &["-blockdev", r#"{"driver":"vvfat","rw":true,"dir":"/d"}"#],
        &["-drive", "file=/dev/fdset/1"],
        &["-blockdev", "{bad"],
        &["-display", "curses"],
    ];
    for words in refused {
        let refusals = line(words).check_supported().unwrap_err();
        assert_eq!(refusals.len(), 1, "{words:?}");
        let option = words[words.len().saturating_sub(2)..].join(" ");
        assert!(
            refusals[0].option.ends_with(words[words.len() - 1]) && option.contains(&refusals[0].option),
            "{words:?}"
        );
    }
    let taken: &[&[&str]] = &[
        &["-nographic"],
        &["-serial", "mon:stdio"],
        &["-serial", "stdio"],
        &["-only-migratable"],
        &["-pidfile", "p"],
        &["-chardev", "stdio,id=m,mux=on", "-mon", "m"],
        &["-drive", "file=fat:/dir,readonly=on"],
        &["-drive", "file=/a,snapshot=off,file.locking=on"],
        &["-netdev", "tap,id=n,ifname=t0,script=no"],
        &["-object", "memory-backend-memfd,id=m,size=1G"],
        &["-device", "vhost-vsock-pci,guest-cid=3"],
        LIBVIRT,
    ];
    for words in taken {
        assert_eq!(line(words).check_supported(), Ok(()), "{words:?}");
    }
}

#[test]
fn unknown_options_and_missing_arguments_are_errors() {
    // Guards against guessing: a word taken for a disk image that was an argument, or the other way round.
    let parse = |words: &[&str]| CommandLine::parse(&argv(words));
    assert_eq!(CommandLine::parse(&[]), Err(CmdlineError::Empty));
    assert_eq!(parse(&["-frob", "x"]), Err(CmdlineError::UnknownOption { option: "-frob".to_owned() }));
    assert_eq!(parse(&["--drive"]), Err(CmdlineError::MissingArgument { option: "--drive".to_owned() }));
    assert!(parse(&["-"]).is_err() && parse(&["---hda", "x"]).is_err());
}

#[test]
fn machine_aliases_become_versions() {
    // Guards that only an alias is replaced, where it counts, and that a missing machine is written down.
    let resolved = |words: &[&str]| {
        let mut line = line(words);
        line.resolve_machine_alias(|alias| match alias {
            "q35" => Some("pc-q35-10.0".to_owned()),
            "pc" => Some("pc-i440fx-10.0".to_owned()),
            _ => None,
        });
        line.to_argv()[1..].join(" ")
    };
    assert_eq!(resolved(&["-machine", "q35,accel=tcg"]), "-machine pc-q35-10.0,accel=tcg");
    assert_eq!(resolved(&["-M", "accel=tcg,type=pc"]), "-M accel=tcg,type=pc-i440fx-10.0");
    assert_eq!(
        resolved(&["-M", "pc", "-M", "q35", "-machine", "usb=on"]),
        "-M pc -M pc-q35-10.0 -machine usb=on"
    );
    assert_eq!(resolved(&["-machine", "usb=on"]), "-machine usb=on -machine pc-i440fx-10.0");
    assert_eq!(resolved(&["-M", "pc-q35-9.2"]), "-M pc-q35-9.2");
}

#[test]
fn added_options_do_not_collide() {
    // Guards the user's own ids, in either form, and paths with commas.
    let mut line = line(&["-chardev", "null,id=qmp", "-device", r#"{"driver":"x","id":"qmp-2"}"#]);
    assert_eq!(line.add_qmp_socket("qmp", "/r,1/q.sock"), "qmp-3");
    assert_eq!(line.add_qmp_socket("qmp", "/g.sock"), "qmp-4");
    assert_eq!(line.add_qmp_pipes("qmp", "/p,1/pipes"), "qmp-5");
    line.add_incoming_defer();
    line.add_start_paused();
    let added = line.to_argv()[5..].join(" ");
    assert_eq!(
        added,
        "-chardev socket,id=qmp-3,path=/r,,1/q.sock,server=on,wait=off -mon chardev=qmp-3,mode=control \
         -chardev socket,id=qmp-4,path=/g.sock,server=on,wait=off -mon chardev=qmp-4,mode=control \
         -chardev pipe,id=qmp-5,path=/p,,1/pipes -mon chardev=qmp-5,mode=control -incoming defer -S"
    );
}

#[test]
fn a_disk_is_edited_once_and_only_where_it_is() {
    // Guards against a stale place in a command line: an edit that can't be made is an error, never silent.
    let mut edited = line(&["-hda", "a", "-hdb", "b"]);
    let disks = edited.disks().unwrap();
    edited.set_disk_file(&disks[0], "/1").unwrap();
    let again = edited.set_disk_file(&disks[0], "/2");
    assert_eq!(again, Err(CmdlineError::NoSuchDisk { disk: "hda".to_owned() }));
    edited.set_disk_file(&disks[1], "/2").unwrap();
    let found: Vec<_> = edited.disks().unwrap().into_iter().map(|disk| disk.handle).collect();
    assert_eq!(
        found,
        disks.iter().map(|disk| disk.handle.clone()).collect::<Vec<_>>(),
        "still the same devices"
    );
}

/// Words that reach deep into the parsers, mixed with any text.
fn word() -> impl Strategy<Value = String> {
    const OPTIONS: &[&str] = &[
        "-drive",
        "--blockdev",
        "-device",
        "-hda",
        "-machine",
        "-global",
        "-chardev",
        "-serial",
        "-m",
        "-smp",
        "-netdev",
        "-mon",
        "-snapshot",
        "-nographic",
        "-name",
    ];
    const PIECES: &[&str] = &[
        "file=",
        "driver=raw",
        "node-name=a",
        "file=a",
        "drive=a",
        "file.file.driver=file",
        "file.filename=x",
        "backing=b",
        "node-name=b",
        "json:{}",
        "json:",
        "{\"driver\":\"raw\",\"file\":\"a\",\"node-name\":\"a\"}",
        "{name}",
        "{port:1}",
        "if=ide",
        "index=99999",
        "unit=-1",
        "unix:",
        "server",
        "format=nbd",
        "pflash0=a",
        ",",
        "=",
        ".",
        "é",
        "1.9999999999G",
    ];
    prop_oneof![
        proptest::sample::select(OPTIONS).prop_map(str::to_owned),
        proptest::collection::vec(proptest::sample::select(PIECES), 0..5).prop_map(|pieces| pieces.join(",")),
        ".{0,12}",
    ]
}

proptest! {
    /// Guards that any argv is refused or kept word for word, and that nothing asked of it panics.
    #[test]
    fn any_argv_is_kept_or_refused(words in proptest::collection::vec(word(), 0..8)) {
        if let Ok(mut line) = CommandLine::parse(&words) {
            prop_assert_eq!(line.to_argv(), words);
            let _ = (line.check_supported(), line.memory_bytes(), line.cpus(), line.accelerators(), line.read_only_media());
            let _ = (line.console_socket(), line.guest_agent(), line.ports_wanted(), line.name());
            line = line.substitute(&Placeholders { name: "n,\"".to_owned(), ..Placeholders::default() });
            for disk in line.disks().unwrap_or_default() {
                line.set_disk_file(&disk, "/x,y").ok();
            }
            line.resolve_machine_alias(|name| Some(format!("{name}-1")));
            line.add_qmp_socket("qmp", "/s");
            prop_assert!(CommandLine::parse(&line.to_argv()).is_ok());
        }
    }
}
