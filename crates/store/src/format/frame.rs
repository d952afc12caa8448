//! Header and footer: the first and the last bytes of an image's file.
#![deny(clippy::indexing_slicing)]

use super::cursor::Cursor;
use super::{Flaw, PAGE_BYTES};
use crate::id::MAX_ID_LEN;
use crate::{ImageId, Part};

/// Version of the format that is written, and the highest that is read.
pub(crate) const VERSION: u32 = 1;

/// Length of the header in bytes; slots follow it.
pub(crate) const HEADER_LEN: u64 = PAGE_BYTES;

/// Length of the footer in bytes.
pub(crate) const FOOTER_LEN: u64 = 128;

/// [`FOOTER_LEN`] as a length in memory.
pub(crate) const FOOTER_SIZE: usize = FOOTER_BODY_LEN + HASH_LEN;

const HEADER_MAGIC: [u8; 8] = *b"VMRIMAGE";
const FOOTER_MAGIC: [u8; 8] = *b"VMRINDEX";
const HASH_LEN: usize = 32;

/// Length of the header as memory.
const HEADER_SIZE: usize = crate::PAGE_SIZE;
/// Length of the footer without its hash.
const FOOTER_BODY_LEN: usize = 96;

/// What an image's file begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    /// Id of the image, which its file name repeats.
    pub(crate) id: ImageId,
    /// Image that this one was made after.
    pub(crate) parent: Option<ImageId>,
}

impl Header {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_SIZE);
        bytes.extend_from_slice(&HEADER_MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&4096_u32.to_le_bytes());
        put_id(&mut bytes, Some(&self.id));
        put_id(&mut bytes, self.parent.as_ref());
        bytes.resize(HEADER_SIZE - HASH_LEN, 0);
        let hash = blake3::hash(&bytes);
        bytes.extend_from_slice(hash.as_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Header, Flaw> {
        let mut cursor = Cursor::new(Part::Header, bytes);
        if cursor.array("magic")? != HEADER_MAGIC {
            return Err(cursor.flaw("this is not an image"));
        }
        let version = cursor.u32("version")?;
        if version > VERSION {
            return Err(Flaw::Newer(version));
        }
        check_header_hash(bytes)?;
        if version == 0 {
            return Err(cursor.flaw("version is 0"));
        }
        if u64::from(cursor.u32("page size")?) != PAGE_BYTES {
            return Err(cursor.flaw("page size is not 4096"));
        }
        let id = take_id(&mut cursor, "id")?.ok_or_else(|| cursor.flaw("id is empty"))?;
        let parent = take_id(&mut cursor, "parent")?;
        let padding = cursor.bytes(cursor.remaining().saturating_sub(HASH_LEN), "padding")?;
        if padding.iter().any(|&byte| byte != 0) {
            return Err(cursor.flaw("padding is not zero"));
        }
        Ok(Header { id, parent })
    }
}

/// How an image's file ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Footer {
    /// Where the slots end and the tables begin.
    pub(crate) tables_offset: u64,
    /// Length of the tables.
    pub(crate) tables_len: u64,
    /// Number of data pages in all spaces.
    pub(crate) data_pages: u64,
    /// Hash of the tables.
    pub(crate) tables_hash: [u8; HASH_LEN],
}

impl Footer {
    /// Returns the length of the file that ends with this footer.
    pub(crate) fn file_len(&self) -> u64 {
        self.tables_offset.saturating_add(self.tables_len).saturating_add(FOOTER_LEN)
    }

    /// Returns the number of slots before the tables; at most `u32::MAX` in a decoded footer.
    pub(crate) fn slots(&self) -> u32 {
        let slots = self.tables_offset.saturating_sub(HEADER_LEN) / PAGE_BYTES;
        u32::try_from(slots).unwrap_or(u32::MAX)
    }

    pub(crate) fn encode(&self, header: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(FOOTER_BODY_LEN + HASH_LEN);
        bytes.extend_from_slice(&FOOTER_MAGIC);
        for field in [self.tables_offset, self.tables_len, self.data_pages, self.file_len()] {
            bytes.extend_from_slice(&field.to_le_bytes());
        }
        bytes.extend_from_slice(&self.tables_hash);
        bytes.resize(FOOTER_BODY_LEN, 0);
        let hash = footer_hash(header, &bytes);
        bytes.extend_from_slice(&hash);
        bytes
    }

    /// Decodes the last bytes of a file that begins with `header` and is `file_len` bytes long.
    pub(crate) fn decode(bytes: &[u8], header: &[u8], file_len: u64) -> Result<Footer, Flaw> {
        let mut cursor = Cursor::new(Part::Footer, bytes);
        if cursor.array("magic")? != FOOTER_MAGIC {
            return Err(cursor.flaw("the file does not end with a footer"));
        }
        let (tables_offset, tables_len) = (cursor.u64("tables' offset")?, cursor.u64("tables' length")?);
        let (data_pages, recorded_len) = (cursor.u64("data pages")?, cursor.u64("file length")?);
        let tables_hash = cursor.array("tables' hash")?;
        let reserved: [u8; 24] = cursor.array("reserved")?;
        let hash: [u8; HASH_LEN] = cursor.array("hash")?;
        cursor.end()?;
        let body = bytes.get(..FOOTER_BODY_LEN).unwrap_or_default();
        if hash != footer_hash(header, body) {
            return Err(cursor.flaw("hash of header and footer is wrong"));
        }
        let footer = Footer { tables_offset, tables_len, data_pages, tables_hash };
        let aligned = tables_offset >= HEADER_LEN && tables_offset.is_multiple_of(PAGE_BYTES);
        if recorded_len != file_len || footer.file_len() != file_len || !aligned {
            return Err(cursor.flaw(format_args!("its lengths do not fit a file of {file_len} bytes")));
        }
        let slots = (tables_offset - HEADER_LEN) / PAGE_BYTES;
        if slots > u64::from(u32::MAX) || data_pages > slots || reserved != [0; 24] {
            return Err(cursor.flaw("its counts are out of bounds"));
        }
        Ok(footer)
    }
}

fn check_header_hash(bytes: &[u8]) -> Result<(), Flaw> {
    match bytes.split_last_chunk::<HASH_LEN>() {
        Some((body, hash)) if bytes.len() == HEADER_SIZE && blake3::hash(body).as_bytes() == hash => Ok(()),
        _ => Err(Flaw::new(Part::Header, "its hash is wrong")),
    }
}

fn footer_hash(header: &[u8], body: &[u8]) -> [u8; HASH_LEN] {
    *blake3::Hasher::new().update(header).update(body).finalize().as_bytes()
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

    fn header() -> Header {
        let parent = Some(ImageId::new("f".repeat(64)).expect("an id"));
        Header { id: ImageId::new("abc").expect("an id"), parent }
    }

    fn footer() -> Footer {
        Footer { tables_offset: 4096 * 9, tables_len: 77, data_pages: 8, tables_hash: [7; 32] }
    }

    // The layout is a promise to later versions: the offsets of docs/format.md, spelled out.
    #[test]
    fn fields_lie_where_the_document_says() {
        let bytes = header().encode();
        assert_eq!(bytes.len(), 4096);
        assert_eq!(&bytes[..8], b"VMRIMAGE");
        assert_eq!(&bytes[8..16], &[1, 0, 0, 0, 0, 16, 0, 0]);
        assert_eq!(&bytes[16..21], b"\x03abc\0");
        assert_eq!((bytes[81], bytes[82], bytes[145], bytes[146]), (64, b'f', b'f', 0));
        assert_eq!(Header::decode(&bytes), Ok(header()));

        let end = footer().encode(&bytes);
        assert_eq!(end.len() as u64, FOOTER_LEN);
        assert_eq!(&end[..8], b"VMRINDEX");
        assert_eq!(&end[32..40], &(4096_u64 * 9 + 77 + 128).to_le_bytes());
        assert_eq!(Footer::decode(&end, &bytes, 4096 * 9 + 77 + 128), Ok(footer()));
    }

    // A single wrong bit anywhere in header or footer is found.
    #[test]
    fn every_bit_counts() {
        let good_header = header().encode();
        let good_footer = footer().encode(&good_header);
        let len = footer().file_len();
        for bit in 0..good_header.len() * 8 {
            let mut bytes = good_header.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::decode(&bytes).is_err(), "bit {bit} of the header");
        }
        for bit in 0..good_footer.len() * 8 {
            let mut bytes = good_footer.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Footer::decode(&bytes, &good_header, len).is_err(), "bit {bit} of the footer");
        }
    }

    // A guest controls its pages, and a page can be the last thing in a file that was cut short: a footer that is sound
    // in itself must not be taken for this image's.
    #[test]
    fn a_footer_of_another_image_is_refused() {
        let other = Header { id: ImageId::new("1").expect("an id"), parent: None };
        let forged = footer().encode(&other.encode());
        let result = Footer::decode(&forged, &header().encode(), footer().file_len());
        assert!(matches!(result, Err(Flaw::Damaged(Part::Footer, _))), "{result:?}");
    }

    // A later version may change everything but magic and version: it is named, not called damage.
    #[test]
    fn a_newer_version_is_told_apart_from_damage() {
        let mut bytes = header().encode();
        bytes[8] = 9;
        bytes[12..].fill(0xff);
        assert_eq!(Header::decode(&bytes), Err(Flaw::Newer(9)));
    }
}
