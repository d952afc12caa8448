//! Which pages are to be sent, and in which order: asked for, working set, the rest. Each is chosen once.

use std::collections::VecDeque;
use std::ops::Range;

use super::page_set::PageSet;
use super::source::{Content, Piece};
use super::{DataRuns, PageAddress};

/// The pages of one block.
#[derive(Debug)]
struct BlockPages {
    /// Those with data.
    data: PageSet,
    /// Those that were chosen, or received before this source.
    sent: PageSet,
    /// Those that were asked for.
    asked: PageSet,
}

/// What is still to be sent.
#[derive(Debug)]
pub(super) struct Backlog {
    blocks: Vec<BlockPages>,
    faults: VecDeque<PageAddress>,
    working_set: std::vec::IntoIter<PageAddress>,
    /// Where the push of the rest is: everything with data before it was chosen.
    cursor: PageAddress,
    total: u64,
    /// Pages with data that were not chosen.
    owed: u64,
}

impl Backlog {
    /// All pages of blocks of these lengths in pages, with these data runs.
    pub(super) fn new(lengths: &[u64], data: &[DataRuns], working_set: Vec<PageAddress>) -> Self {
        let block = |(pages, runs): (&u64, &DataRuns)| {
            let mut data = PageSet::new(*pages);
            runs.iter().for_each(|run| data.insert_range(run.clone()));
            BlockPages { data, sent: PageSet::new(*pages), asked: PageSet::new(*pages) }
        };
        let blocks: Vec<BlockPages> = lengths.iter().zip(data).map(block).collect();
        let total = count_owed(&blocks);
        let cursor = PageAddress { block: 0, page: 0 };
        let working_set = working_set.into_iter();
        Self { blocks, faults: VecDeque::new(), working_set, cursor, total, owed: total }
    }

    /// Pages with data in all.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// Pages with data that were not chosen yet.
    pub(super) fn owed(&self) -> u64 {
        self.owed
    }

    /// Whether somebody waits for a page.
    pub(super) fn is_asked(&self) -> bool {
        !self.faults.is_empty()
    }

    /// Puts a request in; gives the pages of it that were not asked for before.
    pub(super) fn ask(&mut self, at: usize, pages: Range<u64>) -> Vec<PageAddress> {
        let Some(block) = self.blocks.get_mut(at) else { return Vec::new() };
        let mut first_time = Vec::new();
        for page in pages.start..pages.end.min(block.sent.pages()) {
            if !block.asked.insert(page) {
                continue;
            }
            let address = PageAddress { block: at, page };
            first_time.push(address);
            if !block.sent.contains(page) {
                self.faults.push_back(address);
            }
        }
        first_time
    }

    /// Takes note of the pages that a source before this one has sent.
    pub(super) fn received(&mut self, at: usize, bitmap: &[u8]) {
        if let Some(block) = self.blocks.get_mut(at) {
            block.sent.insert_bits(bitmap);
        }
        self.owed = count_owed(&self.blocks);
    }

    /// The next page that was asked for, with its neighbours; those of a page of zeros are the zeros around it.
    pub(super) fn next_fault(&mut self, around: u64) -> Option<Vec<Piece>> {
        while let Some(PageAddress { block: at, page }) = self.faults.pop_front() {
            let mut pieces = Vec::new();
            let Some(content) = self.choose(at, page, &mut pieces) else { continue };
            let around = around.max(1);
            let start = page - page % around;
            for neighbour in start..start.saturating_add(around) {
                if self.content_of(at, neighbour) == Some(content) {
                    self.choose(at, neighbour, &mut pieces);
                }
            }
            return Some(pieces);
        }
        None
    }

    /// The next pages of the working set, `count` at most. None once there are no more.
    pub(super) fn next_of_working_set(&mut self, count: u64) -> Option<Vec<Piece>> {
        let mut pieces = Vec::new();
        let mut chosen = 0;
        while chosen < count.max(1)
            && let Some(PageAddress { block, page }) = self.working_set.next()
        {
            chosen += u64::from(self.choose(block, page, &mut pieces).is_some());
        }
        (!pieces.is_empty()).then_some(pieces)
    }

    /// The next pages with data that were not chosen: one run, `count` at most. None once there are no more.
    pub(super) fn next_of_rest(&mut self, count: u64) -> Option<Vec<Piece>> {
        loop {
            let PageAddress { block: at, page: from } = self.cursor;
            let block = self.blocks.get(at)?;
            let Some(first) = block.data.next_without(&block.sent, from) else {
                self.cursor = PageAddress { block: at + 1, page: 0 };
                continue;
            };
            let mut pieces = Vec::new();
            let mut page = first;
            while page - first < count.max(1) && self.content_of(at, page) == Some(Content::Data) {
                self.choose(at, page, &mut pieces);
                page += 1;
            }
            self.cursor.page = page;
            return Some(pieces);
        }
    }

    /// What a page holds that exists and was not chosen yet.
    fn content_of(&self, at: usize, page: u64) -> Option<Content> {
        let block = self.blocks.get(at)?;
        if page >= block.sent.pages() || block.sent.contains(page) {
            return None;
        }
        Some(if block.data.contains(page) { Content::Data } else { Content::Zero })
    }

    /// Chooses a page if nobody has: it joins the last piece where it continues that.
    fn choose(&mut self, at: usize, page: u64, pieces: &mut Vec<Piece>) -> Option<Content> {
        let content = self.content_of(at, page)?;
        self.blocks.get_mut(at)?.sent.insert(page);
        self.owed -= u64::from(content == Content::Data);
        match pieces.last_mut() {
            Some(last) if last.block == at && last.content == content && last.pages.end == page => {
                last.pages.end += 1;
            }
            _ => pieces.push(Piece { block: at, pages: page..page + 1, content }),
        }
        Some(content)
    }
}

fn count_owed(blocks: &[BlockPages]) -> u64 {
    blocks.iter().map(|block| block.data.count_without(&block.sent)).sum()
}
