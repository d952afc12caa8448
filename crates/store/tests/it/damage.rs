//! Damaged files: each kind is reported as what it is, and no bytes whatsoever make a reader panic.
//!
//! `tests/data` holds an image of this version and one file for each kind of damage. To write them anew after a change
//! of the format, run the tests with `VMREWIND_WRITE_FIXTURES=1`; files of released versions stay as they are.

use std::fs;
use std::ops::ControlFlow;
use std::path::PathBuf;

use proptest::prelude::*;
use vmrewind_store::{DirStorage, Part, StoreError, fuzz};

use crate::support::{check_sample, folder_store, id, open, write_sample};

const HEADER: usize = 4096;
/// Slots of the sample: two pages of RAM, two of an attachment, one of a page that became zero and was used again.
const TABLES: usize = HEADER + 5 * 4096;
const FOOTER: usize = 128;
const ID: &str = "5eed";

/// One kind of damage: the name of its file, what it does to a sound file, and what is to be reported.
struct Case {
    name: &'static str,
    spoil: fn(&mut Vec<u8>),
    what: Option<Part>,
    place: &'static str,
}

const CASES: [Case; 9] = [
    case("header-magic", foreign, Some(Part::Header), "this is not an image"),
    case("header-bit", |f| f[40] ^= 1, Some(Part::Header), "its hash is wrong"),
    case("newer-version", newer, None, "format version 2; this program reads up to version 1"),
    case("cut-short", |f| f.truncate(TABLES), Some(Part::Footer), "does not end with a footer"),
    case("empty", Vec::clear, Some(Part::Header), "the file ends before byte 4096"),
    case("footer-bit", |f| *last(f) ^= 1, Some(Part::Footer), "hash of header and footer is wrong"),
    case("tables-bit", |f| f[TABLES + 10] ^= 1, Some(Part::Tables), "their hash is wrong"),
    case("page-bit", |f| f[HEADER + 99] ^= 1, Some(Part::Page), "page 1 of space \"pc.ram\", at byte 4096"),
    case("attachment-bit", |f| f[HEADER + 4096 * 3] ^= 1, Some(Part::Attachment), "attachment \"devices\""),
];

const fn case(name: &'static str, spoil: fn(&mut Vec<u8>), what: Option<Part>, place: &'static str) -> Case {
    Case { name, spoil, what, place }
}

/// Another kind of file, no longer than a header.
fn foreign(file: &mut Vec<u8>) {
    file.truncate(HEADER);
    file[0] = b'X';
}

/// A version of which nothing is known, not even where its footer is.
fn newer(file: &mut Vec<u8>) {
    file.truncate(HEADER);
    file[8] = 2;
    file[12..].fill(0xff);
}

fn last(file: &mut [u8]) -> &mut u8 {
    file.last_mut().expect("not empty")
}

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

/// Writes the sample image and returns its bytes.
fn sample_file() -> Vec<u8> {
    let (folder, store) = folder_store();
    write_sample(&store, &id(ID)).expect("written");
    fs::read(folder.path().join(format!("{ID}.image"))).expect("a file")
}

/// Opens, reads and verifies an image with these bytes.
fn examine(file: &[u8]) -> Result<(), StoreError> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(folder.path().join(format!("{ID}.image")), file).expect("a file");
    let store = open(DirStorage::new(folder.path()).expect("a folder"));
    let reader = store.open_image(&id(ID))?;
    reader.verify(&mut |_, _| ControlFlow::Continue(()))?;
    check_sample(&reader);
    Ok(())
}

/// Checks that a damaged file gives the error of its case.
fn check_report(case: &Case, file: &[u8]) {
    let error = examine(file).expect_err(case.name);
    match (&error, case.what) {
        (StoreError::Damaged { what, .. }, Some(expected)) => assert_eq!(*what, expected, "{}", case.name),
        (StoreError::NewerFormat { version: 2, supported: 1, .. }, None) => {}
        _ => panic!("{}: {error}", case.name),
    }
    assert!(error.to_string().contains(case.place), "{}: {error}", case.name);
}

// Files that were written by a released version must stay readable, and damage that was found once stays found.
#[test]
fn fixtures_are_read_and_their_damage_is_reported() {
    if std::env::var_os("VMREWIND_WRITE_FIXTURES").is_some() {
        let sound = sample_file();
        fs::write(fixture("image-v1.image"), &sound).expect("written");
        for case in &CASES {
            let mut file = sound.clone();
            (case.spoil)(&mut file);
            fs::write(fixture(&format!("image-v1-{}.image", case.name)), file).expect("written");
        }
    }
    examine(&fs::read(fixture("image-v1.image")).expect("a fixture")).expect("readable and whole");
    for case in &CASES {
        let file = fs::read(fixture(&format!("image-v1-{}.image", case.name))).expect("a fixture");
        check_report(case, &file);
    }
}

// The fixture is what this program writes: a change of the format that keeps the version number is noticed here.
#[test]
fn the_format_has_not_changed() {
    assert!(sample_file() == fs::read(fixture("image-v1.image")).expect("a fixture"));
}

// Every byte that belongs to the image is covered by a hash; only padding may change unnoticed.
#[test]
fn every_byte_that_matters_is_checked() {
    let sound = sample_file();
    let attachment = HEADER + 2 * 4096;
    let padding = attachment + 5000..attachment + 2 * 4096;
    for at in (0..sound.len()).step_by(61).chain(TABLES..sound.len()) {
        let mut file = sound.clone();
        file[at] ^= 0x40;
        assert_eq!(examine(&file).is_ok(), padding.contains(&at), "byte {at}");
    }
}

// A file can be cut at any length by a full disk, or grow by a careless copy.
#[test]
fn any_other_length_is_damage() {
    let sound = sample_file();
    for len in (0..sound.len()).step_by(997).chain(sound.len() - FOOTER - 1..sound.len()) {
        assert!(matches!(examine(&sound[..len]), Err(StoreError::Damaged { .. })), "{len} bytes");
    }
    let longer = [sound.as_slice(), &[0; 7]].concat();
    assert!(matches!(examine(&longer), Err(StoreError::Damaged { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    // The decoder gets tables whose hash is right but whose fields are not: it must neither panic nor accept page
    // counts that the footer contradicts.
    #[test]
    fn mutated_tables_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
        cuts in prop::bool::weighted(0.2),
    ) {
        let sound = fs::read(fixture("image-v1.image")).expect("a fixture");
        let mut tables = sound[TABLES..sound.len() - FOOTER].to_vec();
        prop_assert_eq!(fuzz::tables(&tables, TABLES as u64, 3), Some(3));
        for (at, value) in changes {
            let at = at.index(tables.len());
            tables[at] = value;
        }
        if cuts {
            tables.truncate(cut.index(tables.len()));
        }
        if let Some(pages) = fuzz::tables(&tables, TABLES as u64, 3) {
            prop_assert_eq!(pages, 3);
        }
    }

    // Nor does the decoder of whole files.
    #[test]
    fn mutated_files_are_refused(at in any::<prop::sample::Index>(), bit in 0..8_u8) {
        let mut file = fs::read(fixture("image-v1.image")).expect("a fixture");
        prop_assert_eq!(fuzz::image(&file), Some(3));
        // Slots are not looked at by this entry point.
        let at = at.index(file.len() - TABLES + HEADER);
        let at = if at < HEADER { at } else { at - HEADER + TABLES };
        file[at] ^= 1 << bit;
        prop_assert_eq!(fuzz::image(&file), None);
    }
}
