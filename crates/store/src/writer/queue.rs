//! The bounded way from the caller's thread to the writer thread.
//!
//! Pages travel in batches, whose buffers come back to be filled again. There are never more buffers than the bound
//! allows; a caller that finds none left hashes the batch in its hand, work that the writer thread is then spared,
//! before it waits.

use std::sync::mpsc;

use crate::format::{PageHash, page_hash};
use crate::{PAGE_SIZE, Page};

/// Data of one batch in bytes: the size of the writes that new pages go out in.
const BATCH_BYTES: usize = 1 << 20;
/// Most pages in one batch, zero pages included.
const BATCH_ITEMS: usize = 8192;
/// Memory of a batch in bytes: its data, its items, its hashes.
const BATCH_COST: usize =
    BATCH_BYTES + BATCH_ITEMS * size_of::<Item>() + BATCH_BYTES / PAGE_SIZE * size_of::<PageHash>();

/// One page in a batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Item {
    /// Position of the space.
    pub(super) space: u32,
    /// Whether the page's content is in the batch; it is zero otherwise.
    pub(super) is_data: bool,
    pub(super) page: u64,
}

/// Pages in order of arrival, or a part of an attachment.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) items: Vec<Item>,
    /// Contents of the data pages, in order.
    pub(super) data: Vec<u8>,
    hashes: Vec<PageHash>,
}

impl Batch {
    fn new() -> Batch {
        Batch {
            items: Vec::with_capacity(BATCH_ITEMS),
            data: Vec::with_capacity(BATCH_BYTES),
            hashes: Vec::with_capacity(BATCH_BYTES / PAGE_SIZE),
        }
    }

    pub(super) fn push_data(&mut self, space: u32, page: u64, data: &Page) {
        self.items.push(Item { space, is_data: true, page });
        self.data.extend_from_slice(data);
    }

    pub(super) fn push_zero(&mut self, space: u32, page: u64) {
        self.items.push(Item { space, is_data: false, page });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.data.len() >= BATCH_BYTES || self.items.len() >= BATCH_ITEMS
    }

    /// Computes the hashes of the data pages, unless that is done.
    pub(super) fn compute_hashes(&mut self) {
        if self.hashes.is_empty() {
            self.hashes.extend(self.data.as_chunks::<PAGE_SIZE>().0.iter().map(|page| page_hash(page)));
        }
    }

    /// Returns the hashes of the data pages, in order; none before they are computed.
    pub(super) fn hashes(&self) -> &[PageHash] {
        &self.hashes
    }

    fn clear(&mut self) {
        self.items.clear();
        self.data.clear();
        self.hashes.clear();
    }
}

/// What the writer thread is told, in order.
#[derive(Debug)]
pub(super) enum Message {
    /// A space follows the ones before.
    Space { name: String, len: u64 },
    /// Pages of any spaces.
    Pages(Batch),
    /// An attachment follows, `len` bytes in [`Message::Bytes`].
    Attachment { name: String, len: u64 },
    /// The next bytes of the attachment.
    Bytes(Batch),
    /// Nothing follows: the file is to be completed.
    Finish,
}

/// The writer thread has ended; its result says why.
#[derive(Debug)]
pub(super) struct Gone;

/// The caller's end.
#[derive(Debug)]
pub(super) struct Sender {
    messages: mpsc::Sender<Message>,
    emptied: mpsc::Receiver<Batch>,
    /// Buffers that may still be made.
    unmade: usize,
}

/// The writer thread's end.
#[derive(Debug)]
pub(super) struct Receiver {
    messages: mpsc::Receiver<Message>,
    emptied: mpsc::Sender<Batch>,
}

/// Makes a queue of at most `bound_bytes` (but two buffers at least), and its first batch to fill.
pub(super) fn queue(bound_bytes: usize) -> (Sender, Receiver, Batch) {
    let (messages, incoming) = mpsc::channel();
    let (give_back, emptied) = mpsc::channel();
    let buffers = (bound_bytes / BATCH_COST).max(2);
    let sender = Sender { messages, emptied, unmade: buffers - 1 };
    (sender, Receiver { messages: incoming, emptied: give_back }, Batch::new())
}

impl Sender {
    /// Sends a message that carries no batch.
    pub(super) fn send(&self, message: Message) -> Result<(), Gone> {
        self.messages.send(message).map_err(|_| Gone)
    }

    /// Sends pages and returns an empty batch; waits for one only when the bound is reached.
    pub(super) fn send_pages(&mut self, mut batch: Batch) -> Result<Batch, Gone> {
        let spare = self.spare();
        if spare.is_none() {
            batch.compute_hashes();
        }
        self.send(Message::Pages(batch))?;
        spare.map_or_else(|| self.emptied.recv().map_err(|_| Gone), Ok)
    }

    /// Sends `bytes` in parts through `batch`, which is empty, and returns an empty batch.
    pub(super) fn send_bytes(&mut self, mut batch: Batch, bytes: &[u8]) -> Result<Batch, Gone> {
        for part in bytes.chunks(BATCH_BYTES) {
            batch.data.extend_from_slice(part);
            let spare = self.spare();
            self.send(Message::Bytes(batch))?;
            batch = spare.map_or_else(|| self.emptied.recv().map_err(|_| Gone), Ok)?;
        }
        Ok(batch)
    }

    /// Returns an empty batch if there is one or one may be made.
    fn spare(&mut self) -> Option<Batch> {
        if let Ok(batch) = self.emptied.try_recv() {
            return Some(batch);
        }
        self.unmade = self.unmade.checked_sub(1)?;
        Some(Batch::new())
    }
}

impl Receiver {
    /// Waits for the next message; none comes when the sender is gone.
    pub(super) fn next(&self) -> Option<Message> {
        self.messages.recv().ok()
    }

    /// Gives a buffer back to be filled again.
    pub(super) fn give_back(&self, mut batch: Batch) {
        batch.clear();
        // A sender that is gone needs no buffers.
        let _ = self.emptied.send(batch);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // The bound is the promise that a capture does not eat the host's memory.
    #[test]
    fn no_more_buffers_are_made_than_the_bound_allows() {
        let (mut sender, receiver, mut batch) = queue(4 * BATCH_COST);
        for page in 0..3 {
            batch.push_data(0, page, &[7; PAGE_SIZE]);
            batch = sender.send_pages(batch).expect("the receiver is there");
        }
        assert!(sender.spare().is_none(), "four buffers are on the way or in hand");
        let Some(Message::Pages(first)) = receiver.next() else { panic!("pages were sent") };
        receiver.give_back(first);
        let spare = sender.spare().expect("one came back");
        assert!(spare.is_empty() && spare.data.is_empty());
    }

    // A caller that has to wait hashes its own batch; the hashes must be those of the pages it carries now.
    #[test]
    fn hashes_do_not_survive_in_a_recycled_buffer() {
        let (sender, receiver, mut batch) = queue(0);
        batch.push_data(0, 0, &[1; PAGE_SIZE]);
        batch.compute_hashes();
        assert_eq!(batch.hashes(), [page_hash(&[1; PAGE_SIZE])]);
        receiver.give_back(batch);
        let mut batch = sender.emptied.recv().expect("it was given back");
        batch.push_data(0, 0, &[2; PAGE_SIZE]);
        batch.compute_hashes();
        assert_eq!(batch.hashes(), [page_hash(&[2; PAGE_SIZE])]);
    }
}
