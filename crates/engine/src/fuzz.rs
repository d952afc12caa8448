//! What the fuzz targets of this crate check, and the replay of their corpus (`tests/corpus`): any bytes may come in.
//!
//! Asserts, so not for use outside of tests and fuzzing.

use std::io;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::layers::qcow2::{Header, Source, Unreadable};
use crate::record::RECORD_VERSION;
use crate::record::journal::Journal;
use crate::record::snapshot::Manifest;
use crate::record::vm::VmRecord;
use crate::root::file::decode_json;

/// An image in memory.
struct Bytes<'a>(&'a [u8]);

impl Source for Bytes<'_> {
    fn read_up_to(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|offset| self.0.get(offset..)).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }
}

/// Takes `image` for a qcow2 file. Returns whether it holds no data, or nothing where it has no header.
///
/// # Panics
/// A name of a backing file is longer than the format allows, or an image that is cut short, or has something other
/// than zeros where its table says so, passes for an empty one.
pub fn qcow2(image: &[u8]) -> Option<bool> {
    let header = match Header::read(&Bytes(image)) {
        Ok(found) => found?,
        Err(Unreadable::Damaged(_)) => return None,
        Err(Unreadable::Io(error)) => panic!("bytes in memory can be read: {error}"),
    };
    assert!(
        header.backing_file.as_ref().is_none_or(|name| name.chars().count() <= 1023),
        "a name of any length"
    );
    let is_empty = header.is_empty(&Bytes(image)).expect("bytes in memory can be read");
    if is_empty {
        assert!(
            header.table(image).is_some_and(|table| table.iter().all(|byte| *byte == 0)),
            "data passes for none"
        );
    }
    Some(is_empty)
}

/// Takes `file` for a VM's record, a snapshot's manifest and a journal. Returns how many of these it is.
///
/// # Panics
/// What was read is not the same after it was written and read again, or a chain of layers has no end.
pub fn record(file: &[u8]) -> usize {
    let vm = decoded::<VmRecord>(file);
    for disk in vm.iter().flat_map(|vm| &vm.disks) {
        for layer in &disk.layers {
            let chain = disk.chain(&layer.id);
            assert!(
                chain.is_none_or(|chain| chain.len() <= disk.layers.len()),
                "a chain is as long as there are layers"
            );
        }
    }
    let manifest = decoded::<Manifest>(file);
    let journal = decoded::<Journal>(file);
    [vm.is_some(), manifest.is_some(), journal.is_some()].into_iter().filter(|is| *is).count()
}

fn decoded<T: Serialize + DeserializeOwned>(file: &[u8]) -> Option<T> {
    let read = |bytes: &[u8]| decode_json::<T>(bytes, Path::new("corpus"), RECORD_VERSION);
    let write = |value: &T| serde_json::to_vec_pretty(value).expect("records can be written");
    let found = read(file).ok()?;
    let written = write(&found);
    let again = read(&written).expect("what this program writes it can read");
    assert_eq!(write(&again), written, "what is read is what was written");
    Some(found)
}
