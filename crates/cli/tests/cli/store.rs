//! Guards `gc`, `check` and `usage` where there is little in the store.

use serde_json::json;

use crate::sandbox::Sandbox;

/// A root that is new has nothing to free, nothing damaged, and says so in both forms.
#[test]
fn an_empty_store() {
    let sandbox = Sandbox::new();
    assert_eq!(sandbox.ok(&["gc"]), "nothing to free: snapshots need 0 B of 0 B\n");
    assert_eq!(sandbox.ok(&["check"]), "no damage found: 0 memory images, 0 packs, 0 objects\n");
    assert_eq!(sandbox.ok(&["usage"]), "the store takes 0 B\n");
    let gc = sandbox.json(&["gc", "--dry-run"]);
    assert_eq!((&gc["dry_run"], &gc["freed_bytes"], &gc["packs"]), (&json!(true), &json!(0), &json!([])));
    let check = sandbox.json(&["check", "--read-data"]);
    assert_eq!((&check["ok"], &check["damaged_snapshots"]), (&json!(true), &json!([])));
    assert_eq!(sandbox.json(&["usage"])["vms"], json!([]));
}

/// A VM without memory has layers; one that is not there is an error and not an empty list.
#[test]
fn usage_of_vms() {
    let sandbox = Sandbox::new();
    sandbox.vm("web");
    sandbox.json(&["snapshot", "create", "web", "one"]);
    let usage = sandbox.json(&["usage", "web"]);
    assert_eq!((&usage["vms"][0]["vm"], &usage["vms"][0]["snapshots"]), (&json!("web"), &json!([])));
    assert!(usage["layer_bytes"].as_u64() > Some(0), "{usage}");
    assert_eq!(sandbox.run(&["usage", "nobody"]).status, Some(4));
}

/// What a killed capture left is removed, and what is no file of the store is not.
#[test]
fn files_of_dead_commands_go() {
    let sandbox = Sandbox::new();
    sandbox.vm("web");
    let store = sandbox.root().join("store");
    std::fs::write(store.join("0123-0.pack.part"), [0; 5000]).unwrap();
    std::fs::write(store.join("notes.txt"), "mine").unwrap();
    let plan = sandbox.json(&["gc", "--dry-run"]);
    assert_eq!((&plan["left_files"], &plan["freed_bytes"]), (&json!(["0123-0.pack.part"]), &json!(5000)));
    assert!(store.join("0123-0.pack.part").exists(), "a dry run changes nothing");
    let text = sandbox.ok(&["gc"]);
    assert_eq!(text, "1 file left by commands that were killed\nfreed 4.9 KiB\n");
    assert!(!store.join("0123-0.pack.part").exists() && store.join("notes.txt").exists());
}
