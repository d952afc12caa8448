//! Guards what happens only on a terminal: questions, raw mode. `script` (util-linux) makes the terminal.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use crate::console::SERIAL;
use crate::sandbox::Sandbox;

/// A shell line that runs on a terminal.
struct Terminal {
    child: Child,
    keys: ChildStdin,
    screen: ChildStdout,
    seen: String,
}

impl Terminal {
    /// Runs a shell line in which `vmrewind` is the binary.
    fn run(sandbox: &Sandbox, line: &str) -> Self {
        let mut command = sandbox.prepared(Path::new("script"));
        let line = line.replace("vmrewind", env!("CARGO_BIN_EXE_vmrewind"));
        command.args(["-qefc", &line, "/dev/null"]).env("SHELL", "/bin/sh");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().unwrap();
        let (keys, screen) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { child, keys, screen, seen: String::new() }
    }

    fn wait_for(&mut self, words: &str) {
        while !self.seen.contains(words) {
            let mut bytes = [0; 256];
            let count = self.screen.read(&mut bytes).unwrap();
            assert!(count > 0, "{words:?} is not in {:?}", self.seen);
            self.seen += &String::from_utf8_lossy(&bytes[..count]);
        }
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
        self.keys.flush().unwrap();
    }

    /// Everything that was on the screen, and the exit status.
    fn end(mut self) -> (String, Option<i32>) {
        let mut rest = Vec::new();
        self.screen.read_to_end(&mut rest).unwrap();
        self.seen += &String::from_utf8_lossy(&rest);
        (self.seen, self.child.wait().unwrap().code())
    }
}

/// Only a yes deletes.
#[test]
fn questions() {
    let sandbox = Sandbox::new();
    sandbox.vm("web");
    for (answer, status, left) in [("n\n", 1, 1), ("\n", 1, 1), ("yes\n", 0, 0)] {
        let mut terminal = Terminal::run(&sandbox, "vmrewind vm delete web");
        terminal.wait_for("? [y/N] ");
        terminal.press(answer);
        let (screen, code) = terminal.end();
        assert_eq!(code, Some(status), "{screen}");
        assert!(screen.contains("keeps "), "the plan is not shown: {screen}");
        assert_eq!(sandbox.json(&["vm", "list"]).as_array().unwrap().len(), left);
    }
}

/// Ctrl-C at a question is an interruption, and nothing is done.
#[test]
fn interrupted_question() {
    let sandbox = Sandbox::new();
    sandbox.vm("web");
    let mut terminal = Terminal::run(&sandbox, "exec vmrewind vm delete web");
    terminal.wait_for("? [y/N] ");
    terminal.press("\u{3}");
    let (screen, code) = terminal.end();
    assert_eq!(code, Some(130), "{screen}");
    assert_eq!(sandbox.json(&["vm", "list"]).as_array().unwrap().len(), 1);
}

/// Ctrl-] detaches, and the terminal is what it was: it echoes, and Ctrl-C works.
#[test]
fn console_restores_the_terminal() {
    let sandbox = Sandbox::new();
    sandbox.vm_with("web", SERIAL);
    sandbox.ok(&["vm", "start", "web"]);
    let mut terminal = Terminal::run(&sandbox, "vmrewind vm console web; echo status=$?; stty -a");
    terminal.wait_for("Ctrl-] detaches");
    terminal.press("\u{1d}");
    let (screen, _) = terminal.end();
    assert!(screen.contains("detached") && screen.contains("status=0"), "{screen}");
    assert!(screen.contains(" icanon") && screen.contains(" echo "), "{screen}");
}

/// Titles are bold on a terminal, but not where NO_COLOR asks for none.
#[test]
fn colours() {
    let sandbox = Sandbox::new();
    sandbox.vm("web");
    let (screen, _) = Terminal::run(&sandbox, "vmrewind vm list").end();
    assert!(screen.contains("\u{1b}[1m"), "{screen:?}");
    let (screen, _) = Terminal::run(&sandbox, "NO_COLOR=1 vmrewind vm list").end();
    assert!(!screen.contains('\u{1b}'), "{screen:?}");
}

/// A guarded command has the terminal as if it had been started by the shell: it can ask, be stopped by Ctrl-Z and go on,
/// and Ctrl-C ends it, which brings the VM back. What it did to the terminal's modes does not stay.
#[test]
fn a_guarded_command_has_the_terminal() {
    let sandbox = Sandbox::new();
    sandbox.vm("web");
    std::fs::write(sandbox.folder().join("asks"), "read x; printf 'name? '; read x; echo hello $x").unwrap();
    let line = "set -m; vmrewind guard web -- sh asks; echo is stopped; fg; echo status $?";
    let mut terminal = Terminal::run(&sandbox, line);
    // One that has read a line has the terminal, so that the next key is for it.
    terminal.press("\n");
    terminal.wait_for("name? ");
    terminal.press("\u{1a}");
    terminal.wait_for("is stopped");
    terminal.press("you\n");
    for words in ["hello you", "web@guard-1 is kept", "status 0"] {
        terminal.wait_for(words);
    }

    // No single long sleep: a Ctrl-C that comes while a shell forks reaches the shell only, which then waits for its child.
    std::fs::write(sandbox.folder().join("raw"), "stty raw isig; echo ready; while :; do sleep 0.1; done")
        .unwrap();
    let line = "vmrewind guard web --drop -- sh raw; echo status $?; stty -a";
    let mut terminal = Terminal::run(&sandbox, line);
    terminal.wait_for("ready");
    terminal.press("\u{3}");
    terminal.wait_for("guard: interrupted; web: back at 'guard-2'");
    terminal.wait_for("status 130");
    let (screen, _) = terminal.end();
    assert!(screen.contains(" icanon"), "the terminal is left raw: {screen}");
}

/// A guard that was sent to the background leaves the terminal to the shell when it ends.
#[test]
fn a_guard_in_the_background_leaves_the_terminal_alone() {
    let sandbox = Sandbox::new();
    sandbox.vm("web");
    std::fs::write(sandbox.folder().join("stops"), "kill -STOP $$; echo goes on").unwrap();
    // Fields 5 and 8 of the shell's status: its group, and that in the foreground of its terminal.
    let line =
        "set -m; vmrewind guard web -- sh stops; bg; wait; read -r stat < /proc/$$/stat; echo stat $stat";
    let (screen, _) = Terminal::run(&sandbox, line).end();
    assert!(screen.contains("goes on") && screen.contains("web@guard-1 is kept"), "{screen}");
    let stat = screen.rsplit_once("stat ").unwrap().1;
    let fields: Vec<&str> = stat.split_whitespace().collect();
    assert_eq!(fields[4], fields[7], "{screen}");
}

/// What a terminal does to background jobs that print or read must not hold vmrewind up.
#[test]
fn in_the_background_it_prints_and_gets_no_answer() {
    let sandbox = Sandbox::new();
    sandbox.vm("web");
    let line = "set -m; stty tostop; vmrewind snapshot create web one & wait $!; echo status $?";
    let (screen, _) = Terminal::run(&sandbox, line).end();
    assert!(screen.contains("web@one: ") && screen.contains("status 0"), "{screen}");

    let mut terminal = Terminal::run(&sandbox, "set -m; vmrewind vm delete web & wait $!; echo status $?");
    terminal.wait_for("? [y/N] ");
    terminal.press("yes\n");
    let (screen, _) = terminal.end();
    assert!(screen.contains("cannot read the answer") && screen.contains("status 1"), "{screen}");
    assert_eq!(sandbox.json(&["vm", "list"]).as_array().unwrap().len(), 1);
}
