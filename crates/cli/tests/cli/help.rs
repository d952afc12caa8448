//! Guards the help of every command, which is its documentation.

use crate::sandbox::Sandbox;

/// Every command that is shown to users; a new one must be added here to be pinned.
const COMMANDS: &[&str] = &[
    "",
    "vm",
    "vm create",
    "vm clone",
    "vm start",
    "vm stop",
    "vm list",
    "vm show",
    "vm delete",
    "vm link",
    "vm repair",
    "vm console",
    "snapshot",
    "snapshot create",
    "snapshot list",
    "snapshot show",
    "snapshot restore",
    "snapshot delete",
    "snapshot rename",
    "snapshot verify",
    "guard",
    "gc",
    "check",
    "usage",
    "doctor",
    "completions",
    "man",
];

#[test]
fn every_command() {
    let sandbox = Sandbox::new();
    for command in COMMANDS {
        let words: Vec<&str> = command.split_whitespace().chain(["--help"]).collect();
        let name = if command.is_empty() { "vmrewind".to_owned() } else { command.replace(' ', "_") };
        insta::assert_snapshot!(name, sandbox.ok(&words));
    }
    assert!(!sandbox.root().exists(), "help must not make a root");
}

/// A command that is in no list here would not be pinned.
#[test]
fn no_command_is_forgotten() {
    let sandbox = Sandbox::new();
    for noun in ["", "vm", "snapshot"] {
        let words: Vec<&str> = noun.split_whitespace().chain(["--help"]).collect();
        let text = sandbox.ok(&words);
        let listed = text.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
        for line in listed.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   ")) {
            let verb = line.split_whitespace().next().unwrap();
            let command = format!("{noun} {verb}");
            assert!(verb == "help" || COMMANDS.contains(&command.trim()), "{command}");
        }
    }
}

#[test]
fn aliases() {
    let sandbox = Sandbox::new();
    for (alias, command) in
        [(&["snap", "ls"][..], &["snapshot", "list"][..]), (&["vm", "ls"], &["vm", "list"])]
    {
        assert_eq!(sandbox.ok(alias), sandbox.ok(command));
    }
    for (alias, command) in [(["vm", "rm"], ["vm", "delete"]), (["snap", "rm"], ["snapshot", "delete"])] {
        assert_eq!(sandbox.run(&alias).status, sandbox.run(&command).status);
    }
}

#[test]
fn version() {
    assert_eq!(Sandbox::new().ok(&["--version"]), format!("vmrewind {}\n", env!("CARGO_PKG_VERSION")));
}

/// Packages are built with these.
#[test]
fn completions_and_manual_pages() {
    let sandbox = Sandbox::new();
    for shell in ["bash", "zsh", "fish"] {
        assert!(sandbox.ok(&["completions", shell]).contains("snapshot"), "{shell}");
    }
    let written = sandbox.json(&["man", &sandbox.path("man")]);
    let pages: Vec<&str> =
        written["pages"].as_array().unwrap().iter().map(|page| page.as_str().unwrap()).collect();
    assert!(pages.contains(&"vmrewind.1") && pages.contains(&"vmrewind-snapshot-create.1"), "{pages:?}");
}
