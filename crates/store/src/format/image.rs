//! The file of an image: its spaces with the roots of their trees, and its attachments with the objects they are in.
//!
//! The bytes are drawn in `docs/store-format.md`. The whole file is covered by one hash, and is read and written at once.
#![deny(clippy::indexing_slicing)]

use std::collections::BTreeSet;

use super::cursor::Cursor;
use super::{Flaw, MAX_ATTACHMENT_BYTES, MAX_SPACE_BYTES};
use crate::block::BlockSize;
use crate::error::Part;
use crate::hash::{HASH_LEN, ObjectHash};
use crate::id::{ImageId, MAX_ID_LEN};

/// Version of the format that is written, and the highest that is read.
pub(crate) const IMAGE_VERSION: u32 = 2;
/// Most spaces in an image.
pub(crate) const MAX_SPACES: u32 = 4096;
/// Most attachments in an image.
pub(crate) const MAX_ATTACHMENTS: u32 = 4096;
/// Longest name of a space or an attachment in bytes.
pub(crate) const MAX_NAME_LEN: usize = 255;
/// Longest file: more than any writer makes, and little enough to be read at once.
pub(crate) const MAX_IMAGE_FILE_BYTES: u64 = 256 << 20;
/// Bytes of an attachment in one object.
pub(crate) const PIECE_BYTES: usize = 1 << 20;

const MAGIC: [u8; 8] = *b"VMRIMAGE";
/// Length of all that comes before the number of spaces.
const FIXED_LEN: usize = 8 + 4 + 4 + 8 + 8 + 2 * (1 + MAX_ID_LEN);
/// Least bytes of a space: a name of one byte, block size, length, data blocks, root.
const MIN_SPACE_LEN: usize = 2 + 1 + 1 + 8 + 8 + HASH_LEN;
/// Least bytes of an attachment: a name of one byte, length, hash.
const MIN_ATTACHMENT_LEN: usize = 2 + 1 + 8 + HASH_LEN;

/// One image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ImageFile {
    pub(crate) id: ImageId,
    pub(crate) parent: Option<ImageId>,
    /// Bytes of blocks that were in no image before.
    pub(crate) new_bytes: u64,
    /// Bytes that the image added to the storage, this file included.
    pub(crate) stored_bytes: u64,
    pub(crate) spaces: Vec<SpaceEntry>,
    pub(crate) attachments: Vec<AttachmentEntry>,
}

/// A space and the root of its tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SpaceEntry {
    pub(crate) name: String,
    pub(crate) block_size: BlockSize,
    /// Length in bytes; the last block can reach beyond it.
    pub(crate) len: u64,
    /// Number of blocks that are not zero.
    pub(crate) data_blocks: u64,
    /// None where all is zero.
    pub(crate) root: Option<ObjectHash>,
}

impl SpaceEntry {
    /// Returns the number of blocks.
    pub(crate) fn blocks(&self) -> u64 {
        self.len.div_ceil(self.block_size.bytes_u64())
    }
}

/// An attachment and the objects that hold its bytes, [`PIECE_BYTES`] in each but the last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AttachmentEntry {
    pub(crate) name: String,
    pub(crate) len: u64,
    pub(crate) hash: [u8; HASH_LEN],
    pub(crate) pieces: Vec<ObjectHash>,
}

/// Says whether a space of such blocks can have that length.
pub(crate) fn is_space_len(block_size: BlockSize, len: u64) -> bool {
    let unit = match block_size {
        BlockSize::Page4K => 4096,
        BlockSize::Block64K => 512,
    };
    len <= MAX_SPACE_BYTES && len.is_multiple_of(unit)
}

impl ImageFile {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(FIXED_LEN);
        bytes.extend_from_slice(&MAGIC);
        put_u32(&mut bytes, IMAGE_VERSION);
        put_u32(&mut bytes, self.encoded_len());
        put_u64(&mut bytes, self.new_bytes);
        put_u64(&mut bytes, self.stored_bytes);
        put_id(&mut bytes, Some(&self.id));
        put_id(&mut bytes, self.parent.as_ref());
        put_count(&mut bytes, self.spaces.len());
        for space in &self.spaces {
            put_name(&mut bytes, &space.name);
            bytes.push(space.block_size.log2());
            put_u64(&mut bytes, space.len);
            put_u64(&mut bytes, space.data_blocks);
            bytes.extend_from_slice(&space.root.map_or([0; HASH_LEN], |root| *root.as_bytes()));
        }
        put_count(&mut bytes, self.attachments.len());
        for attachment in &self.attachments {
            put_name(&mut bytes, &attachment.name);
            put_u64(&mut bytes, attachment.len);
            bytes.extend_from_slice(&attachment.hash);
            for piece in &attachment.pieces {
                bytes.extend_from_slice(piece.as_bytes());
            }
        }
        let hash = blake3::hash(&bytes);
        bytes.extend_from_slice(hash.as_bytes());
        bytes
    }

    /// Returns the length of the encoded file; a writer's limits keep it far below 2^32.
    pub(crate) fn encoded_len(&self) -> u32 {
        let spaces: usize = self.spaces.iter().map(|space| MIN_SPACE_LEN - 1 + space.name.len()).sum();
        let attachments: usize = self
            .attachments
            .iter()
            .map(|one| MIN_ATTACHMENT_LEN - 1 + one.name.len() + one.pieces.len() * HASH_LEN)
            .sum();
        u32::try_from(FIXED_LEN + 4 + spaces + 4 + attachments + HASH_LEN).unwrap_or(u32::MAX)
    }

    /// Decodes a whole file.
    pub(crate) fn decode(bytes: &[u8]) -> Result<ImageFile, Flaw> {
        let mut cursor = Cursor::new(Part::Header, bytes);
        if cursor.array("magic")? != MAGIC {
            return Err(cursor.flaw("this is not an image"));
        }
        match cursor.u32("version")? {
            IMAGE_VERSION => {}
            0 => return Err(cursor.flaw("version is 0")),
            1 => return Err(Flaw::Older(1)),
            newer => return Err(Flaw::Newer(newer)),
        }
        if cursor.u32("length of the file")? as usize != bytes.len() {
            return Err(cursor.flaw(format_args!("it does not have {} bytes", bytes.len())));
        }
        let body = checked_body(bytes).ok_or_else(|| Flaw::new(Part::Header, "its hash is wrong"))?;
        decode_body(body)
    }
}

/// Returns the bytes that the hash at the end covers, if it is right.
fn checked_body(bytes: &[u8]) -> Option<&[u8]> {
    let (body, hash) = bytes.split_last_chunk::<HASH_LEN>()?;
    (blake3::hash(body).as_bytes() == hash).then_some(body)
}

fn decode_body(body: &[u8]) -> Result<ImageFile, Flaw> {
    let mut cursor = Cursor::new(Part::Tables, body);
    cursor.bytes(8 + 4 + 4, "magic, version and length")?;
    let (new_bytes, stored_bytes) = (cursor.u64("new bytes")?, cursor.u64("stored bytes")?);
    let id = take_id(&mut cursor, "id")?.ok_or_else(|| cursor.flaw("id is empty"))?;
    let parent = take_id(&mut cursor, "parent")?;
    let mut names = BTreeSet::new();
    let count = cursor.count(MAX_SPACES, MIN_SPACE_LEN, "number of spaces")?;
    let mut spaces = Vec::with_capacity(count);
    for _ in 0..count {
        let space = decode_space(&mut cursor)?;
        if !names.insert(space.name.clone()) {
            return Err(cursor.flaw(format_args!("there are two spaces {:?}", space.name)));
        }
        spaces.push(space);
    }
    names.clear();
    let count = cursor.count(MAX_ATTACHMENTS, MIN_ATTACHMENT_LEN, "number of attachments")?;
    let mut attachments = Vec::with_capacity(count);
    for _ in 0..count {
        let attachment = decode_attachment(&mut cursor)?;
        if !names.insert(attachment.name.clone()) {
            return Err(cursor.flaw(format_args!("there are two attachments {:?}", attachment.name)));
        }
        attachments.push(attachment);
    }
    cursor.end()?;
    Ok(ImageFile { id, parent, new_bytes, stored_bytes, spaces, attachments })
}

fn decode_space(cursor: &mut Cursor<'_>) -> Result<SpaceEntry, Flaw> {
    let name = cursor.name("name of a space")?.to_owned();
    let log2 = cursor.u8("block size of a space")?;
    let Some(block_size) = BlockSize::from_log2(log2) else {
        return Err(cursor.flaw(format_args!("space {name:?} has blocks of 2^{log2} bytes")));
    };
    let (len, data_blocks) = (cursor.u64("length of a space")?, cursor.u64("data blocks of a space")?);
    let root: [u8; HASH_LEN] = cursor.array("root of a space")?;
    let root = (root != [0; HASH_LEN]).then(|| ObjectHash::from_bytes(root));
    let space = SpaceEntry { name, block_size, len, data_blocks, root };
    if !is_space_len(block_size, len) {
        return Err(cursor.flaw(format_args!("space {:?} has a length of {len}", space.name)));
    }
    if data_blocks > space.blocks() || (data_blocks == 0) != root.is_none() {
        return Err(cursor.flaw(format_args!("space {:?} cannot have {data_blocks} data blocks", space.name)));
    }
    Ok(space)
}

fn decode_attachment(cursor: &mut Cursor<'_>) -> Result<AttachmentEntry, Flaw> {
    let name = cursor.name("name of an attachment")?.to_owned();
    let len = cursor.u64("length of an attachment")?;
    let hash = cursor.array("hash of an attachment")?;
    if len > MAX_ATTACHMENT_BYTES {
        return Err(cursor.flaw(format_args!("attachment {name:?} has a length of {len}")));
    }
    // At most 2^10 pieces, which the cursor finds room for one by one.
    let pieces = (0..len.div_ceil(PIECE_BYTES as u64))
        .map(|_| cursor.array("piece of an attachment").map(ObjectHash::from_bytes))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(AttachmentEntry { name, len, hash, pieces })
}

fn put_u32(bytes: &mut Vec<u8>, value: u32) {
    bytes.extend_from_slice(&value.to_le_bytes());
}

fn put_u64(bytes: &mut Vec<u8>, value: u64) {
    bytes.extend_from_slice(&value.to_le_bytes());
}

fn put_count(bytes: &mut Vec<u8>, count: usize) {
    // The writer allows 4096 of each.
    put_u32(bytes, u32::try_from(count).unwrap_or(u32::MAX));
}

fn put_name(bytes: &mut Vec<u8>, name: &str) {
    // Names are at most 255 bytes long.
    bytes.extend_from_slice(&u16::try_from(name.len()).unwrap_or(u16::MAX).to_le_bytes());
    bytes.extend_from_slice(name.as_bytes());
}

fn put_id(bytes: &mut Vec<u8>, id: Option<&ImageId>) {
    let text = id.map_or("", ImageId::as_str);
    let end = bytes.len() + 1 + MAX_ID_LEN;
    // An id has at most 64 digits.
    bytes.push(u8::try_from(text.len()).unwrap_or(0));
    bytes.extend_from_slice(text.as_bytes());
    bytes.resize(end, 0);
}

fn take_id(cursor: &mut Cursor<'_>, field: &str) -> Result<Option<ImageId>, Flaw> {
    let len = usize::from(cursor.u8(field)?);
    let padded: [u8; MAX_ID_LEN] = cursor.array(field)?;
    let bad = || cursor.flaw(format_args!("{field} is not an id"));
    let (digits, padding) = padded.split_at_checked(len).ok_or_else(bad)?;
    if padding.iter().any(|&byte| byte != 0) {
        return Err(bad());
    }
    if digits.is_empty() {
        return Ok(None);
    }
    let text = String::from_utf8(digits.to_vec()).map_err(|_| bad())?;
    ImageId::new(text).map(Some).map_err(|_| bad())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> ImageFile {
        let object = |tag: u8| ObjectHash::from_bytes([tag; HASH_LEN]);
        let space = |name: &str, block_size, len, data_blocks, root| SpaceEntry {
            name: name.to_owned(),
            block_size,
            len,
            data_blocks,
            root,
        };
        ImageFile {
            id: ImageId::new("abc").expect("an id"),
            parent: Some(ImageId::new("f".repeat(64)).expect("an id")),
            new_bytes: 5 << 12,
            stored_bytes: 9999,
            spaces: vec![
                space("ram", BlockSize::Page4K, 64 << 12, 7, Some(object(1))),
                space("disk", BlockSize::Block64K, 512 * 129, 2, Some(object(2))),
                space("rom", BlockSize::Page4K, 4096, 0, None),
            ],
            attachments: vec![
                AttachmentEntry {
                    name: "devices".to_owned(),
                    len: (1 << 20) + 1,
                    hash: [3; 32],
                    pieces: vec![object(4), object(5)],
                },
                AttachmentEntry { name: "empty".to_owned(), len: 0, hash: [6; 32], pieces: Vec::new() },
            ],
        }
    }

    /// The file with its hash made right again.
    fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
        bytes.truncate(bytes.len() - HASH_LEN);
        let hash = blake3::hash(&bytes);
        bytes.extend_from_slice(hash.as_bytes());
        bytes
    }

    // The layout is a promise to later versions: the offsets of docs/store-format.md, spelled out.
    #[test]
    fn fields_lie_where_the_document_says() {
        let bytes = sample().encode();
        assert_eq!(bytes.len(), sample().encoded_len() as usize);
        assert_eq!(&bytes[..12], b"VMRIMAGE\x02\0\0\0");
        assert_eq!(bytes[12..16], sample().encoded_len().to_le_bytes());
        assert_eq!(bytes[24..32], 9999_u64.to_le_bytes());
        assert_eq!((&bytes[32..36], &bytes[97..99]), (&b"\x03abc"[..], &b"\x40f"[..]));
        assert_eq!(&bytes[162..172], b"\x03\0\0\0\x03\0ram\x0c");
        assert_eq!(ImageFile::decode(&bytes), Ok(sample()));
    }

    // A single wrong bit anywhere is found, and so is any other length.
    #[test]
    fn every_bit_and_every_byte_counts() {
        let good = sample().encode();
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(ImageFile::decode(&bytes).is_err(), "bit {bit}");
        }
        for len in 0..good.len() {
            assert!(ImageFile::decode(&good[..len]).is_err(), "{len} bytes");
        }
        assert!(ImageFile::decode(&[good.as_slice(), &[0]].concat()).is_err());
    }

    // A version of which nothing else is known is named, not called damage.
    #[test]
    fn other_versions_are_told_apart_from_damage() {
        let mut bytes = sample().encode();
        bytes[12..].fill(0xff);
        for (version, flaw) in [(1, Flaw::Older(1)), (3, Flaw::Newer(3)), (255, Flaw::Newer(255))] {
            bytes[8] = version;
            assert_eq!(ImageFile::decode(&bytes), Err(flaw));
        }
    }

    // With a right hash a wrong field is still found: a writer's bug, or a forged file.
    #[test]
    fn impossible_fields_are_refused() {
        type Change = fn(&mut ImageFile);
        let wrong: [(&str, Change); 6] = [
            ("two spaces", |file| file.spaces[1].name = "ram".to_owned()),
            ("two attachments", |file| file.attachments[1].name = "devices".to_owned()),
            ("has a length of 100", |file| file.spaces[0].len = 100),
            ("cannot have 65 data blocks", |file| file.spaces[0].data_blocks = 65),
            ("cannot have 0 data blocks", |file| file.spaces[0].data_blocks = 0),
            ("cannot have 7 data blocks", |file| file.spaces[0].root = None),
        ];
        for (what, change) in wrong {
            let mut file = sample();
            change(&mut file);
            match ImageFile::decode(&file.encode()) {
                Err(Flaw::Damaged(Part::Tables, place)) => assert!(place.contains(what), "{place}"),
                other => panic!("{what}: {other:?}"),
            }
        }
        // A count that the bytes have no room for is refused before memory is reserved for it.
        let mut bytes = sample().encode();
        bytes[162..166].copy_from_slice(&4000_u32.to_le_bytes());
        let Err(Flaw::Damaged(_, place)) = ImageFile::decode(&sealed(bytes)) else { panic!("refused") };
        assert!(place.contains("number of spaces of 4000 is too large"), "{place}");
    }
}
