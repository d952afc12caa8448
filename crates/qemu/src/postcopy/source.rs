//! The source: messages and time in; pages to read, and bytes to send, out.

use std::collections::HashSet;
use std::ops::Range;
use std::time::Duration;

use super::error::SourceError;
use super::queue::Backlog;
use super::return_path::{Message, ReturnPath};
use super::{DataRuns, FirstPages, Options, PageAddress, opening};
use crate::stream::{Captured, Encoder, PAGE_BYTES, PAGE_SIZE};

/// Two senders can share one source, so that a page that is waited for is read while another is read from afar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// Pages that were asked for; also what opens, resumes and ends the stream.
    Faults,
    /// Pages that nobody asked for: the working set, then the rest.
    Push,
}

/// What a lane is to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Something is to be said that is no page: [`Source::say`].
    Say,
    /// Read the pages with data of this batch, and hand them to [`Source::fill`].
    Pages(Batch),
    /// Nothing before this time, or before something was received or filled.
    Wait(Option<Duration>),
    /// Nothing any more: QEMU has everything.
    Over,
}

/// Pages to be sent together.
#[derive(Debug, PartialEq, Eq)]
pub struct Batch {
    pieces: Vec<Piece>,
}

/// Some pages of one block, all with data or all zero.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Which block.
    pub block: usize,
    /// Which of its pages.
    pub pages: Range<u64>,
    /// What they hold.
    pub content: Content,
}

/// What a page holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// To be read; zeros too where it is not known yet which pages hold data.
    Data,
    /// Zeros.
    Zero,
}

/// How far a source is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Pages with data.
    pub total_pages: u64,
    /// Those that QEMU has, or that are on their way.
    pub sent_pages: u64,
    /// Pages that were asked for.
    pub asked_pages: u64,
    /// Whether the guest can run.
    pub can_run: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing is sent yet.
    Fresh,
    /// The package is out, the guest can't run yet.
    Loading,
    /// Nothing is sent yet, to a QEMU that lost its source.
    Recovering,
    /// So many bitmaps are still to come.
    Bitmaps(usize),
    /// All have come; RESUME is to be sent.
    Received,
    /// RESUME is out.
    Resuming,
    /// Pages are asked for and pushed.
    Serving,
    /// All is sent.
    Ending,
    /// QEMU has said that it has all.
    Over,
}

/// The source of a postcopy migration.
#[derive(Debug)]
pub struct Source<'a> {
    captured: &'a Captured,
    encoder: Encoder<'a>,
    options: Options,
    state: State,
    return_path: ReturnPath,
    backlog: Backlog,
    /// Batches that were given out and not filled.
    unfilled: usize,
    /// When pages that nobody asked for begin to be sent.
    push_from: Option<Duration>,
    asked: u64,
    remembered: FirstPages,
    /// Those that are remembered, to remember each once.
    is_remembered: HashSet<PageAddress>,
    /// When the first page was asked for.
    first_asked: Option<Duration>,
}

impl Piece {
    fn addresses(&self) -> impl Iterator<Item = PageAddress> + use<> {
        let block = self.block;
        self.pages.clone().map(move |page| PageAddress { block, page })
    }
}

impl Batch {
    /// What it consists of; the data of all its pages with data, one after the other, is what is handed in.
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// The bytes of its pages with data.
    pub fn data_bytes(&self) -> usize {
        let data = self.pieces.iter().filter(|piece| piece.content == Content::Data);
        data.map(|piece| page_count(&piece.pages) * PAGE_SIZE).sum()
    }
}

impl<'a> Source<'a> {
    /// A source for a QEMU that waits for a migration, of a machine with `total_pages` pages with data, which is told of
    /// for people only. Which ones [`Source::know`] says: before that no page is pushed but the working set.
    ///
    /// # Errors
    /// [`SourceError::Unfit`].
    pub fn fresh(
        captured: &'a Captured,
        total_pages: u64,
        working_set: FirstPages,
        options: Options,
    ) -> Result<Self, SourceError> {
        Self::new(captured, total_pages, working_set, options, State::Fresh)
    }

    /// A source for a QEMU whose source has gone after the guest could run.
    ///
    /// # Errors
    /// As [`Source::fresh`].
    pub fn recovering(
        captured: &'a Captured,
        total_pages: u64,
        working_set: FirstPages,
        options: Options,
    ) -> Result<Self, SourceError> {
        Self::new(captured, total_pages, working_set, options, State::Recovering)
    }

    fn new(
        captured: &'a Captured,
        total_pages: u64,
        working_set: FirstPages,
        options: Options,
        state: State,
    ) -> Result<Self, SourceError> {
        opening::check(captured, options.host_page_bytes)?;
        let host_pages = options.host_page_bytes / PAGE_BYTES;
        let lengths: Vec<u64> = captured.blocks.iter().map(crate::stream::RamBlock::pages).collect();
        Ok(Self {
            captured,
            encoder: Encoder::new(captured),
            state,
            return_path: ReturnPath::new(&captured.blocks),
            backlog: Backlog::new(&lengths, host_pages, total_pages, working_set),
            unfilled: 0,
            push_from: None,
            asked: 0,
            remembered: FirstPages::default(),
            is_remembered: HashSet::new(),
            first_asked: None,
            options,
        })
    }

    /// Takes in which pages of each block hold data. Without it all are taken for such, and the migration has no end.
    ///
    /// # Errors
    /// [`SourceError::Unfit`].
    pub fn know(&mut self, data: &[DataRuns]) -> Result<(), SourceError> {
        if data.len() != self.captured.blocks.len() {
            return Err(SourceError::Unfit { what: "its blocks are not those of its memory" });
        }
        self.backlog.know(data);
        Ok(())
    }

    /// Takes in what QEMU sent back.
    ///
    /// # Errors
    /// It is not understood, or came out of turn, or says that QEMU gave up. The source is of no use then.
    pub fn receive(&mut self, bytes: &[u8], now: Duration) -> Result<(), SourceError> {
        for message in self.return_path.feed(bytes)? {
            self.take(message, now)?;
        }
        Ok(())
    }

    fn take(&mut self, message: Message, now: Duration) -> Result<(), SourceError> {
        let out_of_turn = |what| Err(SourceError::OutOfTurn { what });
        match message {
            Message::Request { block, pages } => self.ask(block, pages, now),
            Message::Pong(opening::RUN_PING) if self.state == State::Loading => self.serve(now),
            // The one that opens the return path is answered before anything is loaded.
            Message::Pong(_) => {}
            Message::Bitmap { block, received } => match self.state {
                State::Bitmaps(missing) => {
                    self.backlog.received(block, &received);
                    self.state = if missing > 1 { State::Bitmaps(missing - 1) } else { State::Received };
                }
                _ => return out_of_turn("a bitmap of received pages"),
            },
            Message::ResumeAck if self.state == State::Resuming => self.serve(now),
            Message::ResumeAck => return out_of_turn("the answer to RESUME"),
            Message::Shut { failed: true } => {
                return Err(SourceError::GivenUp { what: "it met an error" });
            }
            // Only an answer to our END says that all came.
            Message::Shut { failed: false } if self.state == State::Ending => self.state = State::Over,
            Message::Shut { failed: false } => {
                return Err(SourceError::GivenUp { what: "it ended before all was sent" });
            }
        }
        Ok(())
    }

    fn serve(&mut self, now: Duration) {
        self.state = State::Serving;
        // What is pushed meanwhile would stand in the way of the guest's first faults, on the same connection.
        self.push_from = Some(now + self.options.push_after);
    }

    fn ask(&mut self, block: usize, pages: Range<u64>, now: Duration) {
        let first_time = self.backlog.ask(block, pages);
        self.asked += first_time.len() as u64;
        self.first_asked.get_or_insert(now);
        self.remember(first_time, now);
    }

    fn remember(&mut self, pages: impl IntoIterator<Item = PageAddress>, now: Duration) {
        let since = now.saturating_sub(self.first_asked.unwrap_or(now));
        // Later on it is the guest's work that asks, which is another one the next time.
        if since > self.options.remember_for {
            return;
        }
        let Options { early_for, early_pages, remember_pages, .. } = self.options;
        let FirstPages { early, later } = &mut self.remembered;
        for page in pages {
            if self.is_remembered.len() < remember_pages && self.is_remembered.insert(page) {
                let is_early = since <= early_for || early.len() < early_pages;
                if is_early { early.push(page) } else { later.push(page) }
            }
        }
    }

    /// What `lane` does next. It makes no bytes: those come from [`Source::say`] and [`Source::fill`], and must be sent in
    /// the order of these calls, so that no page goes out before the opening.
    pub fn next(&mut self, lane: Lane, now: Duration) -> Next {
        match (lane, self.state) {
            (_, State::Over) => Next::Over,
            // One lane alone opens and ends, so that neither is said twice.
            (Lane::Faults, State::Fresh | State::Recovering | State::Received) => Next::Say,
            (Lane::Faults, State::Loading | State::Serving) => self.next_fault(now),
            (Lane::Push, State::Loading | State::Serving) => self.next_push(now),
            _ => Next::Wait(None),
        }
    }

    fn next_fault(&mut self, now: Duration) -> Next {
        if let Some(pieces) = self.backlog.next_fault(self.options.around_pages) {
            // Neighbours of zeros cost little when they are asked for, and would take the places of pages that do not.
            let with_data = pieces.iter().filter(|piece| piece.content == Content::Data);
            let pages = with_data.flat_map(Piece::addresses);
            self.remember(pages, now);
            return self.hand_out(pieces);
        }
        if self.is_all_sent() { Next::Say } else { Next::Wait(None) }
    }

    /// Whether the end can be said. A batch that is still being read must go out before it: the end of the stream is
    /// behind END, and nothing is read behind that.
    fn is_all_sent(&self) -> bool {
        self.state == State::Serving && self.unfilled == 0 && self.backlog.is_empty()
    }

    /// Appends what is due and is no page: what opens, resumes or ends the stream. Nothing, where nothing is due.
    ///
    /// # Errors
    /// [`SourceError::Unfit`], [`SourceError::Encode`].
    pub fn say(&mut self, out: &mut Vec<u8>) -> Result<(), SourceError> {
        match self.state {
            State::Fresh => {
                opening::fresh(self.captured, self.options.host_page_bytes, &mut self.encoder, out)?;
                self.state = State::Loading;
            }
            State::Recovering => {
                opening::ask_bitmaps(self.captured, &mut self.encoder, out)?;
                self.state = State::Bitmaps(self.captured.blocks.len());
            }
            State::Received => {
                opening::resume(&mut self.encoder, out)?;
                self.state = State::Resuming;
            }
            // Asked again, since the other lane can have got zeros of the working set since this one was told to say it.
            State::Serving if self.is_all_sent() => {
                self.encoder.section_end(out)?;
                self.encoder.eof(out);
                self.state = State::Ending;
            }
            _ => {}
        }
        Ok(())
    }

    fn next_push(&mut self, now: Duration) -> Next {
        // The connection is one: bytes of a push that are in it already are what a processor of the guest waits behind.
        if self.backlog.is_asked() {
            return Next::Wait(None);
        }
        if let Some(pieces) = self.backlog.next_early(self.options.batch_pages) {
            return self.hand_out(pieces);
        }
        match self.push_from {
            Some(from) if now >= from => match self.backlog.next_of_rest(self.options.batch_pages) {
                Some(pieces) => self.hand_out(pieces),
                None => Next::Wait(None),
            },
            from => Next::Wait(from),
        }
    }

    fn hand_out(&mut self, pieces: Vec<Piece>) -> Next {
        self.unfilled += 1;
        Next::Pages(Batch { pieces })
    }

    /// Appends the pages of a batch, whose data was read, in one part of the stream, each host page whole and in order. Batches of both lanes can be filled
    /// in any order.
    ///
    /// # Errors
    /// [`SourceError::BatchLength`], [`SourceError::Encode`].
    pub fn fill(&mut self, batch: &Batch, data: &[u8], out: &mut Vec<u8>) -> Result<(), SourceError> {
        let (pages, rest) = data.as_chunks::<PAGE_SIZE>();
        if !rest.is_empty() || data.len() != batch.data_bytes() {
            return Err(SourceError::BatchLength { expected: batch.data_bytes(), found: data.len() });
        }
        let mut pages = pages.iter();
        self.encoder.begin_part(out)?;
        for piece in &batch.pieces {
            for page in piece.pages.clone() {
                match piece.content {
                    Content::Zero => self.encoder.zero(out, piece.block, page)?,
                    Content::Data => match pages.next() {
                        // One that was only taken for data.
                        Some(data) if *data == [0; PAGE_SIZE] => self.encoder.zero(out, piece.block, page)?,
                        Some(data) => self.encoder.page(out, piece.block, page, data)?,
                        None => {}
                    },
                }
            }
        }
        self.encoder.end_part(out)?;
        self.unfilled = self.unfilled.saturating_sub(1);
        Ok(())
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        let total_pages = self.backlog.total();
        Progress {
            total_pages,
            sent_pages: total_pages - self.backlog.owed().min(total_pages),
            asked_pages: self.asked,
            can_run: matches!(self.state, State::Serving | State::Ending | State::Over),
        }
    }

    /// The pages that were asked for in the first seconds, with the neighbours that were sent with them: a guest that has
    /// these asks for none of them, needed or not.
    pub fn remembered(&self) -> &FirstPages {
        &self.remembered
    }
}

fn page_count(pages: &Range<u64>) -> usize {
    usize::try_from(pages.end.saturating_sub(pages.start)).unwrap_or(usize::MAX)
}
