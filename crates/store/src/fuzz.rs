//! Entry points for fuzzers: any bytes may come in, nothing may panic or allocate beyond their length.

use crate::format::{FOOTER_LEN, Footer, HEADER_LEN, Header, Piece, Tables};

/// Takes `file` for the whole file of an image: decodes header, footer and tables, and walks through all pages.
///
/// Returns the number of data pages, or nothing when the bytes are not an image.
pub fn image(file: &[u8]) -> Option<u64> {
    let header_bytes = file.get(..usize::try_from(HEADER_LEN).ok()?)?;
    Header::decode(header_bytes).ok()?;
    let footer_at = file.len().checked_sub(usize::try_from(FOOTER_LEN).ok()?)?;
    let footer = Footer::decode(file.get(footer_at..)?, header_bytes, file.len() as u64).ok()?;
    let tables_at = usize::try_from(footer.tables_offset).ok()?;
    walk(file.get(tables_at..footer_at)?, &footer)
}

/// Takes `raw` for tables with the right hash, after slots that end at `tables_offset`.
///
/// Unlike [`image`], this gets mutated tables past their hash. Returns the number of data pages found.
pub fn tables(raw: &[u8], tables_offset: u64, data_pages: u64) -> Option<u64> {
    let tables_hash = *blake3::hash(raw).as_bytes();
    walk(raw, &Footer { tables_offset, tables_len: raw.len() as u64, data_pages, tables_hash })
}

/// Decodes the tables and counts their data pages, each with its entry.
fn walk(raw: &[u8], footer: &Footer) -> Option<u64> {
    let tables = Tables::decode(raw.to_vec(), footer).ok()?;
    let mut found = 0;
    for space in &tables.spaces {
        for piece in tables.pieces(space, 0..space.pages()) {
            if let Piece::Data(pages, entries) = piece {
                assert_eq!(entries.iter().count() as u64, pages.end - pages.start, "an entry for each page");
                found += pages.end - pages.start;
            }
        }
    }
    Some(found)
}
