//! Stores as they were written: one of each version of packs, and one for each kind of damage.
//!
//! Each folder of `tests/data/stores` is a whole store with two images that share pages. To write those of this version anew
//! after a change of the format, run the tests with `VMREWIND_WRITE_FIXTURES=1`; those of earlier versions stay.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use vmrewind_store::{CheckOptions, CheckReport, DirStorage, ImageId};

use crate::gc::{check, write};
use crate::support::{folder_store, id, open};

/// One kind of damage: its folder, what it does to a sound store, what a check says, which images it touches.
struct Case {
    name: &'static str,
    spoil: fn(&Path),
    says: &'static str,
    touches: &'static [&'static str],
}

const CASES: [Case; 9] = [
    Case { name: "pack-header", spoil: |store| flip(&first_pack(store), 20), says: "header", touches: &[] },
    Case {
        name: "pack-object",
        spoil: |store| flip(&first_pack(store), 2000),
        says: "its hash is wrong",
        touches: BOTH,
    },
    Case {
        name: "pack-entry",
        spoil: |store| flip_end(&first_pack(store), 128 + 8 * 32 + 64),
        says: "directory",
        touches: &["1"],
    },
    Case {
        name: "pack-block-hash",
        spoil: |store| flip_end(&first_pack(store), 128 + 8),
        says: "directory",
        touches: &[],
    },
    Case {
        name: "pack-footer",
        spoil: |store| flip_end(&first_pack(store), 64),
        says: "footer",
        touches: BOTH,
    },
    Case { name: "pack-cut-short", spoil: |store| cut(&first_pack(store)), says: "footer", touches: BOTH },
    Case {
        name: "pack-missing",
        spoil: |store| fs::remove_file(first_pack(store)).expect("removed"),
        says: "in no pack",
        touches: BOTH,
    },
    Case { name: "image", spoil: |store| flip(&store.join("2.image"), 50), says: "image 2", touches: &["2"] },
    Case { name: "segment", spoil: damage_segments, says: "", touches: &[] },
];

const BOTH: &[&str] = &["1", "2"];

fn stores() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/stores")
}

fn files(store: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(store).expect("listed");
    let mut files: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.retain(|path| path.extension().is_some_and(|found| found == extension));
    files.sort();
    files
}

/// The pack that holds what both images share: the larger one.
fn first_pack(store: &Path) -> PathBuf {
    let packs = files(store, "pack").into_iter();
    packs.max_by_key(|path| fs::metadata(path).expect("a file").len()).expect("a pack")
}

fn flip(path: &Path, at: usize) {
    let mut content = fs::read(path).expect("read");
    content[at] ^= 1;
    fs::write(path, content).expect("written");
}

/// Flips a bit of the byte that is that far from the end.
fn flip_end(path: &Path, before_end: usize) {
    flip(path, fs::read(path).expect("read").len() - before_end);
}

fn cut(path: &Path) {
    let content = fs::read(path).expect("read");
    fs::write(path, &content[..content.len() - 40]).expect("written");
}

fn damage_segments(store: &Path) {
    for segment in files(store, "index") {
        flip(&segment, 20);
        flip_end(&segment, 8);
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("listed") {
        let path = entry.expect("an entry").path();
        fs::copy(&path, to.join(path.file_name().expect("a name"))).expect("copied");
    }
}

/// Writes all fixtures anew.
fn write_all() {
    let (folder, store) = folder_store();
    write(&store, &id("1"), None, 0..8).expect("written");
    write(&store, &id("2"), Some(&id("1")), (0..7).chain([100])).expect("written");
    assert_eq!(files(folder.path(), "part"), [] as [PathBuf; 0], "all is complete");
    copy(folder.path(), &stores().join("v2"));
    for case in &CASES {
        let to = stores().join(format!("v2-{}", case.name));
        copy(folder.path(), &to);
        (case.spoil)(&to);
    }
}

/// Checks every byte of a copy of a fixture.
fn examine(name: &str) -> (tempfile::TempDir, CheckReport) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    copy(&stores().join(name), folder.path());
    let store = open(DirStorage::new(folder.path()).expect("a folder"));
    let report = store.check(CheckOptions { read_data: true }, &mut |_| ControlFlow::Continue(()));
    (folder, report.expect("checked"))
}

// A store that was written once must stay readable by every later program, also together with what that one adds.
#[test]
fn a_store_of_any_version_is_read_and_written_on() {
    if std::env::var_os("VMREWIND_WRITE_FIXTURES").is_some() {
        write_all();
    }
    for version in ["v1", "v2"] {
        let (folder, report) = examine(version);
        assert!(report.damage.is_empty(), "{version}: {report:?}");
        let store = open(DirStorage::new(folder.path()).expect("a folder"));
        let next = (0..7).chain([100, 200]);
        write(&store, &id("3"), Some(&id("2")), next.clone()).expect("written");
        check(&store, &id("1"), 0..8);
        check(&store, &id("2"), (0..7).chain([100]));
        check(&store, &id("3"), next);
    }
}

// Each kind of damage is reported as what it is, with the images that it touches and no others.
#[test]
fn each_kind_of_damage_is_reported_as_what_it_is() {
    for case in &CASES {
        let (folder, report) = examine(&format!("v2-{}", case.name));
        let messages: Vec<String> = report.damage.iter().map(|damage| damage.error.to_string()).collect();
        let says = messages.iter().any(|message| message.contains(case.says));
        assert!(says || (case.says.is_empty() && messages.is_empty()), "{}: {messages:?}", case.name);
        let mut touched: Vec<ImageId> =
            report.damage.iter().flat_map(|damage| damage.images.clone()).collect();
        touched.sort_unstable();
        touched.dedup();
        let expected: Vec<ImageId> = case.touches.iter().map(|image| id(image)).collect();
        assert_eq!(touched, expected, "{}: {messages:?}", case.name);
        let store = open(DirStorage::new(folder.path()).expect("a folder"));
        for image in ["1", "2"].into_iter().filter(|image| !case.touches.contains(image)) {
            let pages: Vec<u64> = if image == "1" { (0..8).collect() } else { (0..7).chain([100]).collect() };
            check(&store, &id(image), pages);
        }
    }
}
