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

/// Guards against what a few changed bytes bring out; a fuzzer looks deeper. `VMREWIND_TEST_MUTATIONS` says how many
/// changed inputs each target is given, `VMREWIND_TEST_TARGET` which target.
#[test]
fn inputs_with_a_few_changes_hold() {
    let number = |text: String| text.parse::<u64>().expect("a number");
    let count = std::env::var("VMREWIND_TEST_MUTATIONS").map_or(3000, number);
    let only = std::env::var("VMREWIND_TEST_TARGET").ok();
    let mut failed = Vec::new();
    for (target, check) in TARGETS.iter().filter(|(name, _)| only.as_deref().is_none_or(|only| only == *name))
    {
        let inputs = corpus(target);
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        for turn in 0..count {
            let (name, bytes) = &inputs[random.below(inputs.len())];
            let changed = changed(bytes, &inputs, &mut random);
            if catch_unwind(|| check(&changed)).is_err() {
                failed.push(format!("{target}/{name}, turn {turn}: {}", changed.escape_ascii()));
                break;
            }
        }
    }
    assert_eq!(failed, [] as [String; 0]);
}

/// The same numbers in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 11).unwrap() % end.max(1)
    }

    fn byte(&mut self) -> u8 {
        // Ends of ranges and the punctuation of JSON break more than other bytes do.
        const LIKELY: &[u8] = b"\x00\x01\x7f\x80\xff\n\"{}[]:,-0";
        if self.below(2) == 0 {
            LIKELY[self.below(LIKELY.len())]
        } else {
            u8::try_from(self.below(256)).unwrap()
        }
    }
}

/// `bytes` with one to four changes: a byte set, a piece taken out, doubled, or replaced by one of another input.
fn changed(bytes: &[u8], inputs: &[(String, Vec<u8>)], random: &mut Random) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len());
        let end = (at + 1 + random.below(32)).min(bytes.len());
        match random.below(6) {
            0 => drop(bytes.drain(at..end)),
            1 => drop(bytes.splice(at..at, bytes[at..end].to_vec())),
            2 => {
                let other = &inputs[random.below(inputs.len())].1;
                let from = random.below(other.len());
                let piece = other[from..(from + 1 + random.below(64)).min(other.len())].to_vec();
                drop(bytes.splice(at..end, piece));
            }
            _ if bytes.is_empty() => bytes.push(random.byte()),
            _ => bytes[at] = random.byte(),
        }
    }
    bytes
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
