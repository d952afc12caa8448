//! What the fuzz target `return_path` checks; run over the corpus and its mutations in the tests too.
//!
//! Asserts, so not for use outside of tests and fuzzing.

use super::{Message, ReturnPath, SourceError};
use crate::stream::RamBlock;

/// The blocks that the corpus speaks of.
pub fn blocks() -> Vec<RamBlock> {
    vec![RamBlock::new("pc.ram", 100 << 12), RamBlock::new("vga.vram", 3 << 12)]
}

/// Decodes a return path given in chunks.
pub fn decode<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Message>, Option<SourceError>) {
    let mut path = ReturnPath::new(&blocks());
    let mut messages = Vec::new();
    for chunk in chunks {
        match path.feed(chunk) {
            Ok(more) => messages.extend(more),
            Err(error) => return (messages, Some(error)),
        }
    }
    (messages, None)
}

/// Checks that any bytes are decoded without a panic, that chunking makes no difference to what is accepted, and that
/// requests lie within the blocks.
///
/// # Panics
/// One of these does not hold.
pub fn return_path(data: &[u8]) {
    let step = data.iter().take(16).fold(1_usize, |sum, byte| sum * 31 % 127 + usize::from(*byte));
    let (whole, error) = decode([data]);
    let (chunked, chunked_error) = decode(data.chunks(step.max(1)));
    assert_eq!(error, chunked_error, "chunks of {step} bytes fail otherwise");
    // Messages before a fault are lost where they come in one piece with it: the migration is over then.
    if error.is_none() {
        assert_eq!(whole, chunked, "chunks of {step} bytes give other messages");
    }
    for message in &chunked {
        if let Message::Request { block, pages } = message {
            assert!(pages.start < pages.end && pages.end <= blocks()[*block].pages(), "{message:?}");
        }
    }
}
