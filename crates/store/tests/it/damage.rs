//! Damaged files: each kind is reported as what it is, and no bytes whatsoever make a reader panic.
//!
//! `tests/data` holds an image's file of this version and of the version before, and one file for each kind of damage. To
//! write those of this version anew after a change of the format, run the tests with `VMREWIND_WRITE_FIXTURES=1`; files of
//! released versions stay as they are.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use vmrewind_store::{DirStorage, Part, StoreError, fuzz};

use crate::support::{check_sample, folder_store, id, open, write_sample};

const ID: &str = "5eed";

/// One kind of damage: the name of its file, what it does to a sound file, and what is to be reported.
struct Case {
    name: &'static str,
    spoil: fn(&mut Vec<u8>),
    what: Option<Part>,
    place: &'static str,
}

const CASES: [Case; 6] = [
    case("magic", |f| f[0] = b'X', Some(Part::Header), "this is not an image"),
    case("bit", |f| f[40] ^= 1, Some(Part::Header), "its hash is wrong"),
    case("newer-version", |f| newer(f), None, "format version 3; this program reads up to version 2"),
    case("cut-short", |f| f.truncate(100), Some(Part::Header), "it does not have 100 bytes"),
    case("longer", |f| f.push(0), Some(Part::Header), "it does not have"),
    case("empty", Vec::clear, Some(Part::Header), "magic is cut off"),
];

const fn case(name: &'static str, spoil: fn(&mut Vec<u8>), what: Option<Part>, place: &'static str) -> Case {
    Case { name, spoil, what, place }
}

/// A version of which nothing is known.
fn newer(file: &mut [u8]) {
    file[8] = 3;
    file[12..].fill(0xff);
}

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

/// Writes the sample image and returns the bytes of its file.
fn sample_file() -> Vec<u8> {
    let (folder, store) = folder_store();
    write_sample(&store, &id(ID)).expect("written");
    fs::read(image_path(folder.path())).expect("a file")
}

fn image_path(folder: &Path) -> PathBuf {
    folder.join(format!("{ID}.image"))
}

/// Opens, reads and verifies the image in a folder.
fn examine(folder: &Path) -> Result<(), StoreError> {
    let store = open(DirStorage::new(folder).expect("a folder"));
    let reader = store.open_image(&id(ID))?;
    reader.verify(&mut |_, _| ControlFlow::Continue(()))?;
    check_sample(&reader);
    Ok(())
}

/// Opens an image whose file has these bytes.
fn open_file(file: &[u8]) -> Result<(), StoreError> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(image_path(folder.path()), file).expect("a file");
    open(DirStorage::new(folder.path()).expect("a folder")).open_image(&id(ID)).map(drop)
}

/// Checks that a damaged file gives the error of its case.
fn check_report(case: &Case, file: &[u8]) {
    let error = open_file(file).expect_err(case.name);
    match (&error, case.what) {
        (StoreError::Damaged { what, .. }, Some(expected)) => assert_eq!(*what, expected, "{}", case.name),
        (StoreError::NewerFormat { version: 3, supported: 2, .. }, None) => {}
        _ => panic!("{}: {error}", case.name),
    }
    assert!(error.to_string().contains(case.place), "{}: {error}", case.name);
}

// Files that were written by a released version must stay readable, and damage that was found once stays found.
#[test]
fn fixtures_are_read_and_their_damage_is_reported() {
    if std::env::var_os("VMREWIND_WRITE_FIXTURES").is_some() {
        let sound = sample_file();
        fs::write(fixture("image-v2.image"), &sound).expect("written");
        for case in &CASES {
            let mut file = sound.clone();
            (case.spoil)(&mut file);
            fs::write(fixture(&format!("image-v2-{}.image", case.name)), file).expect("written");
        }
    }
    open_file(&fs::read(fixture("image-v2.image")).expect("a fixture")).expect("readable");
    for case in &CASES {
        let file = fs::read(fixture(&format!("image-v2-{}.image", case.name))).expect("a fixture");
        check_report(case, &file);
    }
}

// Images of the version before held everything in one file. They are refused by name, not called damaged, and can go.
#[test]
fn an_image_of_the_version_before_is_refused_and_can_be_removed() {
    let old = fs::read(fixture("image-v1.image")).expect("a fixture");
    let (folder, store) = folder_store();
    fs::write(image_path(folder.path()), &old).expect("a file");
    assert_eq!(store.images().expect("listed"), [id(ID)]);
    let error = store.open_image(&id(ID)).expect_err("refused");
    assert!(matches!(error, StoreError::OlderFormat { version: 1, .. }) && !error.is_damage(), "{error}");
    assert!(error.to_string().contains("made by an older version"), "{error}");
    // It is no parent either, and does not stand in the way of one that comes after it.
    let options = vmrewind_store::WriteOptions { parent: Some(id(ID)), ..Default::default() };
    store.create_image(id("2"), options).expect("begun").finish().expect("finished");
    assert_eq!(store.remove_image(&id(ID)).expect("removed"), old.len() as u64);
    assert_eq!(store.images().expect("listed"), [id("2")]);
}

// A file of this version is what this program writes: a change that keeps the version number is noticed here. Order of
// packs and groups is the workers', so only what does not depend on it is compared.
#[test]
fn the_image_file_has_not_changed() {
    let (found, expected) = (sample_file(), fs::read(fixture("image-v2.image")).expect("a fixture"));
    assert_eq!(found.len(), expected.len());
    assert_eq!(found[..24], expected[..24]);
    assert_eq!(found[32..166], expected[32..166]);
    assert_eq!(fuzz::image(&found), Some(4));
}

// Whichever byte of a file changes, what is read is right or refused. Of a pack not every byte is needed to read an image.
#[test]
fn wrong_bytes_are_never_handed_out() {
    let (folder, store) = folder_store();
    write_sample(&store, &id(ID)).expect("written");
    drop(store);
    for kind in ["index", "image", "pack"] {
        let mut entries =
            fs::read_dir(folder.path()).expect("listed").map(|entry| entry.expect("an entry").path());
        let path =
            entries.find(|path| path.extension().is_some_and(|found| found == kind)).expect("one of each");
        let sound = fs::read(&path).expect("read");
        let mut found = 0;
        let tried = (0..sound.len()).step_by(37);
        for at in tried.clone() {
            let mut file = sound.clone();
            file[at] ^= 0x40;
            fs::write(&path, &file).expect("written");
            found += usize::from(examine(folder.path()).is_err());
            // A damaged segment of the index is replaced by another one.
            clear_index(folder.path());
        }
        match kind {
            "image" => assert_eq!(found, tried.count(), "all of it is needed"),
            "pack" => assert!(found > 0, "payloads are needed"),
            _ => assert_eq!(found, 0, "the index is made anew"),
        }
        fs::write(&path, &sound).expect("written");
    }
    examine(folder.path()).expect("whole again");
}

fn clear_index(folder: &Path) {
    for entry in fs::read_dir(folder).expect("listed") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|kind| kind == "index") {
            fs::remove_file(path).expect("removed");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    // The decoder gets fields that are wrong below a hash that is right: it must neither panic nor give another form.
    #[test]
    fn mutated_files_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
        cuts in prop::bool::weighted(0.2),
    ) {
        let mut file = fs::read(fixture("image-v2.image")).expect("a fixture");
        prop_assert_eq!(fuzz::image(&file), Some(4));
        for (at, value) in changes {
            let at = at.index(file.len());
            file[at] = value;
        }
        if cuts {
            file.truncate(cut.index(file.len()));
        }
        fuzz::image(&file);
    }
}
