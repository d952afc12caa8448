//! The pieces that a postcopy stream consists of. Source: QEMU `migration/savevm.c`, `migration/ram.c`.

use super::PAGE_BYTES;

const MAGIC_AND_VERSION: &[u8] = b"QEVM\0\0\0\x03";
const SECTION_START: u8 = 1;
const SECTION_PART: u8 = 2;
const SECTION_END: u8 = 3;
const CONFIGURATION: u8 = 7;
const COMMAND: u8 = 8;
const FOOTER: u8 = 0x7e;
const EOF: u8 = 0;

const PACKAGED: u16 = 7;

const FLAG_ZERO: u64 = 0x02;
const FLAG_MEM_SIZE: u64 = 0x04;
const FLAG_PAGE: u64 = 0x08;
const FLAG_EOS: u64 = 0x10;
const FLAG_CONTINUE: u64 = 0x20;
/// All of them: what is left of a word is an offset or a length.
const FLAGS: u64 = 0xfff;

/// One page.
pub(super) struct Record<'a> {
    /// Of which block; none: of the one before.
    pub(super) block: Option<&'a [u8]>,
    pub(super) page: u64,
    /// None: zeros.
    pub(super) data: Option<&'a [u8; PAGE_BYTES]>,
}

/// What is taken at once.
pub(super) enum Piece<'a> {
    /// Magic, version and configuration.
    Head { configuration: &'a [u8] },
    /// A command; with the package that follows PACKAGED.
    Command { number: u16, payload: &'a [u8], package: &'a [u8] },
    /// The begin of the section `ram`: names and pages of its blocks.
    Blocks { section: u32, blocks: Vec<(&'a [u8], u64)> },
    /// A part of that section.
    Part { section: u32, records: Vec<Record<'a>> },
    /// The end of that section, and of the stream.
    End { section: u32 },
}

/// Reads the first piece of `bytes`, and how many bytes it has. None where it is not whole.
pub(super) fn next(bytes: &[u8], is_begin: bool) -> Option<(Piece<'_>, usize)> {
    let mut cursor = Cursor { rest: bytes };
    let piece = if is_begin { head(&mut cursor)? } else { piece(&mut cursor)? };
    Some((piece, bytes.len() - cursor.rest.len()))
}

fn head<'a>(cursor: &mut Cursor<'a>) -> Option<Piece<'a>> {
    assert_eq!(cursor.bytes(8)?, MAGIC_AND_VERSION);
    assert_eq!(cursor.u8()?, CONFIGURATION);
    let begin = cursor.rest;
    let len = cursor.u32()?;
    cursor.bytes(usize::try_from(len).expect("a name is short"))?;
    Some(Piece::Head { configuration: &begin[..begin.len() - cursor.rest.len()] })
}

fn piece<'a>(cursor: &mut Cursor<'a>) -> Option<Piece<'a>> {
    Some(match cursor.u8()? {
        COMMAND => {
            let (number, len) = (cursor.u16()?, cursor.u16()?);
            let payload = cursor.bytes(usize::from(len))?;
            let package = match number {
                PACKAGED => {
                    let len = u32::from_be_bytes(payload.try_into().expect("the length of the package"));
                    cursor.bytes(usize::try_from(len).expect("it fits"))?
                }
                _ => &[],
            };
            Piece::Command { number, payload, package }
        }
        SECTION_START => blocks(cursor)?,
        SECTION_PART => {
            let section = cursor.u32()?;
            Piece::Part { section, records: records(cursor, section)? }
        }
        SECTION_END => {
            let section = cursor.u32()?;
            end_of_section(cursor, section)?;
            assert_eq!(cursor.u8()?, EOF);
            Piece::End { section }
        }
        other => panic!("piece {other:#x}"),
    })
}

fn blocks<'a>(cursor: &mut Cursor<'a>) -> Option<Piece<'a>> {
    let section = cursor.u32()?;
    assert_eq!(cursor.short_bytes()?, b"ram");
    assert_eq!((cursor.u32()?, cursor.u32()?), (0, 4), "instance and version");
    let word = cursor.u64()?;
    assert_eq!(word & FLAGS, FLAG_MEM_SIZE);
    let mut left = word & !FLAGS;
    let mut blocks = Vec::new();
    while left > 0 {
        let (name, len) = (cursor.short_bytes()?, cursor.u64()?);
        left = left.checked_sub(len).expect("the blocks are as long as all together");
        blocks.push((name, len / PAGE_BYTES as u64));
    }
    end_of_section(cursor, section)?;
    Some(Piece::Blocks { section, blocks })
}

fn records<'a>(cursor: &mut Cursor<'a>, section: u32) -> Option<Vec<Record<'a>>> {
    let mut records = Vec::new();
    loop {
        let word = cursor.u64()?;
        if word == FLAG_EOS {
            assert_eq!((cursor.u8()?, cursor.u32()?), (FOOTER, section));
            return Some(records);
        }
        let block = if word & FLAG_CONTINUE == 0 { Some(cursor.short_bytes()?) } else { None };
        let data = match word & (FLAG_PAGE | FLAG_ZERO) {
            FLAG_PAGE => cursor.bytes(PAGE_BYTES)?.first_chunk(),
            _ => {
                assert_eq!(cursor.u8()?, 0);
                None
            }
        };
        records.push(Record { block, page: (word & !FLAGS) / PAGE_BYTES as u64, data });
    }
}

fn end_of_section(cursor: &mut Cursor<'_>, section: u32) -> Option<()> {
    assert_eq!((cursor.u64()?, cursor.u8()?, cursor.u32()?), (FLAG_EOS, FOOTER, section));
    Some(())
}

/// What RAM_DISCARD says: the block, and the bounds of its ranges.
pub(super) fn discard(payload: &[u8]) -> (&[u8], Vec<u64>) {
    let mut cursor = Cursor { rest: payload };
    let head = (cursor.u8(), cursor.short_bytes(), cursor.u8());
    let (Some(0), Some(name), Some(0)) = head else { panic!("no such RAM_DISCARD: {payload:?}") };
    let (ranges, rest) = cursor.rest.as_chunks::<8>();
    assert!(rest.is_empty() && ranges.len() % 2 == 0, "ranges have two bounds");
    (name, ranges.iter().map(|bound| u64::from_be_bytes(*bound)).collect())
}

/// Reads from the front; nothing where there is not so much.
struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    fn short_bytes(&mut self) -> Option<&'a [u8]> {
        let len = self.u8()?;
        self.bytes(usize::from(len))
    }
}
