//! The main job, shown: a running guest is captured, damaged, and brought back exactly.
//!
//! Everything is done by the command-line program, each command printed as a person would type it. The guest is the
//! one of the tests, and it judges itself. All files are in a temporary folder, which is removed at the end; a guest
//! that still runs when something fails is stopped.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use vmrewind_testkit::console::Console;
use vmrewind_testkit::disk;
use vmrewind_testkit::guest::{DiskArg, GuestOptions, command_line};
use vmrewind_testkit::report::{Tick, Verify};

use crate::steps::{Outcome, cargo, metadata};

const VM: &str = "demo";
const SNAPSHOT: &str = "demo@before";
const BOOT: Duration = Duration::from_secs(120);
const ANSWER: Duration = Duration::from_secs(60);

/// Runs the demonstration; it fails where the guest isn't brought back exactly.
pub(crate) fn run() -> Outcome {
    // Figures of a slow build would be no demonstration; the README's are of a release too.
    cargo(["build", "--profile", "demo", "--package", "vmrewind-cli", "--bin", "vmrewind"])?;
    let program =
        PathBuf::from(metadata()?["target_directory"].as_str().unwrap_or("target")).join("demo/vmrewind");
    // The guest's socket is below this folder, and the path of a socket has at most 107 bytes.
    let folder = tempfile::Builder::new().prefix("vmrewind-demo.").tempdir()?;
    let stage = Stage { program, root: folder.path().join("root") };
    let console = start_guest(&stage, folder.path())?;
    let (captured, before) = capture(&stage, &console)?;
    let damaged_at = damage(&console)?;
    restore(&stage, &console, &before, captured, damaged_at)?;
    clean_up(&stage)?;
    println!("\nThe guest was captured while it ran, damaged, and brought back exactly.");
    Ok(())
}

fn start_guest(stage: &Stage, folder: &Path) -> Outcome<Console> {
    title("A VM: two disks, one raw and one qcow2, 512 MiB of memory");
    let (first, second) = (folder.join("first.raw"), folder.join("second.qcow2"));
    disk::ext4_raw(&first, 64 << 20)?;
    disk::ext4_qcow2(&second, 64 << 20)?;
    let disks = vec![DiskArg::new(&first, "raw"), DiskArg::new(&second, "qcow2")];
    let options = GuestOptions { memory_mib: 512, fill_mib: 256, disks, ..GuestOptions::default() };
    let line = command_line(&options)?;
    let create = ["vm", "create", VM, "--"].into_iter().chain(line.iter().map(String::as_str));
    stage.run(&create.collect::<Vec<_>>())?;
    stage.run(&["vm", "start", VM])?;
    let shown = stage.run(&["vm", "show", VM])?;
    let run = shown["run"].as_str().ok_or("`vm show --json` names no run folder")?;
    let console = Console::attach(&Path::new(run).join("console.sock"));
    let began = Instant::now();
    console.wait_ready(BOOT)?;
    say(&format!("the guest has booted and ticks ({} ms)", began.elapsed().as_millis()));
    Ok(console)
}

/// Takes the snapshot; returns the last tick before it, and what the guest found right.
fn capture(stage: &Stage, console: &Console) -> Outcome<(Tick, Verify)> {
    title("A snapshot of the running guest: memory, devices and both disks of one instant");
    guest_is(console, true)?;
    console.ask("write letter Dear reader, all is well.", "WROTE", ANSWER)?;
    let before = guest_is(console, true)?;
    let (tick, since) = (console.last_tick().ok_or("the guest doesn't tick")?, console.mark());
    let snapshot = stage.run(&["snapshot", "create", VM, "before", "-m", "before the damage"])?;
    say(&format!(
        "grade {}, method {}: the guest stood still for {} ms of {} ms",
        figure(&snapshot, "grade"),
        figure(&snapshot, "method"),
        figure(&snapshot, "pause_ms"),
        figure(&snapshot, "total_ms")
    ));
    let memory = |key| figure(&snapshot["memory"], key);
    say(&format!(
        "memory: {}, of which {} are zero; stored: {}",
        memory("bytes"),
        memory("zero_bytes"),
        memory("stored_bytes")
    ));
    console.wait_tick(console.mark(), ANSWER)?;
    say(&format!("its longest time without a tick was {} ms", console.max_gap(since).as_millis()));
    Ok((tick, before))
}

/// Damages the guest; returns a tick after that.
fn damage(console: &Console) -> Outcome<Tick> {
    title("Damage: memory overwritten, every file deleted");
    console.ask("damage", "DAMAGED", ANSWER)?;
    guest_is(console, false)?;
    say(&console.ask("read letter", "READ", ANSWER)?);
    Ok(console.last_tick().ok_or("the guest doesn't tick")?)
}

fn restore(stage: &Stage, console: &Console, before: &Verify, captured: Tick, damaged_at: Tick) -> Outcome {
    title("Back to the snapshot");
    let since = console.mark();
    let restored = stage.run(&["snapshot", "restore", SNAPSHOT])?;
    let shown = |key| figure(&restored, key);
    say(&format!("mode {}, running after {} ms; undo: {}", shown("mode"), shown("start_ms"), shown("undo")));
    // Lines of the damaged guest may still come in; a tick from before the damage is one of the restored guest.
    let earlier = |line: &str| Tick::parse(line).filter(|tick| tick.tick < damaged_at.tick);
    let first = console.wait_for("tick of the restored guest", since, ANSWER, earlier)?;
    say(&format!(
        "the damaged guest was at tick {}, the restored one goes on at {}",
        damaged_at.tick, first.tick
    ));
    if first.tick < captured.tick {
        return Err(format!("tick {} is older than the snapshot, at {}", first.tick, captured.tick).into());
    }
    let after = guest_is(console, true)?;
    if after.sum != before.sum {
        return Err("the memory is consistent, but not the one that was captured".into());
    }
    let letter = console.ask("read letter", "READ", ANSWER)?;
    say(&letter);
    if letter != "READ letter = Dear reader, all is well." {
        return Err("the file did not come back".into());
    }
    Ok(())
}

fn clean_up(stage: &Stage) -> Outcome {
    title("Everything that is kept, then all of it removed");
    let listed = stage.run(&["snapshot", "list", VM])?;
    say(&format!("{} snapshot(s)", listed.as_array().map_or(0, Vec::len)));
    stage.run(&["vm", "stop", VM])?;
    stage.run(&["-y", "vm", "delete", VM])?;
    Ok(())
}

/// Has the guest check itself, and fails where it doesn't find what is expected.
fn guest_is(console: &Console, right: bool) -> Outcome<Verify> {
    let verify = console.verify(ANSWER)?;
    say(&format!("guest: {}", verify.line));
    if verify.ok == right {
        Ok(verify)
    } else {
        Err(format!("the guest should be {}", if right { "right" } else { "damaged" }).into())
    }
}

fn title(text: &str) {
    println!("\n{text}");
}

fn say(text: &str) {
    println!("  {text}");
}

/// The program and the root it works on; a guest left running is stopped with it.
struct Stage {
    program: PathBuf,
    root: PathBuf,
}

impl Stage {
    /// Runs a command with `--json` and returns its document; shows it, and how long it took.
    fn run(&self, arguments: &[&str]) -> Outcome<Value> {
        println!("  $ vmrewind {}", shortened(&as_typed(arguments)));
        let began = Instant::now();
        let output = self.command(arguments).output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(
                format!("vmrewind {} ended with {}: {said}", arguments.join(" "), output.status).into()
            );
        }
        say(&format!("done in {} ms", began.elapsed().as_millis()));
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(&self.root).arg("--json").args(arguments).stdin(Stdio::null());
        command
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // After a good end there is no such VM, which is said to nobody.
        let stop = ["vm", "stop", VM, "--force"];
        let _ = self.command(&stop).stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

/// Arguments as a person would type them.
fn as_typed(arguments: &[&str]) -> String {
    let quoted = |argument: &&str| {
        if argument.contains(' ') { format!("'{argument}'") } else { (*argument).to_owned() }
    };
    arguments.iter().map(quoted).collect::<Vec<_>>().join(" ")
}

/// A text field or a number of a JSON document, as a person reads it.
fn figure(document: &Value, key: &str) -> String {
    match &document[key] {
        Value::Null => "none".into(),
        Value::String(text) => text.clone(),
        Value::Number(number) if key.ends_with("bytes") => mebibytes(number.as_u64().unwrap_or(0)),
        other => other.to_string(),
    }
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

/// A command line as shown: that of QEMU is long.
fn shortened(line: &str) -> String {
    const SHOWN: usize = 110;
    if line.chars().count() <= SHOWN {
        line.to_owned()
    } else {
        line.chars().take(SHOWN).chain(" ...".chars()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Guards what people see: figures in units, commands that can be typed.
    #[test]
    fn figures_and_commands_are_shown_for_people() {
        let document = json!({ "bytes": 512 << 20, "pause_ms": 7.5, "mode": "lazy", "undo": null });
        let shown = ["bytes", "pause_ms", "mode", "undo"].map(|key| figure(&document, key));
        assert_eq!(shown, ["512 MiB", "7.5", "lazy", "none"]);
        assert_eq!(as_typed(&["create", "-m", "a b"]), "create -m 'a b'");
    }
}
