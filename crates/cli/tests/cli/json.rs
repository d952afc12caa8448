//! Guards the documents that programs read.

use serde_json::{Value, json};

use crate::sandbox::{QEMU, Run, Sandbox};

fn error_of(run: &Run) -> Value {
    assert_eq!(run.stdout, "", "{run:?}");
    assert_eq!(run.stderr.lines().count(), 1, "{run:?}");
    let mut document: Value = serde_json::from_str(&run.stderr).unwrap();
    let keys: Vec<&String> = document["error"].as_object().unwrap().keys().collect();
    assert_eq!(keys, ["kind", "message", "hint", "causes"]);
    document["error"].take()
}

#[test]
fn errors() {
    let sandbox = Sandbox::new();
    sandbox.vm("db");
    let error = error_of(&sandbox.run(&["--json", "vm", "show", "web"]));
    assert_eq!(
        error,
        json!({
            "kind": "not-found",
            "message": "there is no VM 'web'",
            "hint": "`vmrewind vm list` shows all VMs",
            "causes": [],
        })
    );
    let run = sandbox.run(&["vm", "create", "web", "--json", "--disk", "none.qcow2"]);
    assert_eq!(run.status, Some(1));
    assert_eq!(error_of(&run)["causes"][0], "No such file or directory (os error 2)");
}

/// Misuse is told as JSON too, though nothing could be parsed.
#[test]
fn usage_errors() {
    let sandbox = Sandbox::new();
    let run = sandbox.run(&["vm", "list", "--json", "--frobnicate"]);
    assert_eq!(run.status, Some(2));
    let error = error_of(&run);
    assert_eq!(
        (&error["kind"], &error["message"]),
        (&json!("usage"), &json!("unexpected argument '--frobnicate' found"))
    );
    // This `--json` is QEMU's.
    let text = sandbox.run(&["vm", "create", "a b", "--", "qemu", "--json"]);
    assert!(text.stderr.starts_with("error: "), "{text:?}");
}

#[test]
fn empty_lists() {
    let sandbox = Sandbox::new();
    for command in [["vm", "list"], ["snapshot", "list"]] {
        assert_eq!(sandbox.json(&command), json!([]));
    }
    assert_eq!(sandbox.ok(&["vm", "list"]), "no VMs; `vmrewind vm create --help` shows how to make one\n");
    assert_eq!(sandbox.ok(&["snapshot", "list"]), "no snapshots; `vmrewind snapshot create VM` makes one\n");
    sandbox.vm("web");
    assert_eq!(sandbox.json(&["snapshot", "list", "web", "--tree"]), json!([]));
}

/// The fields that the product promises are there, with their units.
#[test]
fn vm_and_snapshot_views() {
    let sandbox = Sandbox::new();
    sandbox.vm("web");
    let vm = sandbox.json(&["vm", "show", "web"]);
    for field in ["name", "state", "pid", "qmp", "run", "ports", "disks", "snapshots"] {
        assert!(vm.get(field).is_some(), "{field}");
    }
    assert_eq!((&vm["state"], &vm["pid"], &vm["qmp"]), (&json!("stopped"), &Value::Null, &Value::Null));
    assert_eq!(vm["disks"][0]["chain"].as_array().unwrap().len(), 2);
    let made = sandbox.json(&["snapshot", "create", "web", "one", "-m", "text", "--label", "a=b"]);
    for (field, value) in [
        ("vm", json!("web")),
        ("name", json!("one")),
        ("parent", Value::Null),
        ("created", json!("2026-01-02T03:04:05Z")), // The sandbox's fourth run.
        ("grade", json!("off")),
        ("method", json!("none")),
        ("memory", Value::Null),
        ("message", json!("text")),
        ("labels", json!({ "a": "b" })),
    ] {
        assert_eq!(made[field], value, "{field}");
    }
    assert!(
        made["pause_ms"].is_number() && made["total_ms"].is_number() && made["disks"][0]["bytes"].is_u64()
    );
    assert_eq!(sandbox.json(&["snapshot", "show", "web@one"]), sandbox.json(&["snapshot", "list"])[0]);
}

/// A running VM: memory is there, and everything on standard error is a JSON line.
#[test]
fn a_live_snapshot() {
    let sandbox = Sandbox::new();
    sandbox.vm("web");
    assert_eq!(sandbox.json(&["vm", "start", "web"])["state"], "running");
    let run = sandbox.run(&["snapshot", "create", "web", "one", "--require", "live", "--json"]);
    assert_eq!(run.status, Some(0), "{run:?}");
    let made: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(made["grade"], "live");
    for field in ["bytes", "zero_bytes", "new_bytes", "stored_bytes"] {
        assert!(made["memory"][field].is_u64(), "{field}");
    }
    for line in run.stderr.lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        assert!(event["event"] == "progress" || event["event"] == "note", "{line}");
    }
    let restored = sandbox.json(&["snapshot", "restore", "web@one"]);
    assert_eq!(restored["snapshot"], "one");
    // Where the host has no userfaultfd, it says so.
    let says_why = restored["notes"].to_string().contains("lazy restore is not possible");
    assert!(restored["mode"] == "lazy" || (restored["mode"] == "eager" && says_why), "{restored}");
    assert_eq!(sandbox.json(&["snapshot", "restore", "web@one", "--eager"])["mode"], "eager");
    assert!(restored["start_ms"].is_number() && restored.get("undo").is_some());
    assert_eq!(sandbox.json(&["vm", "stop", "web", "--force"])["state"], "stopped");
}

/// `doctor` reports the same in both forms, and its status says whether vmrewind can work here.
#[test]
fn doctor() {
    let sandbox = Sandbox::new();
    let report = sandbox.json(&["doctor"]);
    assert_eq!(report["ok"], true);
    let text = sandbox.ok(&["doctor"]);
    for check in report["checks"].as_array().unwrap() {
        assert!(text.contains(check["name"].as_str().unwrap()), "{check}");
    }
    let mut command = sandbox.command();
    let without = Run::of(&command.env("PATH", "/nowhere").args(["doctor", "--json"]).output().unwrap());
    assert_eq!(without.status, Some(1), "{without:?}");
    let report: Value = serde_json::from_str(&without.stdout).unwrap();
    assert_eq!((&report["ok"], &report["checks"][0]["status"]), (&json!(false), &json!("missing")));
    let error: Value = serde_json::from_str(&without.stderr).unwrap();
    assert_eq!(
        error["error"]["message"],
        "this host lacks what vmrewind needs: qemu-system-x86_64, qemu-img"
    );
    assert!(!sandbox.root().exists(), "looking must not make a root");
}

/// Deleting shows its plan, does nothing in a dry run, and is refused where nobody can confirm.
#[test]
fn deletions() {
    let sandbox = Sandbox::new();
    sandbox.vm("web");
    sandbox.ok(&["snapshot", "create", "web", "one"]);
    sandbox.ok(&["snapshot", "create", "web", "two"]);
    sandbox.ok(&["snapshot", "restore", "web@one"]);
    let refused = sandbox.run(&["snapshot", "delete", "web@two"]);
    refused.fails(5, &["Delete 1 snapshot, freeing", "hint: add -y"]);
    let plan = sandbox.json(&["snapshot", "delete", "web@two", "--dry-run"]);
    assert_eq!((&plan["dry_run"], &plan["snapshots"]), (&json!(true), &json!(["web@two"])));
    assert_eq!(sandbox.json(&["snapshot", "list"]).as_array().unwrap().len(), 2);
    let done = sandbox.json(&["snapshot", "delete", "web@two", "-y"]);
    assert_eq!((&done["dry_run"], &done["bytes"]), (&json!(false), &plan["bytes"]));
    assert_eq!(sandbox.json(&["snapshot", "list"]).as_array().unwrap().len(), 1);
    sandbox.run(&["vm", "delete", "web"]).fails(5, &["Delete VM 'web' and its 1 snapshot", "hint: add -y"]);
    let plan = sandbox.json(&["vm", "delete", "web", "--dry-run"]);
    assert_eq!(plan["kept"], json!([sandbox.path("web.qcow2")]));
    sandbox.ok(&["vm", "delete", "web", "-y"]);
    assert!(std::path::Path::new(&sandbox.path("web.qcow2")).exists());
    assert_eq!(sandbox.json(&["vm", "list"]), json!([]));
    let again = sandbox.run(&[&["vm", "create", "web", "--"], QEMU].concat());
    assert_eq!(again.status, Some(0), "{again:?}");
}
