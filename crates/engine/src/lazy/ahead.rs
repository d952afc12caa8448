//! The memory of a lazy restore; the pages that the guest's first steps need are read before anybody asks: while QEMU
//! starts, a page server has nothing to do.
//!
//! In an image of many generations each of these pages can lie in a group of its own, so that reading them takes as long as
//! QEMU does to start. Who reads them stands back behind QEMU, which needs a processor for that. What was read is kept until
//! it is sent: 64 MiB at most, the bound of a working set.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use vmrewind_qemu::postcopy::{DataRuns, PageAddress};
use vmrewind_qemu::stream::PAGE_SIZE;
use vmrewind_store::{ImageReader, StoreError};

use crate::error::{Error, Result};
use crate::images::store_error;

/// Threads that read: where the disk is slow, one waits for it while another expands.
const READERS: usize = 2;

/// Who is this nice gets a tenth of a processor that somebody else wants.
const MODEST_NICENESS: i32 = 10;

type Page = Box<[u8; PAGE_SIZE]>;

/// Pages of an image that are read before they are needed.
pub(super) struct Ahead<'a> {
    image: &'a ImageReader,
    pages: Vec<PageAddress>,
    /// Where a page is in `slots`.
    places: HashMap<PageAddress, usize>,
    slots: Vec<Mutex<Option<Page>>>,
    next: AtomicUsize,
    stopped: AtomicBool,
}

impl<'a> Ahead<'a> {
    /// Nothing is read before [`Ahead::with_readers`].
    pub(super) fn of(image: &'a ImageReader, pages: Vec<PageAddress>) -> Self {
        Self {
            image,
            places: pages.iter().enumerate().map(|(at, page)| (*page, at)).collect(),
            slots: pages.iter().map(|_| Mutex::new(None)).collect(),
            pages,
            next: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
        }
    }

    /// Which pages of each block hold data; none where `go_on` said no before all were known.
    ///
    /// # Errors
    /// `Damaged`, or `Failed`.
    pub(super) fn data_runs(&self, go_on: impl Fn() -> bool) -> Result<Option<Vec<DataRuns>>> {
        let mut all = Vec::new();
        for space in self.image.spaces() {
            let mut runs = DataRuns::new();
            for run in self.image.data_runs(space.index) {
                runs.push(run.map_err(|error| store_error("the snapshot's memory can't be read", error))?);
                if !go_on() {
                    return Ok(None);
                }
            }
            all.push(runs);
        }
        Ok(Some(all))
    }

    /// How many pages with data the image has.
    pub(super) fn data_pages(&self) -> u64 {
        self.image.data_bytes() / PAGE_SIZE as u64
    }

    /// Does `work` while the pages are read beside it.
    pub(super) fn with_readers<T>(&self, work: impl FnOnce() -> T) -> T {
        std::thread::scope(|scope| {
            for _ in 0..READERS.min(self.pages.len()) {
                // Without a thread the pages are read when they are needed.
                let _ =
                    std::thread::Builder::new().name("ahead".into()).spawn_scoped(scope, || self.read_all());
            }
            let done = work();
            self.stopped.store(true, Ordering::Relaxed);
            done
        })
    }

    fn read_all(&self) {
        be_modest();
        while !self.stopped.load(Ordering::Relaxed) {
            let at = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(page) = self.pages.get(at) else { return };
            let mut content: Page = Box::new([0; PAGE_SIZE]);
            // One that can't be read is read again when it is needed, and told then.
            if self.read_from_image(page.block, page.page..page.page + 1, &mut content[..]).is_ok()
                && let Some(slot) = self.slots.get(at)
            {
                *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(content);
            }
        }
    }

    /// Reads pages of a block, from what was read before where it is there. Each page is kept for one reading only.
    ///
    /// # Errors
    /// `Damaged`, or `Failed`.
    pub(super) fn read(&self, block: usize, pages: Range<u64>, buffer: &mut [u8]) -> Result<()> {
        let mut rest = buffer;
        let mut from = pages.start;
        for page in pages.clone() {
            let Some(content) = self.take(PageAddress { block, page }) else { continue };
            let (missing, after) = rest.split_at_mut(bytes(from..page).min(rest.len()));
            let (here, after) = after.split_at_mut(PAGE_SIZE.min(after.len()));
            self.fill(block, from..page, missing)?;
            here.copy_from_slice(&content[..here.len()]);
            (rest, from) = (after, page + 1);
        }
        self.fill(block, from..pages.end, rest)
    }

    fn take(&self, page: PageAddress) -> Option<Page> {
        let slot = self.slots.get(*self.places.get(&page)?)?;
        slot.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn fill(&self, block: usize, pages: Range<u64>, buffer: &mut [u8]) -> Result<()> {
        if pages.is_empty() {
            return Ok(());
        }
        // The image's spaces are the machine's blocks, in the same order: that was looked at when it was opened.
        self.read_from_image(block, pages, buffer).map_err(|error| {
            error.map_or_else(
                || Error::damaged("the memory image has lost a block"),
                |error| store_error("a page of the guest can't be read", error),
            )
        })
    }

    /// Nothing for an error where the image has no such block.
    fn read_from_image(
        &self,
        block: usize,
        pages: Range<u64>,
        buffer: &mut [u8],
    ) -> Result<(), Option<StoreError>> {
        let space = self.image.spaces().get(block).ok_or(None)?;
        self.image.read_run(space.index, pages, buffer).map_err(Some)
    }
}

/// Has the calling thread leave the processors to whoever else wants them: QEMU, which is starting, the guest's first
/// steps, and those who answer its requests.
pub(super) fn be_modest() {
    // Without it all goes its way, only slower.
    let _ = rustix::process::setpriority_process(None, MODEST_NICENESS);
}

fn bytes(pages: Range<u64>) -> usize {
    usize::try_from(pages.end - pages.start).unwrap_or(usize::MAX).saturating_mul(PAGE_SIZE)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use vmrewind_store::{BlockSize, DirStorage, ImageId, Store, WriteOptions};

    use super::*;

    const PAGES: u64 = 64;

    fn content(page: u64) -> [u8; PAGE_SIZE] {
        let mut content = [u8::try_from(page).unwrap(); PAGE_SIZE];
        content[..8].copy_from_slice(&page.to_le_bytes());
        content
    }

    /// Guards the guest's memory: whatever part of it was read ahead, each page comes as it is, the second time too.
    #[test]
    fn pages_are_the_image_s_own_however_they_were_read() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(Arc::new(DirStorage::new(folder.path()).unwrap())).unwrap();
        let id = ImageId::new("0123456789abcdef").unwrap();
        let mut writer = store.create_image(id.clone(), WriteOptions::default()).unwrap();
        let small = writer.add_space("vga.vram", 4 << 12, BlockSize::Page4K).unwrap();
        let ram = writer.add_space("pc.ram", PAGES << 12, BlockSize::Page4K).unwrap();
        writer.put_page(small, 1, &[0xee; PAGE_SIZE]).unwrap();
        for page in 0..PAGES {
            writer.put_page(ram, page, &content(page)).unwrap();
        }
        writer.finish().unwrap();
        let image = store.open_image(&id).unwrap();
        let known = [7, 3, 4, 5, 63, 0].map(|page| PageAddress { block: 1, page });
        // The last one is in no image: it is left to whoever asks for it.
        let beyond = PageAddress { block: 1, page: PAGES + 1 };
        let ahead = Ahead::of(&image, [&known[..], &[beyond]].concat());
        let is_there = |slot: &Mutex<Option<Page>>| slot.lock().unwrap().is_some();
        ahead.with_readers(|| while !ahead.slots[..known.len()].iter().all(is_there) {});
        let read = |block, pages: Range<u64>| {
            let mut buffer = vec![0; bytes(pages.clone())];
            ahead.read(block, pages, &mut buffer).map(|()| buffer)
        };
        for range in [2..9, 0..1, 62..64, 0..PAGES, 5..5] {
            let expected: Vec<u8> = range.clone().flat_map(content).collect();
            assert_eq!(read(1, range).unwrap(), expected);
        }
        assert!(!ahead.slots.iter().any(is_there), "pages are kept that were sent");
        assert_eq!(read(0, 1..2).unwrap(), [0xee; PAGE_SIZE]);
        assert_eq!(read(2, 0..1).unwrap_err().kind(), crate::error::ErrorKind::Damaged);
        assert!(read(1, PAGES..PAGES + 2).is_err());
    }
}
