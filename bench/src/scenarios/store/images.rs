//! Memory images between the store and flat files, by the store's programming interface.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use vmrewind_store::{DirStorage, ImageId, ImageReader, PAGE_SIZE, SpaceIndex, Store, WriteOptions};

use crate::outcome::{Outcome, context};

const PAGE_BYTES: u64 = PAGE_SIZE as u64;
/// How much is read or written at a time.
pub(super) const CHUNK_PAGES: u64 = 256;
/// The space of an image that is made of a flat file.
const SPACE: &str = "flat";

/// Opens the store in a folder, which is made where it is missing.
pub(super) fn open_store(folder: &Path) -> Outcome<Store> {
    std::fs::create_dir_all(folder)?;
    Ok(Store::open(Arc::new(DirStorage::new(folder)?))?)
}

/// Writes the largest space of an image (the machine's RAM) as a flat file with holes; returns the bytes of data in it.
pub(super) fn write_flat(store: &Path, image: &str, path: &Path) -> Outcome<u64> {
    let reader = open_store(store)?.open_image(&ImageId::new(image)?)?;
    let ram = largest_space(&reader)?;
    let file = File::create(path).map_err(context(|| format!("cannot write '{}'", path.display())))?;
    let mut data_bytes = 0;
    let mut failed = None;
    each_chunk(&reader, ram, |first_page, bytes| {
        data_bytes += bytes.len() as u64;
        failed = file.write_all_at(bytes, first_page * PAGE_BYTES).err().or(failed.take());
    })?;
    failed.map_or(Ok(()), Err)?;
    let space = reader.spaces().get(ram.position()).ok_or("the image lost its memory")?;
    file.set_len(space.pages() * PAGE_BYTES)?;
    Ok(data_bytes)
}

/// Puts a flat file into the store as image `id`, made after `parent`.
pub(super) fn ingest(store: &Store, id: &ImageId, parent: Option<ImageId>, flat: &Path) -> Outcome {
    let file = File::open(flat)?;
    let length = file.metadata()?.len();
    let mut writer = store.create_image(id.clone(), WriteOptions { parent, ..WriteOptions::default() })?;
    let space = writer.add_space(SPACE, length)?;
    let mut chunk = vec![0; usize::try_from(CHUNK_PAGES * PAGE_BYTES)?];
    let mut page = 0;
    while page * PAGE_BYTES < length {
        let wanted = usize::try_from((length - page * PAGE_BYTES).min(chunk.len() as u64))?;
        file.read_exact_at(&mut chunk[..wanted], page * PAGE_BYTES)?;
        let (pages, _) = chunk[..wanted].as_chunks::<PAGE_SIZE>();
        for content in pages {
            if content.iter().all(|byte| *byte == 0) {
                writer.put_zero(space, page)?;
            } else {
                writer.put_page(space, page, content)?;
            }
            page += 1;
        }
    }
    writer.finish()?;
    Ok(())
}

/// Reads all data of a space in runs of at most a chunk.
pub(super) fn each_chunk(
    reader: &ImageReader,
    space: SpaceIndex,
    mut visit: impl FnMut(u64, &[u8]),
) -> Outcome {
    let mut chunk = vec![0; usize::try_from(CHUNK_PAGES * PAGE_BYTES)?];
    for run in reader.data_runs(space) {
        let mut first = run.start;
        while first < run.end {
            let end = run.end.min(first + CHUNK_PAGES);
            let bytes = &mut chunk[..usize::try_from((end - first) * PAGE_BYTES)?];
            reader.read_run(space, first..end, bytes)?;
            visit(first, bytes);
            first = end;
        }
    }
    Ok(())
}

/// The space of an image that [`ingest`] made.
pub(super) fn flat_space(reader: &ImageReader) -> Outcome<SpaceIndex> {
    reader.find_space(SPACE).ok_or_else(|| "the image has another space".into())
}

fn largest_space(reader: &ImageReader) -> Outcome<SpaceIndex> {
    let found = reader.spaces().iter().max_by_key(|space| space.len).map(|space| space.index);
    found.ok_or_else(|| "the image holds no memory".into())
}
