//! What can be wrong with a return path, and with the use of a source.

use crate::stream::EncodeError;

/// Why a source can't go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// QEMU's side of the connection is not understood.
    #[error("return path, byte {offset}: {fault}")]
    ReturnPath {
        /// Where the faulty message begins.
        offset: u64,
        /// What is wrong with it.
        fault: ReturnFault,
    },
    /// QEMU said that it failed, or ended the migration before all was sent.
    #[error("QEMU gave the migration up: {what}")]
    GivenUp {
        /// What it said.
        what: &'static str,
    },
    /// A message that does not belong where it came.
    #[error("{what} came out of turn")]
    OutOfTurn {
        /// Which one.
        what: &'static str,
    },
    /// The lists given do not fit the capture, or the machine can't be sent by postcopy.
    #[error("this machine can't be sent by postcopy: {what}")]
    Unfit {
        /// Why.
        what: &'static str,
    },
    /// Pages handed in do not fit the batch they are for.
    #[error("a batch of {expected} bytes was handed in with {found}")]
    BatchLength {
        /// The length of the batch's data.
        expected: usize,
        /// What came.
        found: usize,
    },
    /// A piece of the stream can't be written.
    #[error("cannot write a piece of the stream")]
    Encode(#[from] EncodeError),
}

/// One thing wrong with a message of the return path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReturnFault {
    /// A message of an unknown kind.
    #[error("unknown message {kind}")]
    Kind {
        /// Its number.
        kind: u16,
    },
    /// A message whose length is not that of its kind.
    #[error("{field} of {len} bytes")]
    Length {
        /// Which message.
        field: &'static str,
        /// The length found.
        len: u16,
    },
    /// A block that is not in the list.
    #[error("unknown RAM block \"{name}\"")]
    UnknownBlock {
        /// The name found, made printable.
        name: String,
    },
    /// "The same block as before" where there was none.
    #[error("the first request names no RAM block")]
    NoPreviousBlock,
    /// A request for what is not in the block, or not whole pages.
    #[error("request for {len} bytes at {start:#x} of RAM block \"{block}\"")]
    Range {
        /// The block's name.
        block: String,
        /// Where the request begins.
        start: u64,
        /// How long it is.
        len: u32,
    },
    /// A bitmap that is not of the block's length.
    #[error("bitmap of {found} bytes for RAM block \"{block}\", expected are {expected}")]
    BitmapLength {
        /// The block's name.
        block: String,
        /// The length found.
        found: u64,
        /// The length of the block's bitmap.
        expected: u64,
    },
    /// A bitmap is not followed by its end mark.
    #[error("bitmap of RAM block \"{block}\" without its end mark")]
    BitmapEnd {
        /// The block's name.
        block: String,
    },
    /// The answer to RESUME is another one than "yes".
    #[error("QEMU answers {value} to the resumption, expected is 1")]
    ResumeAnswer {
        /// The value found.
        value: u32,
    },
    /// Decoding has failed before.
    #[error("decoding has failed before")]
    Failed,
}
