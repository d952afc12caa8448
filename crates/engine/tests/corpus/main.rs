//! Replays the corpus of the fuzz targets (`fuzz/corpus`) without a fuzzer, through the same functions.
//!
//! It is here since this crate reaches all decoders. Each file is one input: a seed, or what a fuzzer once found.

#![allow(clippy::unwrap_used)] // Helpers of tests, which clippy does not take for tests outside `mod tests`.

#[path = "../../../../fuzz/targets.rs"]
mod targets;

use std::collections::BTreeSet;
use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use targets::TARGETS;

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz")
}

/// A target, and whether a seed gets through its decoder.
type Acceptance = (&'static str, fn(&[u8]) -> bool);

/// The inputs of a target, by name.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = fuzz().join("corpus").join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let input =
        |entry: fs::DirEntry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap());
    entries.map(|entry| input(entry.unwrap())).collect()
}

/// Guards what fuzzing has found once from coming back, and each seed from becoming one that is refused unread.
#[test]
fn every_input_of_every_target_holds() {
    let mut failed = Vec::new();
    for (target, check) in TARGETS {
        for (name, bytes) in corpus(target) {
            if catch_unwind(|| check(&bytes)).is_err() {
                failed.push(format!("{target}/{name}"));
            }
        }
    }
    assert_eq!(failed, [] as [String; 0]);
}

/// Guards against a target that nothing replays, or a folder that no target looks at.
#[test]
fn programs_targets_and_folders_are_the_same() {
    let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).unwrap();
    let bins = manifest.split("[[bin]]").skip(1).filter_map(|bin| bin.split('"').nth(1).map(str::to_owned));
    let folders = fs::read_dir(fuzz().join("corpus")).unwrap();
    let folders = folders.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let targets: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(bins.collect::<BTreeSet<_>>(), targets);
    assert_eq!(folders.collect::<BTreeSet<_>>(), targets);
}

/// Guards the seeds: those that are whole get through their decoder, or fuzzing would begin at its door each time.
#[test]
fn whole_seeds_are_accepted() {
    let accepted: [Acceptance; 8] = [
        ("agent", |seed| vmrewind_qemu::qmp::fuzz::agent(seed) >= 2),
        ("image", |seed| vmrewind_store::fuzz::image(seed).is_some()),
        ("node", |seed| vmrewind_store::fuzz::node(seed).is_some()),
        ("pack", |seed| vmrewind_store::fuzz::pack(seed).is_some()),
        ("qcow2", |seed| vmrewind_engine::fuzz::qcow2(seed).is_some()),
        ("qmp", |seed| vmrewind_qemu::qmp::fuzz::qmp(seed) >= 3),
        ("record", |seed| vmrewind_engine::fuzz::record(seed) == 1),
        ("segment", |seed| vmrewind_store::fuzz::segment(seed, 0).is_some()),
    ];
    for (target, accepts) in accepted {
        let seeds: Vec<_> =
            corpus(target).into_iter().filter(|(name, _)| !name.starts_with("found-")).collect();
        assert!(!seeds.is_empty(), "{target} has no seed");
        for (name, seed) in seeds {
            assert!(accepts(&seed), "{target}/{name}");
        }
    }
}
