//! What a clone's command line keeps, and what it has of its own.

use super::super::{CommandLine, Placeholders};
use super::{CloneValues, Separation};

const UUID: &str = "11111111-2222-4333-a444-555555555555";
const GENERATION: &str = "66666666-7777-4888-a999-aaaaaaaaaaaa";

fn separated(words: &[&str]) -> (Vec<String>, Separation) {
    let argv: Vec<String> = ["qemu"].iter().chain(words).map(|word| (*word).to_owned()).collect();
    let mut line = CommandLine::parse(&argv).unwrap();
    let mut number = 0;
    let mut mac = || {
        number += 1;
        format!("52:54:00:aa:bb:{number:02x}")
    };
    let mut values = CloneValues {
        name: "new".to_owned(),
        uuid: UUID.to_owned(),
        generation: GENERATION.to_owned(),
        mac: &mut mac,
        vsock: 77,
    };
    let done = line.separate(&mut values).unwrap();
    (line.to_argv()[1..].to_vec(), done)
}

/// Guards the host: two QEMUs must not ask for one socket, file or port. Each case is an option and what a clone has.
#[test]
fn what_would_collide_is_the_clones_own() {
    let cases = [
        (
            "-chardev",
            "socket,id=c,path=/a/b.sock,server=on,wait=off",
            "socket,id=c,path={run}/b.sock,server=on,wait=off",
        ),
        (
            "-chardev",
            "socket,id=c,host=0,port=4444,server=on",
            "socket,id=c,host=0,port={port:4444},server=on",
        ),
        ("-chardev", "file,id=c,path=/x/log,append=on", "file,id=c,path={run}/log,append=on"),
        ("-chardev", "stdio,id=c,logfile=/x/log", "stdio,id=c,logfile={run}/log"),
        (
            "-chardev",
            r#"{"backend":"socket","id":"c","path":"/a/b.sock","server":true}"#,
            r#"{"backend":"socket","id":"c","path":"{run}/b.sock","server":true}"#,
        ),
        ("-serial", "unix:/a/s,server,nowait", "unix:{run}/s,server,nowait"),
        ("-serial", "file:/a/s.log", "file:{run}/s.log"),
        ("-serial", "mon:tcp:127.0.0.1:4555,server=on", "mon:tcp:127.0.0.1:{port:4555},server=on"),
        ("-monitor", "telnet::55,server=on", "telnet::{port:55},server=on"),
        ("-qmp", "unix:/q.sock,server=on", "unix:{run}/q.sock,server=on"),
        ("-gdb", "tcp::1234", "tcp::{port:1234}"),
        ("-pidfile", "/run/x.pid", "{run}/x.pid"),
        ("-D", "/var/log/x", "{run}/x"),
        (
            "-netdev",
            "user,id=n,hostfwd=tcp::2222-:22,hostfwd=udp:127.0.0.1:53-10.0.2.15:53",
            "user,id=n,hostfwd=tcp::{port:2222}-:22,hostfwd=udp:127.0.0.1:{port:53}-10.0.2.15:53",
        ),
        (
            "-netdev",
            r#"{"type":"user","id":"n","hostfwd":[{"str":"tcp::80-:80"}]}"#,
            r#"{"hostfwd":[{"str":"tcp::{port:80}-:80"}],"id":"n","type":"user"}"#,
        ),
        ("-netdev", "socket,id=n,listen=:9000", "socket,id=n,listen=:{port:9000}"),
        ("-netdev", "tap,id=n,ifname=tap3", "tap,id=n"),
        ("-vnc", "127.0.0.1:1,password=on", "127.0.0.1:1,password=on,to=99"),
        ("-vnc", "unix:/v.sock", "unix:{run}/v.sock"),
        ("-display", "vnc=:3", "vnc=:3,to=99"),
        ("-spice", "port=5930,disable-ticketing=on", "port={port:5930},disable-ticketing=on"),
        ("-object", "filter-dump,id=f,netdev=n,file=/d.pcap", "filter-dump,id=f,netdev=n,file={run}/d.pcap"),
        (
            "-object",
            "memory-backend-file,id=m,size=1G,mem-path=/dev/shm/web,share=on",
            "memory-backend-file,id=m,size=1G,mem-path=/dev/shm/{name}-web,share=on",
        ),
        ("-device", "vhost-vsock-pci,guest-cid=3", "vhost-vsock-pci,guest-cid=77"),
    ];
    for (option, from, to) in cases {
        let (line, done) = separated(&[option, from]);
        let wanted: serde_json::Value = serde_json::from_str(to).unwrap_or_else(|_| to.into());
        let found: serde_json::Value =
            serde_json::from_str(&line[1]).unwrap_or_else(|_| line[1].clone().into());
        assert_eq!(found, wanted, "{option} {from}");
        assert!(!done.changed.is_empty(), "{option} {from} is not told");
    }
    assert_eq!(separated(&["-s"]).0, ["-gdb", "tcp::{port:1234}"]);
}

/// Guards what users wrote with placeholders, what is shared on purpose, and the hardware: nothing of it may change.
#[test]
fn what_is_its_own_or_shared_stays() {
    let words = [
        "-machine",
        "q35,accel=tcg",
        "-m",
        "512M",
        "-cpu",
        "max",
        "-append",
        "name=web port=2222",
        "-chardev",
        "socket,id=c,path={run}/c.sock,server=on",
        "-serial",
        "unix:{run}/s.sock,server=on",
        "-netdev",
        "user,id=n,hostfwd=tcp::{port:22}-:22",
        "-pidfile",
        "/run/{name}.pid",
        "-drive",
        "file=/cd.iso,media=cdrom,readonly=on",
        "-blockdev",
        r#"{"driver":"file","node-name":"x","filename":"/d"}"#,
        "-name",
        "{name},process=x",
        "-device",
        "vmgenid,guid=auto",
        "-vnc",
        "none",
        "-display",
        "none",
        "-object",
        "memory-backend-ram,id=m,size=512M",
        "-netdev",
        "socket,id=o,mcast=230.0.0.1:1234",
    ];
    let (line, done) = separated(&words);
    assert_eq!(line, words);
    assert_eq!(done, Separation::default());
}

/// Guards that a clone is not taken for its parent: by its guest, its network or the people who look at it.
#[test]
fn a_clone_has_an_identity_of_its_own() {
    let (line, done) = separated(&[
        "-name",
        "guest=web,debug-threads=on",
        "-uuid",
        "old",
        "-smbios",
        "type=1,uuid=old,serial=5",
        "-device",
        "vmgenid,guid=old",
        "-device",
        "virtio-net-pci,netdev=n,mac=52:54:00:00:00:01",
        "-device",
        r#"{"driver":"e1000","netdev":"m"}"#,
        "-nic",
        "user,model=e1000",
        "-net",
        "nic,macaddr=52:54:00:00:00:02",
        "-net",
        "user",
        "-nic",
        "none",
    ]);
    assert_eq!(line[1], "guest=new,debug-threads=on");
    assert_eq!(line[3], UUID);
    assert_eq!(line[5], format!("type=1,uuid={UUID},serial=5"));
    assert_eq!(line[7], format!("vmgenid,guid={GENERATION}"));
    assert_eq!(line[9], "virtio-net-pci,netdev=n,mac=52:54:00:aa:bb:01");
    assert_eq!(line[11], r#"{"driver":"e1000","netdev":"m","mac":"52:54:00:aa:bb:02"}"#);
    assert_eq!(line[13], "user,model=e1000,mac=52:54:00:aa:bb:03");
    assert_eq!(line[15], "nic,macaddr=52:54:00:aa:bb:04");
    assert_eq!(line[17..], ["user", "-nic", "none"]);
    assert_eq!(done.changed.len(), 8, "{:?}", done.changed);
    assert!(done.changed.iter().all(|change| change.from != change.to), "{:?}", done.changed);
}

/// Guards against two files of one name meeting in the run folder, and against one of vmrewind's own sockets.
#[test]
fn names_in_the_run_folder_do_not_meet() {
    let (line, _) = separated(&[
        "-serial",
        "file:/a/log",
        "-serial",
        "file:/b/log",
        "-qmp",
        "unix:/x/qmp.sock,server=on",
        "-D",
        "/a/log",
        "-chardev",
        "socket,id=c,path={run}/log,server=on",
    ]);
    assert_eq!(line[1], "file:{run}/2-log");
    assert_eq!(line[3], "file:{run}/3-log");
    assert_eq!(line[5], "unix:{run}/2-qmp.sock,server=on");
    assert_eq!(line[7], "{run}/2-log", "one file stays one file");
}

/// What is somebody else's can't be moved; the user is told.
#[test]
fn what_cannot_be_moved_is_told() {
    for words in [
        ["-chardev", "socket,id=tpm,path=/run/swtpm.sock"],
        ["-serial", "/dev/ttyS0"],
        ["-serial", "unix:/s"],
        ["-parallel", "pipe:/p"],
    ] {
        let (line, done) = separated(&words);
        assert_eq!(line, words);
        assert_eq!(done.shared.len(), 1, "{words:?}");
    }
}

/// A separated line is a template still: placeholders that were put in are replaced at the start.
#[test]
fn placeholders_that_were_put_in_are_replaced() {
    let (line, _) = separated(&["-serial", "unix:/a/s,server=on", "-vnc", "unix:/v,w"]);
    let argv: Vec<String> = ["qemu".to_owned()].into_iter().chain(line).collect();
    let values =
        Placeholders { name: "new".into(), run: "/r,x".into(), ports: std::collections::BTreeMap::new() };
    let line = CommandLine::parse(&argv).unwrap().substitute(&values).to_argv();
    assert_eq!(line[2], "unix:/r,,x/s,server=on");
}

/// A restore tells the guest by a new generation id; `auto` does so by itself.
#[test]
fn a_generation_id_can_be_renewed_alone() {
    let line = |text: &str| CommandLine::parse(&["qemu", "-device", text].map(str::to_owned)).unwrap();
    let mut fixed = line("vmgenid,guid=old");
    assert!(fixed.set_generation(GENERATION).unwrap());
    assert_eq!(fixed.to_argv()[2], format!("vmgenid,guid={GENERATION}"));
    let mut auto = line("vmgenid,guid=auto");
    assert!(auto.set_generation(GENERATION).unwrap() && auto.has_generation_device());
    assert_eq!(auto.to_argv()[2], "vmgenid,guid=auto");
    assert!(!line("virtio-rng-pci").set_generation(GENERATION).unwrap());
}
