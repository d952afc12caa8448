//! Reads one image; every byte it hands out was checked against its hash.
//!
//! Opening reads the tables, 20 bytes for each data page, and keeps them in memory. A reader can be shared between
//! threads, and keeps working when its image is removed from the store.

use std::fmt;
use std::io;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use crate::format::{
    Attachment, FOOTER_LEN, FOOTER_SIZE, Flaw, Footer, HEADER_LEN, Header, PageEntry, Piece, SpaceTable,
    Tables, page_hash, slot_offset,
};
use crate::storage::StorageFile;
use crate::store::{Shared, image_name};
use crate::{ImageId, ImageSummary, PAGE_BYTES, PAGE_SIZE, Page, Part, SpaceIndex, StoreError};

/// Most pages in one read: large enough for the disk, small enough to be hashed while still in the cache.
const READ_PAGES: usize = 64;
/// Bytes that `verify` reads between two calls of its callback.
const VERIFY_BYTES: usize = 1 << 20;

/// An open image.
pub struct ImageReader {
    shared: Arc<Shared>,
    header: Header,
    footer: Footer,
    tables: Tables,
    spaces: Vec<Space>,
    file: Box<dyn StorageFile>,
}

/// A space of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Space {
    /// By which it is addressed.
    pub index: SpaceIndex,
    /// Name, unique in the image.
    pub name: String,
    /// Length in bytes, a multiple of the page size.
    pub len: u64,
}

impl Space {
    /// Returns the length in pages.
    pub fn pages(&self) -> u64 {
        self.len / PAGE_BYTES
    }
}

/// What a page holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageKind {
    /// Zero bytes only.
    Zero,
    /// Something else.
    Data,
}

impl ImageReader {
    /// Reads and verifies all but the data of the image in `file`.
    pub(crate) fn load(
        shared: Arc<Shared>,
        id: &ImageId,
        file: Box<dyn StorageFile>,
    ) -> Result<ImageReader, StoreError> {
        let (header, footer, tables) = read_structure(&shared, id, &*file)?;
        let spaces = (0..)
            .zip(&tables.spaces)
            .map(|(at, space)| Space { index: SpaceIndex(at), name: space.name.clone(), len: space.len })
            .collect();
        Ok(ImageReader { shared, header, footer, tables, spaces, file })
    }

    /// Returns the image's id.
    pub fn id(&self) -> &ImageId {
        &self.header.id
    }

    /// Returns the image that this one was made after, which need not be in the store any more.
    pub fn parent(&self) -> Option<&ImageId> {
        self.header.parent.as_ref()
    }

    /// Returns the spaces, in the order of their creation.
    pub fn spaces(&self) -> &[Space] {
        &self.spaces
    }

    /// Returns the space of that name.
    pub fn find_space(&self, name: &str) -> Option<SpaceIndex> {
        self.spaces.iter().find(|space| space.name == name).map(|space| space.index)
    }

    /// Returns the names of the attachments with their lengths in bytes.
    pub fn attachments(&self) -> impl Iterator<Item = (&str, u64)> {
        self.tables.attachments.iter().map(|attachment| (attachment.name.as_str(), attachment.len))
    }

    /// Returns the sizes of the image.
    pub fn summary(&self) -> ImageSummary {
        let bytes = self.spaces.iter().map(|space| space.len).sum::<u64>();
        let data_bytes = self.footer.data_pages * PAGE_BYTES;
        ImageSummary {
            id: self.id().clone(),
            bytes,
            zero_bytes: bytes - data_bytes,
            new_bytes: data_bytes,
            stored_bytes: self.footer.file_len(),
        }
    }

    /// Reads an attachment.
    pub fn attachment(&self, name: &str) -> Result<Vec<u8>, StoreError> {
        let found = self.tables.attachments.iter().find(|attachment| attachment.name == name);
        let attachment = found.ok_or_else(|| self.invalid(format!("no attachment {name:?}")))?;
        // Opening has checked that it lies inside the file, and is at most 1 GiB long.
        let mut bytes = vec![0; usize::try_from(attachment.len).unwrap_or(0)];
        self.read(attachment.offset, &mut bytes, Part::Attachment)?;
        check_attachment(attachment, &blake3::hash(&bytes)).map_err(|flaw| flaw.of(self.id()))?;
        Ok(bytes)
    }

    /// Says what a page holds, without reading it.
    pub fn page(&self, space: SpaceIndex, page: u64) -> Result<PageKind, StoreError> {
        let table = self.space(space, &(page..page.saturating_add(1)))?;
        match self.tables.pieces(table, page..page + 1).next() {
            Some(Piece::Data(..)) => Ok(PageKind::Data),
            Some(Piece::Zero(_)) | None => Ok(PageKind::Zero),
        }
    }

    /// Reads a page and says what it holds.
    pub fn read_page(&self, space: SpaceIndex, page: u64, buf: &mut Page) -> Result<PageKind, StoreError> {
        let kind = self.page(space, page)?;
        self.read_run(space, page..page + 1, buf)?;
        Ok(kind)
    }

    /// Returns the runs of data pages of a space, ascending, each as long as it can be.
    pub fn data_runs(&self, space: SpaceIndex) -> impl Iterator<Item = Range<u64>> {
        self.tables.spaces.get(space.position()).into_iter().flat_map(SpaceTable::data_runs)
    }

    /// Reads `pages` of a space into `buf`, which is as long as they are; zero pages are filled in.
    ///
    /// After an error the content of `buf` is not to be used.
    pub fn read_run(&self, space: SpaceIndex, pages: Range<u64>, buf: &mut [u8]) -> Result<(), StoreError> {
        let table = self.space(space, &pages)?;
        let (slots, tail) = buf.as_chunks_mut::<PAGE_SIZE>();
        if !tail.is_empty() || slots.len() as u64 != pages.end.saturating_sub(pages.start) {
            return Err(self.invalid(format!("a buffer of {} bytes for pages {pages:?}", buf.len())));
        }
        let mut rest = buf;
        for piece in self.tables.pieces(table, pages) {
            let (Piece::Zero(range) | Piece::Data(range, _)) = &piece;
            // The ranges of all pieces together are as long as the buffer.
            let len = usize::try_from(range.end - range.start).unwrap_or(0) * PAGE_SIZE;
            let (part, after) = rest.split_at_mut(len);
            rest = after;
            match piece {
                Piece::Zero(_) => part.fill(0),
                Piece::Data(range, entries) => self.read_data(table, range.start, entries.iter(), part)?,
            }
        }
        Ok(())
    }

    /// Reads and checks every byte that belongs to the image.
    ///
    /// `progress` is told the bytes done and the total after each part, and can stop the work
    /// ([`StoreError::Stopped`]). The first damage found is the result.
    pub fn verify(&self, progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>) -> Result<(), StoreError> {
        read_structure(&self.shared, self.id(), &*self.file)?;
        let attached = self.tables.attachments.iter().map(|attachment| attachment.len).sum::<u64>();
        let total = self.footer.data_pages * PAGE_BYTES + attached;
        let mut done = 0;
        let mut step = |bytes: u64| {
            done += bytes;
            match progress(done, total) {
                ControlFlow::Continue(()) => Ok(()),
                ControlFlow::Break(()) => Err(StoreError::Stopped { image: self.id().clone() }),
            }
        };
        let mut buf = vec![0; VERIFY_BYTES];
        for space in &self.spaces {
            for run in self.data_runs(space.index) {
                self.verify_run(space.index, run, &mut buf, &mut step)?;
            }
        }
        for attachment in &self.tables.attachments {
            self.verify_attachment(attachment, &mut buf, &mut step)?;
        }
        Ok(())
    }

    fn verify_run(
        &self,
        space: SpaceIndex,
        run: Range<u64>,
        buf: &mut [u8],
        step: &mut impl FnMut(u64) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let buf_pages = buf.len() / PAGE_SIZE;
        let mut next = run.start;
        while next < run.end {
            let count = usize::try_from(run.end - next).unwrap_or(usize::MAX).min(buf_pages);
            let part = &mut buf[..count * PAGE_SIZE];
            self.read_run(space, next..next + count as u64, part)?;
            step(part.len() as u64)?;
            next += count as u64;
        }
        Ok(())
    }

    fn verify_attachment(
        &self,
        attachment: &Attachment,
        buf: &mut [u8],
        step: &mut impl FnMut(u64) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut hasher = blake3::Hasher::new();
        let mut done = 0;
        while done < attachment.len {
            let len = usize::try_from(attachment.len - done).unwrap_or(usize::MAX).min(buf.len());
            let part = &mut buf[..len];
            self.read(attachment.offset + done, part, Part::Attachment)?;
            hasher.update(part);
            done += len as u64;
            step(len as u64)?;
        }
        check_attachment(attachment, &hasher.finalize()).map_err(|flaw| flaw.of(self.id()))
    }

    /// Reads consecutive data pages from `first`; neighbours in the file are read together.
    fn read_data(
        &self,
        table: &SpaceTable,
        first: u64,
        entries: impl Iterator<Item = PageEntry>,
        buf: &mut [u8],
    ) -> Result<(), StoreError> {
        let mut entries = entries.peekable();
        let mut group: Vec<PageEntry> = Vec::with_capacity(READ_PAGES);
        let mut rest = buf;
        let mut page = first;
        while let Some(entry) = entries.next() {
            group.clear();
            group.push(entry);
            while let Some(next) = entries.next_if(|next| {
                group.len() < READ_PAGES && group.last().map(|last| last.slot + 1) == Some(next.slot)
            }) {
                group.push(next);
            }
            let (part, after) = rest.split_at_mut(group.len() * PAGE_SIZE);
            rest = after;
            self.read(slot_offset(entry.slot), part, Part::Page)?;
            for (data, entry) in part.as_chunks::<PAGE_SIZE>().0.iter().zip(&group) {
                check_page(table, page, data, entry).map_err(|flaw| flaw.of(self.id()))?;
                page += 1;
            }
        }
        Ok(())
    }

    fn space(&self, space: SpaceIndex, pages: &Range<u64>) -> Result<&SpaceTable, StoreError> {
        match self.tables.spaces.get(space.position()) {
            Some(table) if pages.start <= pages.end && pages.end <= table.pages() => Ok(table),
            Some(table) => {
                Err(self.invalid(format!("pages {pages:?} of a space of {} pages", table.pages())))
            }
            None => Err(self.invalid(format!("no space {}", space.position()))),
        }
    }

    fn read(&self, offset: u64, buf: &mut [u8], what: Part) -> Result<(), StoreError> {
        read(&self.shared, self.id(), &*self.file, offset, buf, what)
    }

    fn invalid(&self, what: String) -> StoreError {
        StoreError::invalid(self.id(), what)
    }
}

impl fmt::Debug for ImageReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImageReader")
            .field("id", self.id())
            .field("spaces", &self.spaces)
            .finish_non_exhaustive()
    }
}

/// Reads and verifies header, footer and tables.
fn read_structure(
    shared: &Shared,
    id: &ImageId,
    file: &dyn StorageFile,
) -> Result<(Header, Footer, Tables), StoreError> {
    let flaw = |flaw: Flaw| flaw.of(id);
    let name = image_name(id);
    let file_len = file.len().map_err(|error| shared.failed("read", &name, error))?;
    let mut header_bytes = [0; PAGE_SIZE];
    read(shared, id, file, 0, &mut header_bytes, Part::Header)?;
    let header = Header::decode(&header_bytes).map_err(flaw)?;
    if header.id != *id {
        return Err(flaw(Flaw::new(Part::Header, format!("it belongs to image {}", header.id))));
    }
    let mut footer_bytes = [0; FOOTER_SIZE];
    let Some(footer_offset) = file_len.checked_sub(FOOTER_LEN).filter(|&offset| offset >= HEADER_LEN) else {
        return Err(flaw(Flaw::new(Part::Footer, format!("the file has only {file_len} bytes"))));
    };
    read(shared, id, file, footer_offset, &mut footer_bytes, Part::Footer)?;
    let footer = Footer::decode(&footer_bytes, &header_bytes, file_len).map_err(flaw)?;
    // Not longer than the file, as the footer's lengths add up to the file's.
    let mut raw = vec![0; usize::try_from(footer.tables_len).unwrap_or(0)];
    read(shared, id, file, footer.tables_offset, &mut raw, Part::Tables)?;
    let tables = Tables::decode(raw, &footer).map_err(flaw)?;
    Ok((header, footer, tables))
}

/// Fills `buf`; a file that ends before is damaged, any other failure is the storage's.
fn read(
    shared: &Shared,
    id: &ImageId,
    file: &dyn StorageFile,
    offset: u64,
    buf: &mut [u8],
    what: Part,
) -> Result<(), StoreError> {
    file.read_at(offset, buf).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => {
            Flaw::new(what, format!("the file ends before byte {}", offset + buf.len() as u64)).of(id)
        }
        _ => shared.failed("read", &image_name(id), error),
    })
}

fn check_page(table: &SpaceTable, page: u64, data: &Page, entry: &PageEntry) -> Result<(), Flaw> {
    if page_hash(data) == entry.hash {
        return Ok(());
    }
    let (name, offset) = (&table.name, slot_offset(entry.slot));
    Err(Flaw::new(Part::Page, format!("page {page} of space {name:?}, at byte {offset}: its hash is wrong")))
}

fn check_attachment(attachment: &Attachment, hash: &blake3::Hash) -> Result<(), Flaw> {
    if *hash.as_bytes() == attachment.hash {
        return Ok(());
    }
    let Attachment { name, offset, .. } = attachment;
    Err(Flaw::new(Part::Attachment, format!("attachment {name:?}, at byte {offset}: its hash is wrong")))
}
