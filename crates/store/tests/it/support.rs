//! What several tests need: small images with known content.

use std::sync::Arc;

use vmrewind_store::{
    BlockSize, DirStorage, ImageId, ImageReader, ImageSummary, PAGE_SIZE, Page, SpaceIndex, Storage, Store,
    StoreError, WriteOptions,
};

/// An attachment that ends inside a page.
pub(crate) const DEVICES: &[u8] = &[0xd5; 5000];

pub(crate) fn id(text: &str) -> ImageId {
    ImageId::new(text).expect("an id")
}

/// Returns a page that no other tag gives.
pub(crate) fn page(tag: u8) -> Page {
    let mut page = [tag; PAGE_SIZE];
    page[..8].copy_from_slice(b"\0page\0\0\x01");
    page
}

pub(crate) fn open(storage: impl Storage + 'static) -> Store {
    Store::open(Arc::new(storage)).expect("a readable storage")
}

/// Makes a store in a temporary folder, which lives as long as the first value.
pub(crate) fn folder_store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = open(DirStorage::new(folder.path()).expect("a folder"));
    (folder, store)
}

/// Options by which every batch but one waits.
pub(crate) fn small_queue() -> WriteOptions {
    WriteOptions { parent: None, queue_bytes: 0, spill_bytes: 0 }
}

/// Lists the runs of data blocks of a space.
pub(crate) fn runs(reader: &ImageReader, space: SpaceIndex) -> Vec<std::ops::Range<u64>> {
    reader.data_runs(space).collect::<Result<_, _>>().expect("readable")
}

/// Writes an image with all that an image can have: two spaces, zero pages, a repeated page, a page that became zero,
/// attachments, a parent.
pub(crate) fn write_sample(store: &Store, image: &ImageId) -> Result<ImageSummary, StoreError> {
    let options = WriteOptions { parent: Some(id("fa")), ..small_queue() };
    let mut writer = store.create_image(image.clone(), options)?;
    let ram = writer.add_space("pc.ram", 8 * 4096, BlockSize::Page4K)?;
    writer.put_page(ram, 1, &page(0xff))?;
    writer.put_page(ram, 2, &page(2))?;
    writer.attach("devices", DEVICES)?;
    let rom = writer.add_space("rom", 4096, BlockSize::Page4K)?;
    writer.put_page(rom, 0, &page(0xff))?;
    writer.put_page(ram, 1, &page(1))?;
    writer.put_zero(rom, 0)?;
    writer.put_page(ram, 7, &page(7))?;
    writer.attach("empty", &[])?;
    writer.finish()
}

/// Checks that an image has exactly the content of [`write_sample`].
pub(crate) fn check_sample(reader: &ImageReader) {
    assert_eq!(reader.parent(), Some(&id("fa")));
    let names: Vec<_> = reader.spaces().iter().map(|space| (space.name.as_str(), space.len)).collect();
    assert_eq!(names, [("pc.ram", 8 * 4096), ("rom", 4096)]);
    let attachments: Vec<_> = reader.attachments().collect();
    assert_eq!(attachments, [("devices", 5000), ("empty", 0)]);
    assert_eq!(reader.attachment("devices").expect("readable"), DEVICES);
    assert_eq!(reader.attachment("empty").expect("readable"), b"");
    let (ram, rom) = (space(reader, "pc.ram"), space(reader, "rom"));
    for number in 0..8 {
        let expected = if [1, 2, 7].contains(&number) { Some(page(number)) } else { None };
        assert_eq!(read_page(reader, ram, u64::from(number)), expected, "page {number}");
    }
    assert_eq!(read_page(reader, rom, 0), None);
    assert_eq!(runs(reader, ram), [1..3, 7..8]);
    assert_eq!(runs(reader, rom), []);
}

/// Returns the space of that name.
pub(crate) fn space(reader: &ImageReader, name: &str) -> SpaceIndex {
    reader.spaces().iter().find(|space| space.name == name).expect("a space").index
}

/// Reads a page; none means zero.
pub(crate) fn read_page(reader: &ImageReader, space: SpaceIndex, number: u64) -> Option<Page> {
    let mut content = [0xee; PAGE_SIZE];
    reader.read_run(space, number..number + 1, &mut content).expect("a readable page");
    (content != [0; PAGE_SIZE]).then_some(content)
}
