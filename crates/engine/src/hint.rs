//! What to do next about an error, as data: which advice, and what it is about.
//!
//! The engine says what would help; how that is asked for is known to its caller only. A command line names its
//! commands and options, a server its requests; neither has to take the other's words apart.
//!
//! Names are text here: an error knows nothing of the module that makes names, which itself makes errors.

use std::path::PathBuf;

use serde::Serialize;

/// Advice that goes with an [`crate::Error`]. New ones can be added at any time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "hint", rename_all = "kebab-case")]
pub enum Hint {
    // About what was asked for.
    /// A name has characters, or a length, that no name may have.
    NameRules,
    /// A snapshot is named by its VM and its own name.
    AddressForm,
    /// A grade is one of four.
    Grades,
    /// An accelerator is one of two.
    Accelerators,
    /// A network is one of three kinds.
    Networks,
    /// That many clones at most are made at once.
    CloneCount {
        /// How many.
        most: u32,
    },
    /// Snapshots are deleted of one VM at a time.
    OneVmAtATime,
    /// Another name does.
    ChooseAnotherName,
    /// Another name does; the list of VMs shows which are taken.
    VmNameTaken,
    /// Another name does, or the snapshot that has this one goes or is renamed.
    SnapshotNameTaken,
    /// The list of VMs shows what there is.
    ListVms,
    /// The VM has no snapshots at all.
    NoSnapshots {
        /// The VM.
        vm: String,
    },
    /// The VM has other snapshots.
    OtherSnapshots {
        /// The VM.
        vm: String,
        /// Its newest, the newest first.
        newest: Vec<String>,
    },
    /// The snapshot that was meant was deleted or renamed meanwhile.
    GoneMeanwhile,
    /// The VM has other network devices.
    NetworkDevices {
        /// Their names.
        nics: Vec<String>,
    },

    // About the command line of a VM.
    /// The program and its options are needed, as one would type them.
    GiveCommandLine,
    /// What to write instead of options that were refused.
    OptionsInstead {
        /// For each option, in the words of the crate that knows them.
        instead: Vec<&'static str>,
    },
    /// The program must be a QEMU system emulator.
    EmulatorWanted {
        /// One of this host.
        example: &'static str,
    },
    /// The emulator must be given, or installed.
    EmulatorMissing {
        /// Debian's package of it.
        package: &'static str,
    },
    /// A newer QEMU is needed.
    NewerQemu {
        /// The oldest that will do.
        major: u32,
        /// Its second number.
        minor: u32,
    },
    /// Two disks need an image each.
    ImageForEachDisk,
    /// The files that an image names may be read only where the user says so.
    TrustBacking,
    /// Only a console on a socket of the run folder can be attached to.
    ConsoleOnSocket,

    // About the state that a VM is in.
    /// The VM has to be started.
    StartVm {
        /// Which.
        vm: String,
    },
    /// The VM has to be stopped.
    StopVm {
        /// Which.
        vm: String,
    },
    /// The VM has to be stopped, or deleted with force.
    StopOrForceDelete {
        /// Which.
        vm: String,
    },
    /// The VM's disks are whole: it can be booted.
    BootFromDisks {
        /// Which.
        vm: String,
    },
    /// A clone that was never started can be booted, without the memory it was cloned with.
    BootCloneCold {
        /// Which.
        vm: String,
    },
    /// The VM can be booted; a verification tells what of the snapshot is damaged.
    BootOrVerify {
        /// The VM.
        vm: String,
        /// The snapshot.
        snapshot: String,
    },
    /// The disks are the snapshot's; it has to be restored once more.
    RestoreAgain {
        /// The VM.
        vm: String,
    },
    /// A guest that does not run can't power off: it has to run, or the VM is ended with force.
    RunOrForceStop {
        /// The VM.
        vm: String,
    },
    /// More time, or force.
    WaitLongerOrForceStop {
        /// The VM.
        vm: String,
    },
    /// Links are changed only while a VM runs.
    LinksOfRunning,

    // About what can't be captured.
    /// A live snapshot is of a VM that runs, with its memory.
    StartWithMemory,
    /// A snapshot of disks at rest is of a VM that is stopped.
    StopFirst,
    /// A better snapshot has the memory too.
    MemoryToo,
    /// A VM without disks is captured running, with its memory.
    StartForMemory,
    /// A VM in such a state can be looked at, and captured when it is stopped.
    LookAtState {
        /// The VM.
        vm: String,
    },
    /// A clone that was never started is what its snapshot is.
    StartOrCloneAgain,
    /// A snapshot without memory can be made; a verbose log tells what QEMU said.
    WithoutMemory,
    /// The guest has to run before its memory can be captured, or be left out.
    RunOrWithoutMemory,
    /// The device is in the way of the memory's capture.
    RemoveDevice,
    /// The guest has to stand still for longer than is allowed.
    AllowLongerPause,

    // About others who use something.
    /// Nothing but the moment was wrong.
    TryAgain,
    /// The guest that comes back has to run first.
    WaitUntilItRuns,
    /// Something has to be over first.
    WaitUntilOver,
    /// Another operation holds the VM.
    WaitForHolder,
    /// Others use the store.
    WaitForOthers,
    /// The memory image is being read.
    WaitForReader,
    /// The guest gets its memory from the snapshot still.
    WaitForMemory {
        /// The VM.
        vm: String,
    },
    /// A QEMU may be starting; a file of the VM's tells which process it is.
    FindQemu,
    /// A file of the VM's tells which process of a background job does not end.
    FindBackgroundProcess {
        /// The file.
        lock: &'static str,
    },
    /// The kernel does not let QEMU end.
    KernelWaits,
    /// Clones that were never started need the snapshot's memory.
    StartOrDeleteClones,
    /// Clones read the VM's snapshots.
    DeleteClones,
    /// Others read the snapshot's layers.
    DeleteReaders,
    /// Clones run on a memory file that was spoilt.
    StopClones,

    // About what was begun and is not complete.
    /// The next operation on this VM completes it.
    NextCompletes,
    /// The next operation on this VM tries again to undo it.
    NextUndoes,
    /// Undoing failed too; the next operation tries again.
    UndoFailed {
        /// Why.
        error: String,
    },
    /// The next operation on this root removes the rest.
    NextRemoves,

    // About the host.
    /// Space is short.
    FreeSpace,
    /// Space is short on the root's file system.
    FreeSpaceOfRoot,
    /// Space is short for memory, which can be left out.
    FreeSpaceOrWithoutMemory,
    /// Space is short for the memory file of clones, which can be booted instead.
    FreeSpaceOrBoot,
    /// A file belongs to somebody else.
    OwnerAndMode,
    /// Nothing can be written there.
    ReadOnlyFileSystem,
    /// A package is missing.
    InstallPackage {
        /// Debian's name of it.
        package: String,
    },
    /// The program `qemu-img` is missing.
    InstallImageTool,
    /// A program can't be run that the VM's command line names.
    ProgramOfVm,
    /// The folder is gone in which a VM was made.
    MakeVmAgain,
    /// QEMU's last words are in its log.
    LogOfVm,
    /// QEMU's output is in a file.
    OutputOfQemu {
        /// The file.
        log: PathBuf,
    },

    // About the root and what it holds.
    /// It may be another folder that was meant.
    IsThisTheRoot {
        /// The folder.
        root: PathBuf,
    },
    /// A root is an empty or new folder.
    EmptyRoot,
    /// The root's path is in the way.
    AnotherRoot,
    /// A run folder of somebody else's is in the way.
    RemoveRunFolder,
    /// A newer version wrote it.
    UseNewer,
    /// A record can be put back from a backup.
    PutRecordBack,
    /// A manifest can be put back from a backup, or its snapshot deleted.
    DamagedSnapshot {
        /// The VM.
        vm: String,
        /// The snapshot's id.
        id: String,
        /// Whether it can have been changed on purpose: its checksum could be left out then.
        changed: bool,
    },
    /// A record can be put back from a backup, or its checksum left out where it was changed on purpose.
    ChangedRecord,
    /// A file of a disk can be put back from a backup.
    PutFileBack,
    /// The same; or the VM's record can be made to take it as it is.
    DamagedLayer {
        /// The VM.
        vm: String,
    },
    /// The layer that a VM is to write has to be named.
    ChooseLayer {
        /// The VM.
        vm: String,
        /// Which it can be.
        layers: Vec<String>,
    },
    /// The VM has to be stopped, and its record can't be relied on.
    StopByForce {
        /// Which.
        vm: String,
    },
    /// The VM's record can be made anew from its snapshots and layers.
    RepairVm {
        /// The VM.
        vm: String,
    },
    /// Another VM uses the image.
    ShutOtherVm,
    /// The base image has to be as it was.
    PutBaseBack,
    /// The memory is in a format that is not read any more; the disks are whole.
    DisksOfOldSnapshot,
    /// The memory is damaged; the disks are whole.
    DisksOfDamagedSnapshot,
    /// A memory image can be put back from a backup, or its snapshot deleted.
    MissingImage,
    /// A check of the store tells which snapshots are damaged.
    CheckStore,
}
