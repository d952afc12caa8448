//! Guards the text of results, with snapshots of a VM that does not run.

use insta::Settings;

use crate::sandbox::Sandbox;

/// Figures and paths that differ from run to run; runs of spaces, since columns are as wide
/// as the figures.
fn settings(sandbox: &Sandbox) -> Settings {
    let mut settings = Settings::clone_current();
    settings.add_filter(&sandbox.path(""), "[FOLDER]/");
    settings.add_filter(r"\d+(\.\d)? ([KM]iB|B\b)", "[SIZE]");
    settings.add_filter(r"\d+(\.\d)? m?s\b", "[TIME]");
    settings.add_filter(r"\b[0-9a-f]{16}\b", "[ID]");
    settings.add_filter(r"pc-i440fx-[0-9.]+", "[MACHINE]");
    settings.add_filter(r"\b\d+\.\d+\.\d+\b", "[VERSION]");
    settings.add_filter(r"(\S) {2,}", "$1  ");
    settings
}

/// Whoever writes VM and name as two words must mean the same snapshot to every command, as to `snapshot create`.
#[test]
fn addresses_of_two_words() {
    let sandbox = Sandbox::new();
    sandbox.vm("web");
    for name in ["one", "two", "three"] {
        sandbox.ok(&["snapshot", "create", "web", name]);
    }
    assert_eq!(sandbox.json(&["snapshot", "show", "web", "one"])["name"], "one");
    assert!(sandbox.ok(&["snapshot", "verify", "web", "one"]).starts_with("web@one: sound"));
    assert_eq!(sandbox.json(&["snapshot", "restore", "web", "one"])["snapshot"], "one");
    assert_eq!(sandbox.ok(&["snapshot", "rename", "web", "two", "new"]), "web@two is now web@new\n");
    assert_eq!(sandbox.json(&["vm", "clone", "web", "one", "copy"])["clones"][0]["name"], "copy");
    sandbox.ok(&["vm", "delete", "copy", "-y"]);
    let deleted = sandbox.json(&["snapshot", "delete", "web", "new", "three", "-y"]);
    assert_eq!(deleted["snapshots"], serde_json::json!(["web@new", "web@three"]));
    let left = sandbox.json(&["snapshot", "list", "web"]);
    assert_eq!((left.as_array().map(Vec::len), &left[0]["name"]), (Some(1), &"one".into()));
}

/// What a person reads on the way from a new VM to a restored one.
#[test]
fn texts() {
    let sandbox = Sandbox::new();
    let disk = sandbox.disk("web.qcow2");
    let drive = format!("file={disk},if=virtio");
    let mut told = String::new();
    for line in [
        &["vm", "create", "web", "--", "qemu-system-x86_64", "-m", "32M", "-drive", &drive][..],
        &["vm", "list"],
        &["snapshot", "create", "web", "one", "-m", "first\nof \u{1b}[31mall"],
        &["snapshot", "create", "web@two", "--label", "ticket=4711"],
        &["snapshot", "create", "web"],
        &["snapshot", "list"],
        &["snapshot", "restore", "web@one"],
        &["snapshot", "rename", "web@snap-1", "three"],
        &["snapshot", "list", "web"],
        &["snapshot", "list", "web", "--tree"],
        &["snapshot", "list", "web", "--tree", "--all"],
        &["snapshot", "show", "web@two"],
        &["snapshot", "verify", "web@two"],
        &["snapshot", "delete", "web@three", "--dry-run"],
        &["snapshot", "delete", "web@three", "-y"],
        &["vm", "stop", "web"],
        &["vm", "show", "web"],
        &["vm", "delete", "web", "--dry-run"],
        &["vm", "delete", "web", "-y"],
    ] {
        told += &format!("$ vmrewind {}\n{}", line.join(" ").escape_debug(), sandbox.ok(line));
    }
    settings(&sandbox).bind(|| insta::assert_snapshot!("texts", told));
}
