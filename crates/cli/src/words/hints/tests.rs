//! Advice of each kind has words.

use std::collections::BTreeSet;

use super::*;

/// Those that are about nothing but themselves.
const PLAIN: &[Hint] = &[
    Hint::NameRules,
    Hint::AddressForm,
    Hint::Grades,
    Hint::Accelerators,
    Hint::Networks,
    Hint::OneVmAtATime,
    Hint::ChooseAnotherName,
    Hint::VmNameTaken,
    Hint::SnapshotNameTaken,
    Hint::ListVms,
    Hint::GoneMeanwhile,
    Hint::GiveCommandLine,
    Hint::ImageForEachDisk,
    Hint::TrustBacking,
    Hint::ConsoleOnSocket,
    Hint::LinksOfRunning,
    Hint::StartWithMemory,
    Hint::StopFirst,
    Hint::MemoryToo,
    Hint::StartForMemory,
    Hint::StartOrCloneAgain,
    Hint::WithoutMemory,
    Hint::RunOrWithoutMemory,
    Hint::RemoveDevice,
    Hint::AllowLongerPause,
    Hint::TryAgain,
    Hint::WaitUntilItRuns,
    Hint::WaitUntilOver,
    Hint::WaitForHolder,
    Hint::WaitForOthers,
    Hint::WaitForReader,
    Hint::FindQemu,
    Hint::KernelWaits,
    Hint::StartOrDeleteClones,
    Hint::DeleteClones,
    Hint::DeleteReaders,
    Hint::StopClones,
    Hint::NextCompletes,
    Hint::NextUndoes,
    Hint::NextRemoves,
    Hint::FreeSpace,
    Hint::FreeSpaceOfRoot,
    Hint::FreeSpaceOrWithoutMemory,
    Hint::FreeSpaceOrBoot,
    Hint::OwnerAndMode,
    Hint::ReadOnlyFileSystem,
    Hint::InstallImageTool,
    Hint::ProgramOfVm,
    Hint::MakeVmAgain,
    Hint::LogOfVm,
    Hint::EmptyRoot,
    Hint::AnotherRoot,
    Hint::RemoveRunFolder,
    Hint::UseNewer,
    Hint::PutRecordBack,
    Hint::ChangedRecord,
    Hint::PutFileBack,
    Hint::ShutOtherVm,
    Hint::PutBaseBack,
    Hint::DisksOfOldSnapshot,
    Hint::DisksOfDamagedSnapshot,
    Hint::MissingImage,
    Hint::CheckStore,
];

/// Those with data, one of each kind.
fn with_data() -> Vec<Hint> {
    let vm = || "web".to_owned();
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    vec![
        Hint::CloneCount { most: 64 },
        Hint::NoSnapshots { vm: vm() },
        Hint::OtherSnapshots { vm: vm(), newest: names(&["two", "one"]) },
        Hint::NetworkDevices { nics: names(&["net0", "net1"]) },
        Hint::OptionsInstead { instead: vec!["leave it out", "use a disk"] },
        Hint::EmulatorWanted { example: "qemu-system-x86_64" },
        Hint::EmulatorMissing { package: "qemu-system-x86" },
        Hint::NewerQemu { major: 7, minor: 2 },
        Hint::StartVm { vm: vm() },
        Hint::StopVm { vm: vm() },
        Hint::StopOrForceDelete { vm: vm() },
        Hint::BootFromDisks { vm: vm() },
        Hint::BootCloneCold { vm: vm() },
        Hint::BootOrVerify { vm: vm(), snapshot: "one".into() },
        Hint::RestoreAgain { vm: vm() },
        Hint::RunOrForceStop { vm: vm() },
        Hint::WaitLongerOrForceStop { vm: vm() },
        Hint::LookAtState { vm: vm() },
        Hint::WaitForMemory { vm: vm() },
        Hint::FindBackgroundProcess { lock: "lazy.lock" },
        Hint::UndoFailed { error: "no space".into() },
        Hint::InstallPackage { package: "ovmf".into() },
        Hint::OutputOfQemu { log: "/run/web/qemu.log".into() },
        Hint::DamagedSnapshot { vm: vm(), id: "0123456789abcdef".into(), changed: false },
        Hint::DamagedSnapshot { vm: vm(), id: "0123456789abcdef".into(), changed: true },
        Hint::DamagedLayer { vm: vm() },
        Hint::RepairVm { vm: vm() },
        Hint::ChooseLayer { vm: vm(), layers: names(&["00000000000000aa", "00000000000000bb"]) },
        Hint::StopByForce { vm: vm() },
        Hint::IsThisTheRoot { root: "/srv/vms".into() },
    ]
}

fn all() -> Vec<Hint> {
    PLAIN.iter().cloned().chain(with_data()).collect()
}

/// Two kinds with the same words would be one; a broken literal shows as a gap.
#[test]
fn each_hint_has_words_of_its_own() {
    let mut seen = BTreeSet::new();
    for advice in all() {
        let words = hint(&advice);
        assert!(!words.trim().is_empty(), "{advice:?}");
        assert!(!words.contains("  ") && !words.contains('\n'), "{advice:?}: {words}");
        assert!(seen.insert(words.clone()), "{advice:?} says what another one says: {words}");
    }
}

/// Advice is of no use without what it is about.
#[test]
fn what_a_hint_is_about_is_in_its_words() {
    for advice in all() {
        let data = format!("{advice:?}");
        // Every string in quotes is data: `vm: "web"`.
        for value in data.split('"').skip(1).step_by(2) {
            let words = hint(&advice);
            assert!(words.contains(value), "{advice:?}: {words}");
        }
    }
}
