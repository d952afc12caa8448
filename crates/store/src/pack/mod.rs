//! Packs: files of compressed objects, each named by the hash of its uncompressed bytes.
//!
//! ```text
//!   PackWriter ──append (several threads)──▶ X.pack.part ──seal: directory, footer, sync; publish: rename──▶ PACKID.pack
//!   PackFile   ◀──entry, block hashes, payload: one small read each──                                 PACKID.pack
//! ```
//!
//! A pack never changes once it has its final name. The bytes are drawn in `docs/store-format.md`.

mod codec;
mod file;
mod pieces;
#[cfg(test)]
mod tests;
mod writer;

pub(crate) use codec::{Decoder, Encoder};
pub(crate) use file::{OpenPacks, PackFile};
pub(crate) use writer::{NewObject, PackWriter, SealedPack, SealedPart};
