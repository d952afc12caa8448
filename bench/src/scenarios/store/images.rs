//! Memory images between the store and flat files, by the store's programming interface.

use std::fs::File;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::SeekFrom;
use rustix::io::Errno;
use vmrewind_store::{
    BlockSize, DirStorage, ImageId, ImageReader, PAGE_SIZE, SpaceIndex, Store, WriteOptions,
};

use crate::outcome::Outcome;

/// Bytes read at a time: the processor's cache keeps them until they are put.
const CHUNK_BYTES: usize = 256 << 10;
/// The space of an image that is made of a flat file.
const SPACE: &str = "flat";

/// Opens the store in a folder, which is made where it is missing.
pub(super) fn open_store(folder: &Path) -> Outcome<Store> {
    std::fs::create_dir_all(folder)?;
    Ok(Store::open(Arc::new(DirStorage::new(folder)?))?)
}

/// Writes the largest space of an image (the machine's RAM) as a flat file with holes; returns the bytes of data in it.
pub(super) fn write_flat(store: &Path, image: &str, path: &Path) -> Outcome<u64> {
    if path.exists() {
        std::fs::remove_file(path)?;
    }
    let reader = open_store(store)?.open_image(&ImageId::new(image)?)?;
    let ram = reader.spaces().iter().max_by_key(|space| space.len).map(|space| space.index);
    let ram = ram.ok_or("the image holds no memory")?;
    reader.write_flat(ram, path, &mut |_, _| ControlFlow::Continue(()))?;
    data_bytes(&reader, ram)
}

/// Puts a flat file into the store as image `id`, made after `parent`.
pub(super) fn ingest(store: &Store, id: &ImageId, parent: Option<ImageId>, flat: &Path) -> Outcome {
    let file = File::open(flat)?;
    let length = file.metadata()?.len();
    // The file can wait: nothing is gained by writing what waits to another one.
    let options = WriteOptions { parent, spill_bytes: 0, ..WriteOptions::default() };
    let mut writer = store.create_image(id.clone(), options)?;
    let space = writer.add_space(SPACE, length, BlockSize::Page4K)?;
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut offset = 0;
    while let Some(begin) = next_data(&file, offset)? {
        // A page that is not put is zero, as a hole is.
        let first = begin / PAGE_SIZE as u64;
        offset = first * PAGE_SIZE as u64;
        let wanted = usize::try_from((length - offset).min(chunk.len() as u64))?;
        file.read_exact_at(&mut chunk[..wanted], offset)?;
        let (pages, _) = chunk[..wanted].as_chunks::<PAGE_SIZE>();
        for (page, content) in (first..).zip(pages) {
            writer.put_page(space, page, content)?;
        }
        offset += wanted as u64;
    }
    writer.finish()?;
    Ok(())
}

/// Finds where the data at an offset of a file, or the next after it, begins; none behind the last.
fn next_data(file: &File, offset: u64) -> Outcome<Option<u64>> {
    match rustix::fs::seek(file, SeekFrom::Data(offset)) {
        Ok(begin) => Ok(Some(begin)),
        Err(Errno::NXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Reads all data of a space; `visit` is given the offset and the bytes of pages that follow each other.
pub(super) fn read_all(
    reader: &ImageReader,
    space: SpaceIndex,
    mut visit: impl FnMut(u64, &[u8]),
) -> Outcome {
    let pages = reader.spaces().get(space.position()).ok_or("there is no such space")?.pages();
    let end: ControlFlow<()> = reader.stream(space, 0..pages, |pages, bytes| {
        visit(pages.start * PAGE_SIZE as u64, bytes);
        ControlFlow::Continue(())
    })?;
    if end.is_continue() { Ok(()) } else { Err("reading was broken off".into()) }
}

/// The space of an image that [`ingest`] made.
pub(super) fn flat_space(reader: &ImageReader) -> Outcome<SpaceIndex> {
    let space = reader.spaces().iter().find(|space| space.name == SPACE);
    Ok(space.ok_or("the image has another space")?.index)
}

/// The bytes of pages that are not zero.
pub(super) fn data_bytes(reader: &ImageReader, space: SpaceIndex) -> Outcome<u64> {
    let mut pages = 0;
    for run in reader.data_runs(space) {
        let run = run?;
        pages += run.end - run.start;
    }
    Ok(pages * PAGE_SIZE as u64)
}
