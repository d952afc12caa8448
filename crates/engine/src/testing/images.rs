//! Machines and their memory images, made by hand.

use std::path::Path;
use std::sync::Arc;

use vmrewind_qemu::stream::{Captured, DeviceState, PAGE_SIZE, RamBlock};
use vmrewind_store::{BlockSize, DirStorage, ImageId, ImageReader, ImageWriter, Store, WriteOptions};

/// The id of the image here.
pub(crate) const IMAGE: &str = "0123456789abcdef";

/// A block of memory: its name, its length in pages, and the pages that hold data.
pub(crate) type Block<'a> = (&'a str, u64, &'a [u64]);

/// A machine with these blocks, and one device.
pub(crate) fn machine(blocks: &[Block<'_>]) -> Captured {
    let state = b"\x04\0\0\0\x2a\x06device\0\0\0\0\0\0\0\x01state\x7e\0\0\0\x2a\0";
    Captured {
        machine_type: "pc-q35-10.0".into(),
        configuration: b"\0\0\0\x0bpc-q35-10.0".to_vec(),
        ram_section_id: 2,
        blocks: blocks.iter().map(|(name, pages, _)| RamBlock::new(*name, pages << 12)).collect(),
        device_state: DeviceState::parse(state.to_vec()).unwrap(),
    }
}

/// What a page with data holds, so that one in the wrong place is noticed.
pub(crate) fn content(block: usize, page: u64) -> [u8; PAGE_SIZE] {
    let mut content = [u8::try_from(block).unwrap() + 1; PAGE_SIZE];
    content[..8].copy_from_slice(&page.to_le_bytes());
    content
}

/// A store in a folder.
pub(crate) fn store(folder: &Path) -> Store {
    Store::open(Arc::new(DirStorage::new(folder).unwrap())).unwrap()
}

/// An image with the memory of a machine, not finished.
pub(crate) fn writer(store: &Store, blocks: &[Block<'_>]) -> ImageWriter {
    let mut writer = store.create_image(ImageId::new(IMAGE).unwrap(), WriteOptions::default()).unwrap();
    for (number, (name, pages, with_data)) in blocks.iter().enumerate() {
        let space = writer.add_space(name, pages << 12, BlockSize::Page4K).unwrap();
        for page in *with_data {
            writer.put_page(space, *page, &content(number, *page)).unwrap();
        }
    }
    writer
}

/// The same, finished and opened, without anything that is no page.
pub(crate) fn image(store: &Store, blocks: &[Block<'_>]) -> ImageReader {
    writer(store, blocks).finish().unwrap();
    store.open_image(&ImageId::new(IMAGE).unwrap()).unwrap()
}
