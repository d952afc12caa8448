//! A desktop's worth of content for a guest's memory: the programs and texts of this machine's `/usr`.
//!
//! The page cache of a machine in use is mostly that. Each file begins at a page, as in a page cache. The same machine gives
//! the same content again; another one's differs, and so do its figures.

use std::fs::{self, File};
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use crate::outcome::{Outcome, context};

const PAGE_BYTES: u64 = 4096;
/// Larger files are cut: a desktop has many, and no single one should be most of its memory.
const FILE_AT_MOST: u64 = 32 << 20;
/// Of ten bytes, as many are of programs; the others are of texts.
const PROGRAM_TENTHS: u64 = 6;

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Content {
    /// Of programs and libraries.
    pub(crate) program_bytes: u64,
    /// Of texts.
    pub(crate) text_bytes: u64,
}

/// Writes `bytes` of content to the file `path`, or as much as there is.
pub(crate) fn write(path: &Path, bytes: u64) -> Outcome<Content> {
    write_from(Path::new("/usr"), path, bytes)
}

fn write_from(usr: &Path, path: &Path, bytes: u64) -> Outcome<Content> {
    let cannot = || format!("cannot write '{}'", path.display());
    let mut writer = BufWriter::with_capacity(1 << 20, File::create(path).map_err(context(cannot))?);
    let wanted = bytes * PROGRAM_TENTHS / 10;
    let program_bytes = copy_files(&mut writer, &[usr.join("bin"), usr.join("lib")], wanted, is_program)?;
    let wanted = bytes.saturating_sub(program_bytes);
    let texts = ["share", "include", "lib"].map(|folder| usr.join(folder));
    let text_bytes = copy_files(&mut writer, &texts, wanted, is_text)?;
    writer.flush().map_err(context(cannot))?;
    if program_bytes + text_bytes == 0 {
        return Err(format!("there is nothing to fill a guest with in '{}'", usr.display()).into());
    }
    Ok(Content { program_bytes, text_bytes })
}

fn copy_files(
    writer: &mut impl Write,
    folders: &[PathBuf],
    wanted: u64,
    fits: fn(&[u8]) -> bool,
) -> Outcome<u64> {
    let mut written = 0;
    let mut pending: Vec<PathBuf> = folders.iter().rev().cloned().collect();
    while let Some(path) = pending.pop() {
        if written >= wanted {
            break;
        }
        // What can't be read, or goes meanwhile, is not missed.
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        if metadata.is_dir() {
            let entries = fs::read_dir(&path).into_iter().flatten().flatten();
            let mut entries: Vec<_> = entries.map(|entry| entry.path()).collect();
            entries.sort_unstable_by(|one, other| other.cmp(one));
            pending.extend(entries);
        } else if metadata.is_file() && metadata.len() >= PAGE_BYTES {
            written += copy_file(writer, &path, (wanted - written).min(FILE_AT_MOST), fits)?;
        }
    }
    Ok(written)
}

/// Copies a file, up to whole pages; returns the bytes written.
fn copy_file(writer: &mut impl Write, path: &Path, most: u64, fits: fn(&[u8]) -> bool) -> Outcome<u64> {
    let mut content = Vec::new();
    let Ok(file) = File::open(path) else { return Ok(0) };
    if file.take(most).read_to_end(&mut content).is_err() || !fits(&content) {
        return Ok(0);
    }
    content.resize(content.len().next_multiple_of(PAGE_BYTES.try_into()?), 0);
    writer.write_all(&content)?;
    Ok(content.len() as u64)
}

fn is_program(content: &[u8]) -> bool {
    content.starts_with(b"\x7fELF")
}

fn is_text(content: &[u8]) -> bool {
    let head = &content[..content.len().min(4096)];
    let plain = |byte: &u8| *byte >= b' ' || b"\t\r\n".contains(byte);
    // The head can end within a character.
    let utf8 = std::str::from_utf8(head).map_or_else(|error| error.error_len().is_none(), |_| true);
    !head.is_empty() && head.iter().all(plain) && utf8
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards the mix: programs and texts, each from a page on, and nothing else.
    #[test]
    fn programs_and_texts_begin_at_pages() {
        let folder = tempfile::tempdir().unwrap();
        let usr = folder.path().join("usr");
        for name in ["bin", "share/doc"] {
            fs::create_dir_all(usr.join(name)).unwrap();
        }
        fs::write(usr.join("bin/one"), [b"\x7fELF".to_vec(), vec![7; 5000]].concat()).unwrap();
        fs::write(usr.join("bin/script"), "#!/bin/sh\n".repeat(1000)).unwrap();
        fs::write(usr.join("share/doc/text"), "a word \n".repeat(1000)).unwrap();
        fs::write(usr.join("share/doc/picture"), vec![0xff; 9000]).unwrap();
        let path = folder.path().join("content");
        let content = write_from(&usr, &path, 64 << 10).unwrap();
        assert_eq!(content, Content { program_bytes: 8192, text_bytes: 8192 });
        let bytes = fs::read(&path).unwrap();
        assert!(
            bytes.starts_with(b"\x7fELF") && bytes[8192..].starts_with(b"a word") && bytes.len() == 16384
        );
    }
}
