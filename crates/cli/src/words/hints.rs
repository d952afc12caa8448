//! The engine's advice in the command line's words: which command to type, which option to add.
//!
//! The match has no arm for "all others", so a new piece of advice does not build before it has words here.

use vmrewind_engine::Hint;

/// What to do next, as it is printed after `hint:`.
#[expect(clippy::too_many_lines, reason = "a table: one line for each piece of advice")]
pub(crate) fn hint(hint: &Hint) -> String {
    match hint {
        // About what was asked for.
        Hint::NameRules => {
            "use 1 to 64 letters, digits, '.', '_' or '-', starting with a letter or digit".into()
        }
        Hint::AddressForm => "write VM@SNAPSHOT; `vmrewind snapshot list` shows them".into(),
        Hint::Grades => "grades are live, filesystem, crash and off".into(),
        Hint::Accelerators => "accelerators are kvm and tcg".into(),
        Hint::Networks => "networks are user, none and bridge=NAME".into(),
        Hint::CloneCount { most } => format!("--count takes a number from 1 to {most}"),
        Hint::OneVmAtATime => "delete those of one VM at a time".into(),
        Hint::ChooseAnotherName => "choose another name".into(),
        Hint::VmNameTaken => "choose another name; `vmrewind vm list` shows those taken".into(),
        Hint::SnapshotNameTaken => "choose another name, or delete or rename the old one".into(),
        Hint::ListVms => "`vmrewind vm list` shows all VMs".into(),
        Hint::NoSnapshots { vm } => format!("VM '{vm}' has no snapshots"),
        Hint::OtherSnapshots { vm, newest } => {
            format!("the newest are: {}; `vmrewind snapshot list {vm}` shows all", newest.join(", "))
        }
        Hint::GoneMeanwhile => "the one that was meant was deleted or renamed meanwhile".into(),
        Hint::NetworkDevices { nics } => format!("it has: {}", nics.join(", ")),

        // About the command line of a VM.
        Hint::GiveCommandLine => "give the program and its options after `--`, as you would type them".into(),
        Hint::OptionsInstead { instead } => instead.join("; "),
        Hint::EmulatorWanted { example } => {
            format!("the first word after `--` must be a QEMU system emulator, like {example}")
        }
        Hint::EmulatorMissing { package } => format!(
            "give the QEMU program after `--`; install it where it is missing (Debian and Ubuntu: package {package})"
        ),
        Hint::NewerQemu { major, minor } => format!("use QEMU {major}.{minor} or later"),
        Hint::ImageForEachDisk => "give each disk an image of its own".into(),
        Hint::TrustBacking => {
            "if you made this image yourself and want that file to be read, add --trust-backing".into()
        }
        Hint::ConsoleOnSocket => {
            "its command line would need `-serial unix:{run}/console.sock,server=on,wait=off`; \
             output of other consoles is in the VM's log"
                .into()
        }

        // About the state that a VM is in.
        Hint::StartVm { vm } => format!("`vmrewind vm start {vm}` starts it"),
        Hint::StopVm { vm } => format!("`vmrewind vm stop {vm}` stops it"),
        Hint::StopOrForceDelete { vm } => {
            format!("stop it first (`vmrewind vm stop {vm}`), or delete it with --force")
        }
        Hint::BootFromDisks { vm } => format!("`vmrewind vm start {vm}` boots it from its disks"),
        Hint::BootCloneCold { vm } => format!("`vmrewind vm start {vm} --cold` boots it from its disks"),
        Hint::BootOrVerify { vm, snapshot } => format!(
            "`vmrewind vm start {vm}` boots it from its disks; \
             `vmrewind snapshot verify {vm}@{snapshot}` says what is damaged"
        ),
        Hint::RestoreAgain { vm } => format!("the disks of '{vm}' are those of the snapshot; restore it again"),
        Hint::RunOrForceStop { vm } => {
            format!("let it run first, or use `vmrewind vm stop {vm} --force`")
        }
        Hint::WaitLongerOrForceStop { vm } => {
            format!("wait longer with --timeout, or use `vmrewind vm stop {vm} --force`")
        }
        Hint::LinksOfRunning => {
            "its cables are plugged when it boots; only a running VM's can be changed".into()
        }

        // About what can't be captured.
        Hint::StartWithMemory => "start the VM and leave --disk-only out".into(),
        Hint::StopFirst => "stop the VM first".into(),
        Hint::MemoryToo => "leave --disk-only out, so that the memory is captured too".into(),
        Hint::StartForMemory => "start it, and leave --disk-only out".into(),
        Hint::LookAtState { vm } => {
            format!("look at it with `vmrewind vm show {vm}`; a VM that is stopped can be captured")
        }
        Hint::StartOrCloneAgain => "start it first, or clone that snapshot again".into(),
        Hint::WithoutMemory => {
            "`--disk-only` makes a snapshot without memory; `-v` shows what QEMU said".into()
        }
        Hint::RunOrWithoutMemory => {
            "let the guest run first (a paused one is taken by background snapshot only), or use --disk-only".into()
        }
        Hint::RemoveDevice => "remove the device from the VM's command line, or use --disk-only".into(),
        Hint::AllowLongerPause => "allow a longer --max-pause, or try again when the VM is less busy".into(),

        // About others who use something.
        Hint::TryAgain => "try again".into(),
        Hint::WaitUntilItRuns => "wait until it runs, then try again".into(),
        Hint::WaitUntilOver => "wait until it is over, then try again".into(),
        Hint::WaitForHolder => {
            "wait for the other command to end, then try again; --wait DURATION waits for it".into()
        }
        Hint::WaitForOthers => "wait for the other commands to end, then try again".into(),
        Hint::WaitForReader => "try again when it is not being read".into(),
        Hint::WaitForMemory { vm } => {
            format!("wait until `vmrewind vm show {vm}` does not say restoring any more, then try again")
        }
        Hint::FindQemu => "if it is just starting, try again; `fuser` on the VM's file 'alive' names it".into(),
        Hint::FindBackgroundProcess { lock } => format!("`fuser` on the VM's file '{lock}' names it"),
        Hint::KernelWaits => {
            "it may be waiting for a disk or a network file system; look at `ps` and the kernel's log".into()
        }
        Hint::StartOrDeleteClones => "start those VMs, or delete them first".into(),
        Hint::DeleteClones => "delete the clones first".into(),
        Hint::DeleteReaders => {
            "delete those snapshots with it (undo points too: `vmrewind snapshot list --all`), \
             and those VMs before it; where the VM's present state is named, \
             restore another snapshot with --discard-current first"
                .into()
        }
        Hint::StopClones => {
            "stop the clones that were started from this snapshot; the next start makes the file again".into()
        }

        // About what was begun and is not complete.
        Hint::NextCompletes => "the next vmrewind command on this VM completes it".into(),
        Hint::NextUndoes => "the next vmrewind command on this VM tries again".into(),
        Hint::UndoFailed { error } => {
            format!("undoing it is not complete ({error}); the next vmrewind command tries again")
        }
        Hint::NextRemoves => "the next vmrewind command on this root goes on removing them".into(),

        // About the host.
        Hint::FreeSpace => "free some space, then try again".into(),
        Hint::FreeSpaceOfRoot => "free some space on the root's file system, then try again".into(),
        Hint::FreeSpaceOrWithoutMemory => {
            "free some space on the root's file system, or use --disk-only".into()
        }
        Hint::FreeSpaceOrBoot => "free some space, or boot the clones (--cold)".into(),
        Hint::OwnerAndMode => {
            "check the owner and mode, or run as the user who owns the root (--root)".into()
        }
        Hint::ReadOnlyFileSystem => "the file system is mounted read-only".into(),
        Hint::InstallPackage { package } => format!("install it (Debian and Ubuntu: package {package})"),
        Hint::InstallImageTool => {
            "install it (Debian and Ubuntu: package qemu-utils); `vmrewind doctor` checks the host".into()
        }
        Hint::ProgramOfVm => {
            "is it installed, and its name in the VM's command line right? `vmrewind vm show` prints that".into()
        }
        Hint::MakeVmAgain => {
            "the VM was made there, and relative paths in its command line start there: make it again".into()
        }
        Hint::LogOfVm => {
            "its last words are in the VM's log: `vmrewind vm show` names the run folder".into()
        }
        Hint::OutputOfQemu { log } => format!("all of QEMU's output is in '{}'", log.display()),

        // About the root and what it holds.
        Hint::IsThisTheRoot { root } => format!("is '{}' the root you mean (--root)?", root.display()),
        Hint::EmptyRoot => "give an empty or new folder with --root".into(),
        Hint::AnotherRoot => "use another root (--root)".into(),
        Hint::RemoveRunFolder => "remove it, or use a root with a shorter path (--root)".into(),
        Hint::UseNewer => "use the vmrewind that wrote it, or a newer one".into(),
        Hint::PutRecordBack => "put it back from a backup; docs/format.md says what it holds".into(),
        Hint::DamagedSnapshot { vm, id, changed } => format!(
            "put the file back from a backup{}; or give this snapshot up with `vmrewind snapshot delete {vm}@{id}`; \
             all others can be used",
            if *changed { ", or remove its line \"checksum\" if you changed it yourself" } else { "" }
        ),
        Hint::ChangedRecord => {
            "put it back from a backup; if you changed it yourself and mean it, remove its line \"checksum\" \
             (and the comma before it)"
                .into()
        }
        Hint::PutFileBack => "put the file back from a backup; docs/format.md says what belongs where".into(),
        Hint::DamagedLayer { vm } => format!(
            "put the file back from a backup, with its modification time (`cp -p`); if it holds what it should, \
             `vmrewind vm repair {vm}` takes the layers as they are"
        ),
        Hint::RepairVm { vm } => format!(
            "put the newest vm.json back from a backup, or `vmrewind vm repair {vm}` makes it anew from snapshots and layers \
             (--dry-run shows it)"
        ),
        Hint::ChooseLayer { vm, layers } => format!(
            "say which with `vmrewind vm repair {vm} --active LAYER`: {}", layers.join(", ")
        ),
        Hint::StopByForce { vm } => format!("stop it first: `vmrewind vm stop {vm}`, with --force where that fails"),
        Hint::ShutOtherVm => "shut the other VM down first: two writers would destroy the image".into(),
        Hint::PutBaseBack => {
            "every snapshot of this VM reads through it: put the old file back (with its modification time, `cp -p`), \
             or copy it and make a new VM on the copy"
                .into()
        }
        Hint::DisksOfOldSnapshot => {
            "the snapshot's disks can still be used (docs/format.md): keep it for them, or delete it with \
             `vmrewind snapshot delete`"
                .into()
        }
        Hint::DisksOfDamagedSnapshot => {
            "this memory image can't be used; the snapshot's disks can still be (docs/format.md)".into()
        }
        Hint::MissingImage => {
            "put the file back into the store from a backup, or delete those snapshots, then try again".into()
        }
        Hint::CheckStore => {
            "`vmrewind check` shows which snapshots are damaged; delete those, then try again".into()
        }
    }
}

#[cfg(test)]
mod tests;
