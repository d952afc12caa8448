//! The end of a pack that is not written yet: bytes are collected into pieces that the file system takes at little cost.
//!
//! A payload is some 40 KiB at an odd offset. Written one by one, payloads cost the kernel two to three times the time that
//! whole, aligned pieces do: more calls, and pages that are touched twice.

/// Length of a piece; its offset in the file is a multiple of this.
pub(super) const PIECE_BYTES: usize = 256 << 10;

/// Bytes that belong at an offset of the file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) offset: u64,
    pub(super) bytes: Vec<u8>,
}

/// What comes behind all pieces that were given out.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    /// Shorter than a piece.
    open: Piece,
    /// Buffers that have been written.
    spare: Vec<Vec<u8>>,
}

impl Pieces {
    /// Where the next byte goes in the file.
    pub(super) fn end(&self) -> u64 {
        self.open.offset + self.open.bytes.len() as u64
    }

    /// Where the bytes begin that are in no piece yet.
    pub(super) fn start(&self) -> u64 {
        self.open.offset
    }

    /// Adds bytes at the end, and returns the pieces that are whole now.
    pub(super) fn push(&mut self, mut bytes: &[u8]) -> Vec<Piece> {
        let mut whole = Vec::new();
        while !bytes.is_empty() {
            let room = PIECE_BYTES - self.open.bytes.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.open.bytes.extend_from_slice(now);
            bytes = later;
            if self.open.bytes.len() == PIECE_BYTES {
                whole.push(self.end_piece());
            }
        }
        whole
    }

    /// Ends the piece that is open, however long it is, and returns it.
    pub(super) fn end_piece(&mut self) -> Piece {
        let bytes = self.spare.pop().unwrap_or_else(|| Vec::with_capacity(PIECE_BYTES));
        let next = Piece { offset: self.end(), bytes };
        std::mem::replace(&mut self.open, next)
    }

    /// Takes the buffer of a piece that is written, to be filled again.
    pub(super) fn give_back(&mut self, piece: Piece) {
        let mut bytes = piece.bytes;
        bytes.clear();
        self.spare.push(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // A byte at the wrong offset would be found only when a guest needs it.
    #[test]
    fn pieces_hold_all_bytes_at_their_offsets() {
        let mut pieces = Pieces::default();
        let mut file = Vec::new();
        let mut given = Vec::new();
        for (tag, len) in [(1, 64), (2, PIECE_BYTES - 64), (3, 3 * PIECE_BYTES + 5), (4, 0), (5, 40_000)] {
            assert_eq!(pieces.end(), file.len() as u64);
            let bytes = vec![tag; len];
            file.extend_from_slice(&bytes);
            for piece in pieces.push(&bytes) {
                assert_eq!((piece.bytes.len(), piece.offset % PIECE_BYTES as u64), (PIECE_BYTES, 0));
                given.extend_from_slice(&piece.bytes);
                pieces.give_back(piece);
            }
            assert_eq!(pieces.start(), given.len() as u64);
        }
        let last = pieces.end_piece();
        assert_eq!((last.offset, last.bytes.len()), (4 * PIECE_BYTES as u64, 40_005));
        given.extend_from_slice(&last.bytes);
        assert!(given == file, "every byte once, in order");
    }
}
