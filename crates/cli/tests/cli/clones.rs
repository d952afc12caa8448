//! Guards `vm clone` where no guest is needed: names, refusals, what keeps a parent's layers, and the documents.

use serde_json::{Value, json};

use crate::sandbox::Sandbox;

/// A VM with a snapshot of grade `off`.
fn with_snapshot() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.vm("web");
    sandbox.ok(&["snapshot", "create", "web", "one"]);
    sandbox
}

fn names(list: &Value) -> Vec<String> {
    let name = |view: &Value| view["name"].as_str().unwrap().to_owned();
    list.as_array().unwrap().iter().map(name).collect()
}

/// What is asked for wrongly changes nothing, and says what would be right.
#[test]
fn bad_requests() {
    let sandbox = with_snapshot();
    let before = sandbox.json(&["vm", "list"]);
    for (arguments, status, words) in [
        (&["web@one", "a b"][..], 2, "not allowed"),
        (&["web@one", "../x"], 2, "not allowed"),
        (&["web@one", "x", "--count", "0"], 2, "from 1 to 1000"),
        (&["web@one", "x", "--count", "1001"], 2, "from 1 to 1000"),
        (&["web@one", "x", "--count", "many"], 2, "many"),
        (&["web", "x"], 2, "VM@SNAPSHOT"),
        (&["web@two", "x"], 4, "no snapshot 'two'"),
        (&["none@one", "x"], 4, "there is no VM 'none'"),
        (&["web@one", "web"], 5, "there is a VM 'web' already"),
    ] {
        sandbox.run(&[&["vm", "clone"], arguments].concat()).fails(status, &[words]);
    }
    // One name of several that is taken: none is made.
    sandbox.ok(&["vm", "clone", "web@one", "x-2"]);
    sandbox.run(&["vm", "clone", "web@one", "x", "--count", "3"]).fails(5, &["there is a VM 'x-2' already"]);
    let long = "x".repeat(64);
    sandbox.run(&["vm", "clone", "web@one", &long, "--count", "2"]).fails(2, &["66 bytes"]);
    sandbox.ok(&["vm", "delete", "x-2", "-y"]);
    assert_eq!(sandbox.json(&["vm", "list"]), before);
    let entries = std::fs::read_dir(sandbox.root().join("vms")).unwrap().count();
    assert_eq!(entries, 1, "drafts are left");
}

/// The fields that programs read, of the result and of those that show clones later.
#[test]
fn documents() {
    let sandbox = with_snapshot();
    let made = sandbox.json(&["vm", "clone", "web@one", "c", "--count", "2"]);
    assert_eq!((&made["vm"], &made["snapshot"]), (&json!("web"), &json!("one")));
    assert_eq!(names(&made["clones"]), ["c-1", "c-2"]);
    assert!(made["total_ms"].is_number() && made["not_unique"][0]["fix"].is_string(), "{made}");
    let clone = &made["clones"][0];
    for (field, value) in [
        ("start", json!("cold")),
        ("state", json!("stopped")),
        ("pid", Value::Null),
        ("qmp", Value::Null),
        ("links_down", json!([])),
        ("start_ms", Value::Null),
        ("error", Value::Null),
    ] {
        assert_eq!(clone[field], value, "{field}");
    }
    let shown = sandbox.json(&["vm", "show", "c-1"]);
    assert_eq!((&shown["origin"]["vm"], &shown["origin"]["snapshot"]), (&json!("web"), &json!("one")));
    assert_eq!((&shown["next_start"], &shown["current"]), (&json!("cold"), &Value::Null));
    assert_eq!(shown["disks"][0]["chain"].as_array().unwrap().len(), 3, "{shown}");
    assert_eq!(sandbox.json(&["vm", "show", "web"])["origin"], Value::Null);
    assert_eq!(sandbox.json(&["snapshot", "show", "web@one"])["clones"], json!(["c-1", "c-2"]));
    assert_ne!(made["clones"][0]["id"], made["clones"][1]["id"]);
}

/// Nothing that a clone reads may go, whoever asks; once the clones are gone, all may.
#[test]
fn a_parent_keeps_what_its_clones_read() {
    let sandbox = with_snapshot();
    sandbox.ok(&["vm", "clone", "web@one", "child"]);
    sandbox.ok(&["snapshot", "create", "child", "two"]);
    sandbox.ok(&["vm", "clone", "child@two", "grandchild"]);
    sandbox.ok(&["snapshot", "create", "web", "three"]);
    for (vm, clone) in [("web", "child"), ("child", "grandchild")] {
        sandbox.run(&["vm", "delete", vm, "-y"]).fails(5, &["can't be deleted", clone]);
        sandbox.run(&["vm", "delete", vm, "-y", "--force"]).fails(5, &[clone]);
        sandbox.run(&["vm", "delete", vm, "--dry-run"]).fails(5, &[clone]);
    }
    sandbox.run(&["snapshot", "delete", "web@one", "web@three", "-y"]).fails(5, &["VM 'child', a clone"]);
    sandbox.run(&["snapshot", "delete", "child@two", "-y"]).fails(5, &["VM 'grandchild', a clone"]);
    // A clone whose record is damaged is a clone all the same: its layers tell.
    let record = sandbox.root().join("vms/child/vm.json");
    let whole = std::fs::read(&record).unwrap();
    std::fs::write(&record, b"{").unwrap();
    sandbox.run(&["vm", "delete", "web", "-y"]).fails(5, &["'child'"]);
    std::fs::write(&record, whole).unwrap();
    // The present state of the parent lies on the same layer; what is given up there is not the clone's.
    sandbox.ok(&["snapshot", "restore", "web@one", "--discard-current"]);
    sandbox.ok(&["snapshot", "delete", "web@three", "-y"]);
    sandbox.ok(&["vm", "start", "grandchild"]);
    sandbox.ok(&["vm", "stop", "grandchild", "--force"]);
    for vm in ["grandchild", "child", "web"] {
        sandbox.ok(&["vm", "delete", vm, "-y"]);
    }
}

/// A root can be moved with the clones in it: their layers name each other by where they are to one another.
#[test]
fn a_root_with_clones_can_be_moved() {
    let sandbox = with_snapshot();
    sandbox.ok(&["vm", "clone", "web@one", "c"]);
    let moved = sandbox.path("elsewhere");
    std::fs::rename(sandbox.root(), &moved).unwrap();
    let view = sandbox.json(&["--root", &moved, "vm", "start", "c"]);
    assert_eq!(view["state"], "running");
    assert!(view["disks"][0]["chain"][1].as_str().unwrap().starts_with(&moved), "{view}");
    sandbox.ok(&["--root", &moved, "vm", "stop", "c", "--force"]);
}

/// What would collide on the host is the clone's own, and clones that start at once do not meet on a port.
#[test]
fn clones_share_no_port_and_no_socket() {
    let sandbox = Sandbox::new();
    let disk = sandbox.disk("web.qcow2");
    let socket = sandbox.path("serial.sock");
    sandbox.vm_with(
        "web",
        &[
            "-drive",
            &format!("file={disk},if=virtio"),
            "-nic",
            "user,hostfwd=tcp:127.0.0.1:47123-:22,mac=52:54:00:12:34:56",
            "-serial",
            &format!("unix:{socket},server=on,wait=off"),
            "-device",
            "vmgenid,guid=324e6eaf-d1d1-4bf6-bf41-b9bb6c91fb87",
        ],
    );
    sandbox.ok(&["snapshot", "create", "web", "one"]);
    let made = sandbox.json(&["vm", "clone", "web@one", "c", "--count", "3", "--start"]);
    let changed = made["changed"].to_string();
    for words in ["{port:47123}", "{run}/serial.sock", "vmgenid guid", "-nic mac"] {
        assert!(changed.contains(words), "{words}: {changed}");
    }
    let views: Vec<Value> = ["c-1", "c-2", "c-3"].map(|name| sandbox.json(&["vm", "show", name])).to_vec();
    let mut ports: Vec<&Value> = views.iter().map(|view| &view["ports"]["47123"]).collect();
    ports.sort_by_key(|port| port.as_u64());
    ports.dedup();
    assert_eq!(ports.len(), 3, "{ports:?}");
    for view in &views {
        assert_eq!(view["state"], "running", "{view}");
        let socket = format!("{}/serial.sock", view["run"].as_str().unwrap());
        assert!(std::path::Path::new(&socket).exists(), "{socket}");
    }
    let words = |view: &Value, key: &str| {
        let line = view["command_line"].to_string();
        line.split(key).nth(1).unwrap().chars().take(17).collect::<String>()
    };
    for key in ["mac=", "guid="] {
        assert_ne!(words(&views[0], key), words(&views[1], key), "{key}");
        assert_ne!(words(&views[0], key), words(&sandbox.json(&["vm", "show", "web"]), key), "{key}");
    }
}
