//! Packs written and read back, by several threads, and with damage.

use super::{PackFile, PackWriter};
use crate::block::BlockSize;
use crate::entry::{Entry, EntryNo, ObjectKind};
use crate::error::{Part, StoreError};
use crate::format::pack::{ENTRY_LEN, PACK_FOOTER_LEN};
use crate::hash::PackId;
use crate::shared::pack_name;
use crate::testing::{Folder, append_group, append_plain, block_hash, group_hash};

fn open(folder: &Folder, id: PackId) -> Result<PackFile, StoreError> {
    PackFile::open(&folder.shared, id).map(|pack| pack.expect("it is there"))
}

fn check_group(entry: &Entry, tag: u32) {
    assert_eq!(entry.hash, group_hash(tag));
    assert_eq!(entry.kind, ObjectKind::Group);
    assert_eq!(entry.raw_len, 8192);
    assert_eq!(entry.blocks.map(|blocks| (blocks.size, blocks.count)), Some((BlockSize::Page4K, 2)));
}

// An entry must lead to its own bytes whichever thread wrote them.
#[test]
fn threads_append_to_one_pack() {
    let folder = Folder::new();
    let writer = PackWriter::begin(folder.latch(), "1.pack.part").expect("begun");
    let numbers: Vec<(u32, EntryNo)> = std::thread::scope(|scope| {
        let append = |from: u32| {
            let writer = &writer;
            move || (from..from + 50).map(|tag| (tag, append_group(writer, tag))).collect::<Vec<_>>()
        };
        let threads: Vec<_> = [0, 50, 100, 150].map(|from| scope.spawn(append(from))).into();
        threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
    });
    let node = append_plain(&writer, ObjectKind::Node, b"node");
    let sealed = writer.finish().expect("finished").expect("not empty");
    assert_eq!(sealed.entries, 201);
    assert_eq!(folder.names(""), [pack_name(&sealed.id)]);

    let pack = open(&folder, sealed.id).expect("opened");
    assert_eq!((pack.entries(), pack.file_len(), pack.hints()), (201, sealed.stored_bytes, 601));
    pack.check_header().expect("a header");
    let directory = pack.directory().expect("a directory");
    for (tag, number) in numbers {
        let entry = pack.entry(number).expect("read").expect("there");
        check_group(&entry, tag);
        assert_eq!(directory.entries[number.0 as usize], entry);
        let hashes = [block_hash(tag, 0), block_hash(tag, 1)];
        assert_eq!(pack.block_hashes(&entry).expect("read"), hashes);
        assert_eq!(directory.block_hashes(&entry), hashes);
        assert_eq!(pack.block_hash(&entry, 1).expect("read"), Some(hashes[1]));
        assert_eq!(pack.block_hash(&entry, 2).expect("read"), None);
    }
    let entry = pack.entry(node).expect("read").expect("there");
    assert_eq!((entry.kind, entry.blocks), (ObjectKind::Node, None));
    let mut payload = vec![0; 4];
    pack.payload(&entry, &mut payload).expect("read");
    assert_eq!(payload, b"node", "too short to be compressed");
    assert_eq!(pack.entry(EntryNo(201)).expect("asked"), None);
}

// A capture that is given up must not leave a file that grows the store.
#[test]
fn a_dropped_or_empty_pack_leaves_nothing() {
    let folder = Folder::new();
    let writer = PackWriter::begin(folder.latch(), "1.pack.part").expect("begun");
    append_group(&writer, 1);
    assert_eq!(folder.names(""), ["1.pack.part"]);
    drop(writer);
    let writer = PackWriter::begin(folder.latch(), "1.pack.part").expect("begun again");
    assert_eq!(writer.finish().expect("finished"), None);
    assert_eq!(folder.names(""), [] as [&str; 0]);
}

// Every byte of header, directory and footer is covered by a hash: a flipped bit anywhere is found by who verifies it.
#[test]
fn a_flipped_bit_outside_of_payloads_is_found() {
    let folder = Folder::new();
    let id = folder.pack_of_groups(0..3);
    let name = pack_name(&id);
    let pristine = std::fs::read(folder.path(&name)).expect("read");
    let directory = 3 * ENTRY_LEN + 6 * 32;
    let directory_at = pristine.len() - PACK_FOOTER_LEN - directory;
    let verified = |at: usize| -> StoreError {
        let mut content = pristine.clone();
        content[at] ^= 1;
        std::fs::write(folder.path(&name), content).expect("written");
        let checked = open(&folder, id).and_then(|pack| {
            pack.check_header()?;
            pack.directory()
        });
        checked.expect_err("damaged")
    };
    for at in (0..64).chain(directory_at..pristine.len()) {
        let error = verified(at);
        assert!(error.is_damage(), "byte {at}: {error}");
        assert!(error.to_string().contains(&name), "{error}");
    }
    for at in [0, 64, 1000, directory_at, directory_at + 1, pristine.len() - 1] {
        std::fs::write(folder.path(&name), &pristine[..at]).expect("written");
        let error = open(&folder, id).err().expect("cut short");
        assert!(matches!(error, StoreError::DamagedFile { what: Part::Footer, .. }), "{at} bytes: {error}");
    }
}

// One bad entry must not hide the others: what they lead to is still whole. No hash tells which blocks are theirs.
#[test]
fn sound_entries_of_a_damaged_directory_are_still_found() {
    let folder = Folder::new();
    let id = folder.pack_of_groups(0..3);
    // The kind of the second entry.
    let second = PACK_FOOTER_LEN + 6 * 32 + 2 * ENTRY_LEN;
    folder.flip(&pack_name(&id), 48 - i64::try_from(second).expect("small"));
    let pack = open(&folder, id).expect("the footer is whole");
    assert!(matches!(pack.directory(), Err(StoreError::DamagedFile { what: Part::Directory, .. })));
    let mut found = Vec::new();
    pack.each_entry(|number, entry, hashes| found.push((number.0, entry.hash, hashes.to_vec())))
        .expect("read");
    let expected = [0, 2].map(|tag| (tag, group_hash(tag), Vec::new()));
    assert_eq!(found, expected);
}

// A newer program's pack is refused by its version, not called damaged.
#[test]
fn a_newer_version_is_refused_by_number() {
    let folder = Folder::new();
    let id = folder.pack_of_groups(0..1);
    let path = folder.path(&pack_name(&id));
    let mut content = std::fs::read(&path).expect("read");
    let version_at = content.len() - PACK_FOOTER_LEN + 8;
    content[version_at] = 3;
    std::fs::write(&path, content).expect("written");
    let error = open(&folder, id).err().expect("refused");
    assert!(matches!(error, StoreError::NewerFile { version: 3, supported: 2, .. }), "{error}");
}
