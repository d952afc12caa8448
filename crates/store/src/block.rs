//! The blocks that spaces are cut into: their sizes, and what follows from them.

/// Size of a page in bytes.
pub const PAGE_SIZE: usize = 4096;

/// [`PAGE_SIZE`] as a file offset or length.
pub(crate) const PAGE_BYTES: u64 = 4096;

/// Content of one page.
pub type Page = [u8; PAGE_SIZE];

/// A space of one image: its place in the order of creation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpaceIndex(pub(crate) u32);

impl SpaceIndex {
    /// Returns the position in [`ImageReader::spaces`](crate::ImageReader::spaces).
    pub fn position(self) -> usize {
        self.0 as usize
    }
}

/// Size of a space's blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BlockSize {
    /// 4096 bytes: memory.
    Page4K,
    /// 65536 bytes: disks.
    Block64K,
}

impl BlockSize {
    /// Returns the length in bytes.
    pub const fn bytes(self) -> usize {
        1 << self.log2()
    }

    /// Returns the length in bytes as an offset in a space.
    pub const fn bytes_u64(self) -> u64 {
        1 << self.log2()
    }

    /// Returns the binary logarithm of the length.
    pub const fn log2(self) -> u8 {
        match self {
            BlockSize::Page4K => 12,
            BlockSize::Block64K => 16,
        }
    }

    /// Returns the size with that logarithm.
    pub(crate) const fn from_log2(log2: u8) -> Option<BlockSize> {
        match log2 {
            12 => Some(BlockSize::Page4K),
            16 => Some(BlockSize::Block64K),
            _ => None,
        }
    }

    /// Returns how many blocks a full group has: 64 KiB of memory, 256 KiB of disks.
    pub(crate) const fn group_blocks(self) -> u8 {
        match self {
            BlockSize::Page4K => 16,
            BlockSize::Block64K => 4,
        }
    }
}
