//! The client against a real QEMU without a machine: what the scripted peer assumes must be what QEMU does.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use vmrewind_qemu::qmp::commands::{
    BlockdevAdd, BlockdevDel, BlockdevSnapshot, Cont, HumanMonitorCommand, MigrateCancel, MigrateRecover,
    MigrateSetCapabilities, MigrateSetParameters, MigrationParameters, QueryMigrate,
    QueryMigrateCapabilities, QueryMigrateParameters, QueryNamedBlockNodes, QueryStatus, Quit, RunState,
    SetLink, Stop, Transaction,
};
use vmrewind_qemu::qmp::session::ConnectionId;
use vmrewind_qemu::qmp::{Client, OutOfBandClient, QmpError, make_pipes};

const CONNECTION: ConnectionId = ConnectionId(1);
const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(100);

/// A QEMU that is killed and waited for on drop.
struct Qemu {
    child: Child,
    folder: TempDir,
}

impl Qemu {
    fn start(machine: &str, more: &[&str]) -> (Self, Client) {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("qmp.sock");
        let child = Command::new("qemu-system-x86_64")
            .args(["-machine", machine, "-accel", "tcg", "-nodefaults", "-display", "none", "-S", "-qmp"])
            .arg(format!("unix:{},server=on,wait=off", socket.display()))
            .args(more)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let mut qemu = Self { child, folder };
        let client = Client::connect_waiting(&socket, CONNECTION, LONG, || qemu.is_running()).unwrap();
        (qemu, client)
    }

    fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        // Fails only where it has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Makes a qcow2 image of 1 MiB, on `backing` where that is given.
fn qcow2(file: &Path, backing: Option<&str>) -> String {
    let mut command = Command::new("qemu-img");
    command.args(["create", "-q", "-f", "qcow2"]);
    if let Some(backing) = backing {
        command.args(["-F", "qcow2", "-b", backing]);
    }
    assert!(command.arg(file).arg("1M").status().unwrap().success());
    file.to_str().unwrap().to_owned()
}

/// Opens a qcow2 file to become an overlay: its own backing entry is not opened, the transaction sets it.
fn overlay_of(node: &str, file: &str) -> BlockdevAdd {
    let file = json!({ "driver": "file", "filename": file });
    BlockdevAdd(json!({ "driver": "qcow2", "node-name": node, "file": file, "backing": null }))
}

/// The greeting, typed queries, an unknown command, and a second client once the first is gone.
#[test]
fn queries_are_understood() {
    let (qemu, client) = Qemu::start("none", &[]);
    assert!(client.version().is_at_least(7, 2), "{}", client.version());
    let status = client.execute(&QueryStatus, LONG).unwrap();
    assert_eq!((status.running, status.status), (false, RunState::Prelaunch));

    let text = client.execute(&HumanMonitorCommand { command_line: "info status".to_owned() }, LONG).unwrap();
    assert!(text.starts_with("VM status: paused"), "{text}");
    let error = client.execute_value("no-such-command", &Value::Null, LONG).unwrap_err();
    assert_eq!(error.refusal().unwrap().class, "CommandNotFound");
    let error = client.execute(&SetLink { name: "net0".to_owned(), up: false }, LONG).unwrap_err();
    assert_eq!(error.refusal().unwrap().class, "DeviceNotFound");

    // QEMU serves one client at a time; the second is greeted when the first has closed.
    let busy = Client::connect(&qemu.path("qmp.sock"), CONNECTION, SHORT).unwrap_err();
    assert!(matches!(busy, QmpError::Deadline { doing, .. } if doing == "the greeting"));
    drop(client);
    let again = Client::connect(&qemu.path("qmp.sock"), CONNECTION, LONG).unwrap();
    assert!(again.execute(&QueryStatus, LONG).is_ok());
}

/// Capabilities and parameters as QEMU takes and tells them.
#[test]
fn migration_settings_are_taken() {
    let (_qemu, client) = Qemu::start("none", &[]);
    let info = client.execute(&QueryMigrate, LONG).unwrap();
    assert_eq!((info.status, info.ram), (None, None));
    let wanted = ["events", "pause-before-switchover"];
    client.execute(&MigrateSetCapabilities::of(wanted.map(|name| (name, true))), LONG).unwrap();
    let capabilities = client.execute(&QueryMigrateCapabilities, LONG).unwrap();
    let on: Vec<&str> =
        capabilities.iter().filter(|one| one.state).map(|one| one.capability.as_str()).collect();
    assert_eq!(on, wanted);
    let parameters =
        MigrationParameters { downtime_limit_ms: Some(20), max_bandwidth: Some(0), ..Default::default() };
    client.execute(&MigrateSetParameters(parameters), LONG).unwrap();
    let parameters = client.execute(&QueryMigrateParameters, LONG).unwrap();
    assert_eq!((parameters.downtime_limit_ms, parameters.max_bandwidth), (Some(20), Some(0)));
    assert!(!parameters.other.is_empty());
    client.execute(&MigrateCancel, LONG).unwrap();
}

/// A disk switches to an overlay in a transaction; the queries show it.
#[test]
fn layers_are_added_and_switched() {
    let (qemu, client) = Qemu::start(
        "pc",
        &[
            "-device",
            "virtio-scsi-pci,id=scsi",
            "-blockdev",
            "null-co,node-name=null",
            "-device",
            "scsi-hd,drive=null",
        ],
    );
    let base = qcow2(&qemu.path("base.qcow2"), None);
    // The backing file is in the header too: where it is not, QEMU shows the node's file name as `json:{...}`.
    let overlay = qcow2(&qemu.path("overlay.qcow2"), Some(&base));
    let (base_node, overlay_node) = ("base-0".to_owned(), "overlay-0".to_owned());
    for (file, node) in [(&base, &base_node), (&overlay, &overlay_node)] {
        client.execute(&overlay_of(node, file), LONG).unwrap();
    }
    let snapshot = BlockdevSnapshot { node: base_node.clone(), overlay: overlay_node.clone() };
    client.execute(&Transaction::of_snapshots([snapshot]), LONG).unwrap();

    let nodes = client.execute(&QueryNamedBlockNodes { flat: Some(true) }, LONG).unwrap();
    let top = nodes.iter().find(|node| node.node_name.as_deref() == Some(&overlay_node)).unwrap();
    assert_eq!((top.drv.as_str(), top.ro, &top.image.backing_image), ("qcow2", false, &None));
    assert_eq!((top.image.filename.as_str(), top.image.virtual_size_bytes), (overlay.as_str(), 1 << 20));
    let nodes = client.execute(&QueryNamedBlockNodes { flat: None }, LONG).unwrap();
    let top = nodes.iter().find(|node| node.node_name.as_deref() == Some(&overlay_node)).unwrap();
    assert_eq!((top.backing_file_depth, top.backing_file.as_deref()), (1, Some(base.as_str())));
    assert_eq!(top.image.backing_image.as_ref().unwrap().filename, base);
    client.execute(&BlockdevDel { node_name: overlay_node }, LONG).unwrap();
    client.execute(&BlockdevDel { node_name: base_node }, LONG).unwrap();
}

/// A transaction is all or nothing, and its refusal says why.
#[test]
fn a_transaction_that_fails_changes_nothing() {
    let (qemu, client) = Qemu::start("none", &[]);
    for name in ["a", "b"] {
        let file = qcow2(&qemu.path(name), None);
        client.execute(&overlay_of(name, &file), LONG).unwrap();
    }
    let snapshot =
        |node: &str, overlay: &str| BlockdevSnapshot { node: node.into(), overlay: overlay.into() };
    let both = Transaction::of_snapshots([snapshot("a", "b"), snapshot("missing", "b")]);
    let error = client.execute(&both, LONG).unwrap_err();
    assert!(error.refusal().unwrap().desc.contains("missing"), "{:?}", error.refusal());
    let nodes = client.execute(&QueryNamedBlockNodes::default(), LONG).unwrap();
    assert!(nodes.iter().all(|node| node.backing_file_depth == 0));
}

/// QEMU killed while two threads wait, one for an event and one that keeps asking: both are told that it is gone.
#[test]
fn a_killed_qemu_is_told_to_all() {
    let (mut qemu, client) = Qemu::start("none", &[]);
    let (waiting, is_waiting) = mpsc::channel();
    thread::scope(|scope| {
        let (client, waiting_too) = (&client, waiting.clone());
        let events = scope.spawn(move || {
            let mut events = client.events();
            waiting.send(()).unwrap();
            events.wait(LONG, |event| event.name == "NEVER").unwrap_err()
        });
        let queries = scope.spawn(move || {
            client.execute(&QueryStatus, LONG).unwrap();
            waiting_too.send(()).unwrap();
            loop {
                if let Err(error) = client.execute(&QueryStatus, LONG) {
                    return error;
                }
            }
        });
        is_waiting.recv().unwrap();
        is_waiting.recv().unwrap();
        qemu.child.kill().unwrap();
        for error in [events.join().unwrap(), queries.join().unwrap()] {
            assert!(error.is_gone(), "{error:?}");
        }
    });
    assert!(client.execute(&Stop, LONG).unwrap_err().is_gone());
}

/// The orderly end: `quit` is answered or the connection is gone, and SHUTDOWN was heard before.
#[test]
fn quit_is_heard() {
    let (mut qemu, client) = Qemu::start("none", &[]);
    let mut events = client.events();
    match client.execute(&Quit, LONG) {
        Ok(_) => {}
        Err(error) => assert!(error.is_gone(), "{error:?}"),
    }
    let event = events.wait(LONG, |event| event.name == "SHUTDOWN").unwrap();
    assert_eq!(event.data["reason"], "host-qmp-quit");
    assert!(event.timestamp.seconds > 0);
    assert!(events.wait_next(LONG).unwrap_err().is_gone());
    assert!(qemu.child.wait().unwrap().success());
}

/// Guards what a server of pages needs when QEMU's main loop hangs: commands out of band from whoever comes next, whatever
/// one who died left half read, with the events that nobody reads in between; and a QEMU that is gone is told as that.
#[test]
fn pipes_serve_one_client_after_another() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pipes");
    make_pipes(&path).unwrap();
    assert!(
        matches!(OutOfBandClient::open(&path, CONNECTION, LONG), Err(QmpError::Connect { .. })),
        "nobody is there"
    );
    make_pipes(&path).unwrap();
    let chardev = format!("pipe,id=pipes,path={}", path.display());
    let (mut qemu, client) =
        Qemu::start("q35", &["-chardev", &chardev, "-mon", "chardev=pipes,mode=control"]);
    let recover = MigrateRecover { uri: format!("unix:{}", folder.path().join("never").display()) };
    let refused = |result: Result<_, QmpError>| {
        let error = result.unwrap_err();
        assert!(error.refusal().is_some_and(|refusal| refusal.desc.contains("paused")), "{error:?}");
    };
    let mut first = OutOfBandClient::open(&path, CONNECTION, LONG).unwrap();
    first.negotiate(LONG).unwrap();
    refused(first.execute(&recover, LONG));
    drop(first);

    // One that died in the midst of an answer, and events that fill more than a pipe.
    let mut commands = File::options().write(true).open(folder.path().join("pipes.in")).unwrap();
    commands
        .write_all(
            b"{\"exec-oob\":\"migrate-recover\",\"arguments\":{\"uri\":\"unix:/x\"},\"id\":\"lost\"}\n",
        )
        .unwrap();
    let mut half = [0; 20];
    File::open(folder.path().join("pipes.out")).unwrap().read_exact(&mut half).unwrap();
    for _ in 0..400 {
        client.execute(&Cont, LONG).unwrap();
        client.execute(&Stop, LONG).unwrap();
    }
    let mut second = OutOfBandClient::open(&path, ConnectionId(2), LONG).unwrap();
    refused(second.execute(&recover, LONG));
    second.drain().unwrap();
    refused(second.execute(&recover, LONG));

    qemu.child.kill().unwrap();
    qemu.child.wait().unwrap();
    let error = second.execute(&recover, LONG).unwrap_err();
    assert!(error.is_gone(), "{error:?}");
    assert!(matches!(OutOfBandClient::open(&path, CONNECTION, LONG), Err(QmpError::Connect { .. })));
}
