//! The disk from which a guest takes the content of a desktop's memory: files of the host, page by page.

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;

const PAGE_BYTES: usize = 4096;
const CHUNK_BYTES: usize = 1 << 20;
const O_DIRECT: i32 = 0o40000;

/// A disk whose serial number is `source`, read once from its beginning.
///
/// It is read past the page cache, which would hold all of it a second time.
pub(crate) struct Source {
    disk: File,
    chunk: Vec<u8>,
    /// Where the chunk begins, as `O_DIRECT` wants it.
    start: usize,
    next: usize,
    length: usize,
}

impl Source {
    /// The disk, if there is one.
    pub(crate) fn open() -> Option<Self> {
        let disks = fs::read_dir("/sys/block").ok()?.flatten();
        let is_source = |name: &String| {
            fs::read_to_string(format!("/sys/block/{name}/serial")).is_ok_and(|text| text.trim() == "source")
        };
        let name = disks.filter_map(|disk| disk.file_name().into_string().ok()).find(is_source)?;
        let disk = OpenOptions::new().read(true).custom_flags(O_DIRECT).open(format!("/dev/{name}")).ok()?;
        let chunk = vec![0; CHUNK_BYTES + PAGE_BYTES];
        let start = chunk.as_ptr().align_offset(PAGE_BYTES).min(PAGE_BYTES);
        Some(Self { disk, chunk, start, next: 0, length: 0 })
    }

    /// Fills a page with the next one of the disk. False at its end.
    pub(crate) fn read_page(&mut self, page: &mut [u64]) -> bool {
        if self.next >= self.length {
            let chunk = &mut self.chunk[self.start..self.start + CHUNK_BYTES];
            (self.next, self.length) = (0, self.disk.read(chunk).unwrap_or(0));
        }
        let from = self.start + self.next;
        let Some(bytes) = self.chunk.get(from..from + PAGE_BYTES).filter(|_| self.next < self.length) else {
            return false;
        };
        let (words, _) = bytes.as_chunks::<8>();
        for (word, bytes) in page.iter_mut().zip(words) {
            *word = u64::from_le_bytes(*bytes);
        }
        self.next += PAGE_BYTES;
        true
    }
}
