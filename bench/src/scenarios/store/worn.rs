//! What a hundred generations do to the reading of an image.
//!
//! Pages of a guest are written as an image. Then, again and again, one page in twenty is changed, all over, and the whole
//! is written as the next image. The last one is read in bulk, and so is an image of the same pages in a store of its own:
//! both by turns, the quickest of some times.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use vmrewind_store::{BlockSize, ImageId, ImageReader, PAGE_SIZE, Page, SpaceIndex, Store, WriteOptions};

use super::contestants::image_id;
use super::images;
use super::sample::Worn;
use crate::outcome::Outcome;

/// One page in so many is changed from one generation to the next.
const ONE_IN: usize = 20;
const TIMES: u32 = 5;

/// Measures with the first data of a flat file, at most `bytes`, in two folders of its own below `folder`.
pub(super) fn measure(flat: &Path, bytes: usize, generations: u32, folder: &Path) -> Outcome<Worn> {
    let folder = tempfile::Builder::new().prefix("worn.").tempdir_in(folder)?;
    let mut pages = data_pages(flat, bytes / PAGE_SIZE)?;
    let worn = images::open_store(&folder.path().join("worn"))?;
    let mut random = 1;
    for number in 1..=generations {
        if number > 1 {
            change(&mut pages, &mut random);
        }
        let parent = if number > 1 { Some(image_id(number - 1)?) } else { None };
        write(&worn, &image_id(number)?, parent, &pages)?;
    }
    let fresh = images::open_store(&folder.path().join("fresh"))?;
    write(&fresh, &image_id(1)?, None, &pages)?;
    let (mut worn_seconds, mut fresh_seconds) = (f64::INFINITY, f64::INFINITY);
    for _ in 0..TIMES {
        worn_seconds = worn_seconds.min(read(&worn, &image_id(generations)?, &pages)?);
        fresh_seconds = fresh_seconds.min(read(&fresh, &image_id(1)?, &pages)?);
    }
    Ok(Worn { generations, data_bytes: (pages.len() * PAGE_SIZE) as u64, worn_seconds, fresh_seconds })
}

/// The first pages of a file that are not zero.
fn data_pages(flat: &Path, most: usize) -> Outcome<Vec<Page>> {
    let file = File::open(flat)?;
    let len = file.metadata()?.len();
    let mut pages = Vec::new();
    let mut page = [0; PAGE_SIZE];
    for offset in (0..len / PAGE_SIZE as u64).map(|number| number * PAGE_SIZE as u64) {
        if pages.len() == most {
            break;
        }
        file.read_exact_at(&mut page, offset)?;
        if page != [0; PAGE_SIZE] {
            pages.push(page);
        }
    }
    if pages.is_empty() { Err("the guest's memory is empty".into()) } else { Ok(pages) }
}

/// Writes a new number into some of the pages.
fn change(pages: &mut [Page], random: &mut u64) {
    for _ in 0..pages.len() / ONE_IN {
        // A generator of Knuth's; its high bits are good enough.
        *random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let place = (u128::from(*random) * pages.len() as u128) >> 64;
        if let Some(page) = usize::try_from(place).ok().and_then(|place| pages.get_mut(place)) {
            page[..8].copy_from_slice(&random.to_le_bytes());
        }
    }
}

fn write(store: &Store, id: &ImageId, parent: Option<ImageId>, pages: &[Page]) -> Outcome {
    let options = WriteOptions { parent, spill_bytes: 0, ..WriteOptions::default() };
    let mut writer = store.create_image(id.clone(), options)?;
    let space = writer.add_space("pages", (pages.len() * PAGE_SIZE) as u64, BlockSize::Page4K)?;
    for (number, page) in (0..).zip(pages) {
        writer.put_page(space, number, page)?;
    }
    writer.finish()?;
    Ok(())
}

/// Reads an image in bulk, which has to hold these pages; comparing them takes the same time for all.
fn read(store: &Store, id: &ImageId, pages: &[Page]) -> Outcome<f64> {
    let begun = Instant::now();
    let reader = store.open_image(id)?;
    let space = the_space(&reader)?;
    let mut right = 0_usize;
    images::read_all(&reader, space, |offset, bytes| {
        let first = usize::try_from(offset).unwrap_or(usize::MAX) / PAGE_SIZE;
        let found = bytes.as_chunks::<PAGE_SIZE>().0;
        right += usize::from(pages.get(first..first + found.len()) == Some(found)) * found.len();
    })?;
    let seconds = begun.elapsed().as_secs_f64();
    if right == pages.len() { Ok(seconds) } else { Err("an image was not given back as it was".into()) }
}

fn the_space(reader: &ImageReader) -> Outcome<SpaceIndex> {
    let space = reader.spaces().iter().find(|space| space.name == "pages");
    Ok(space.ok_or("the image has another space")?.index)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards the figure: it is of images that hold what was changed, and nothing of them stays behind.
    #[test]
    fn images_of_all_generations_hold_what_was_changed() {
        let folder = tempfile::tempdir().unwrap();
        let flat = folder.path().join("flat");
        let content: Vec<u8> =
            (0..64 * PAGE_SIZE).map(|at| (at / PAGE_SIZE % 7 * (at % 251)).to_le_bytes()[0]).collect();
        std::fs::write(&flat, content).unwrap();
        let worn = measure(&flat, 40 * PAGE_SIZE, 3, folder.path()).unwrap();
        assert_eq!((worn.generations, worn.data_bytes), (3, 40 * PAGE_SIZE as u64));
        assert!(worn.worn_seconds > 0.0 && worn.fresh_seconds > 0.0);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "only the flat file is left");
    }
}
