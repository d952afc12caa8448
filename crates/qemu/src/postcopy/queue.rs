//! Which pages are to be sent, and in which order: asked for, working set, the rest. Each is chosen once.
//!
//! Pages are numbered as the guest has them, and chosen by host pages: all guest pages of one, in order and with nothing
//! between. A host page counts as data as soon as one page in it does.

use std::collections::VecDeque;
use std::ops::Range;
use std::vec::IntoIter;

use super::page_set::PageSet;
use super::source::{Content, Piece};
use super::{DataRuns, FirstPages, PageAddress};

/// The pages of one block.
#[derive(Debug)]
struct BlockPages {
    /// Those with data, once that is known; all are taken for such before.
    data: Option<PageSet>,
    /// Those that were chosen, or received before this source: whole host pages only.
    sent: PageSet,
    /// Those that were asked for.
    asked: PageSet,
}

/// What is still to be sent.
#[derive(Debug)]
pub(super) struct Backlog {
    blocks: Vec<BlockPages>,
    /// Guest pages in a page of the host. Each block has a multiple of it.
    host_pages: u64,
    /// The first pages of host pages that were asked for.
    faults: VecDeque<PageAddress>,
    early: IntoIter<PageAddress>,
    later: IntoIter<PageAddress>,
    /// Where the push of the rest is: everything with data before it was chosen.
    cursor: PageAddress,
    total: u64,
    /// Pages with data that were not chosen; about so many until it is known which ones these are.
    owed: u64,
}

impl Backlog {
    /// All pages of blocks of these lengths in pages, of which `total` hold data, to be chosen by `host_pages`.
    pub(super) fn new(lengths: &[u64], host_pages: u64, total: u64, working_set: FirstPages) -> Self {
        let empty = |pages: &u64| PageSet::new(*pages);
        let block = |pages| BlockPages { data: None, sent: empty(pages), asked: empty(pages) };
        let FirstPages { early, later } = working_set;
        Self {
            blocks: lengths.iter().map(block).collect(),
            host_pages: host_pages.max(1),
            faults: VecDeque::new(),
            early: early.into_iter(),
            later: later.into_iter(),
            cursor: PageAddress { block: 0, page: 0 },
            total,
            owed: total,
        }
    }

    /// Takes in which pages of each block hold data.
    pub(super) fn know(&mut self, data: &[DataRuns]) {
        self.total = 0;
        for (block, runs) in self.blocks.iter_mut().zip(data) {
            let mut pages = PageSet::new(block.sent.pages());
            runs.iter().for_each(|run| pages.insert_range(run.clone()));
            self.total += pages.count();
            block.data = Some(pages);
        }
        self.count();
    }

    fn count(&mut self) {
        let owed = |block: &BlockPages| block.data.as_ref().map(|data| data.count_without(&block.sent));
        if let Some(owed) = self.blocks.iter().map(owed).sum::<Option<u64>>() {
            self.owed = owed;
        }
    }

    /// Whether all pages with data were chosen.
    pub(super) fn is_empty(&self) -> bool {
        self.owed == 0 && self.blocks.iter().all(|block| block.data.is_some())
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

    /// Puts a request in; gives the pages of its host pages that were not asked for before.
    pub(super) fn ask(&mut self, at: usize, pages: Range<u64>) -> Vec<PageAddress> {
        let host_pages = self.host_pages;
        let Some(block) = self.blocks.get_mut(at) else { return Vec::new() };
        let mut first_time = Vec::new();
        let first = pages.start - pages.start % host_pages;
        for page in (first..pages.end.min(block.sent.pages())).step_by(step(host_pages)) {
            if block.asked.contains(page) {
                continue;
            }
            let whole = page..page + host_pages;
            block.asked.insert_range(whole.clone());
            first_time.extend(whole.map(|page| PageAddress { block: at, page }));
            if !block.sent.contains(page) {
                self.faults.push_back(PageAddress { block: at, page });
            }
        }
        first_time
    }

    /// Takes note of the pages that a source before this one has sent. A host page of which anything is missing is to be sent
    /// again, whole: what QEMU had of it went with the connection.
    pub(super) fn received(&mut self, at: usize, bitmap: &[u8]) {
        let host_pages = self.host_pages;
        if let Some(block) = self.blocks.get_mut(at) {
            let mut received = PageSet::new(block.sent.pages());
            received.insert_bits(bitmap);
            for page in (0..received.pages()).step_by(step(host_pages)) {
                let mut whole = page..page + host_pages;
                if whole.all(|page| received.contains(page)) {
                    block.sent.insert_range(page..page + host_pages);
                }
            }
        }
        self.count();
    }

    /// The next host page that was asked for, with its neighbours; those of one of zeros are the zeros around it.
    pub(super) fn next_fault(&mut self, around: u64) -> Option<Vec<Piece>> {
        while let Some(PageAddress { block: at, page }) = self.faults.pop_front() {
            let mut pieces = Vec::new();
            // It can have gone out since, as a neighbour or by the push.
            let Some(content) = self.choose(at, page, &mut pieces) else { continue };
            let around = around.max(1).next_multiple_of(self.host_pages);
            let start = page - page % around;
            for neighbour in (start..start.saturating_add(around)).step_by(step(self.host_pages)) {
                if self.content_of(at, neighbour) == Some(content) {
                    self.choose(at, neighbour, &mut pieces);
                }
            }
            return Some(pieces);
        }
        None
    }

    /// The next early pages of the working set, `count` at most. None once there are no more.
    pub(super) fn next_early(&mut self, count: u64) -> Option<Vec<Piece>> {
        self.next_of(|backlog| &mut backlog.early, count)
    }

    fn next_of(
        &mut self,
        list: fn(&mut Self) -> &mut IntoIter<PageAddress>,
        count: u64,
    ) -> Option<Vec<Piece>> {
        let mut pieces = Vec::new();
        let mut chosen = 0;
        while chosen < count.max(1)
            && let Some(PageAddress { block, page }) = list(self).next()
        {
            chosen += self.choose(block, page, &mut pieces).map_or(0, |_| self.host_pages);
        }
        (!pieces.is_empty()).then_some(pieces)
    }

    /// The next pages that were not chosen, `count` at most: what is left of the working set, then one run of pages with
    /// data. None where there are no more, or none that are known.
    pub(super) fn next_of_rest(&mut self, count: u64) -> Option<Vec<Piece>> {
        let pieces = self.next_of(|backlog| &mut backlog.later, count);
        if pieces.is_some() {
            return pieces;
        }
        loop {
            let PageAddress { block: at, page: from } = self.cursor;
            let block = self.blocks.get(at)?;
            let Some(first) = block.data.as_ref()?.next_without(&block.sent, from) else {
                self.cursor = PageAddress { block: at + 1, page: 0 };
                continue;
            };
            let mut pieces = Vec::new();
            let first = first - first % self.host_pages;
            let mut page = first;
            while page - first < count.max(1) && self.content_of(at, page) == Some(Content::Data) {
                self.choose(at, page, &mut pieces);
                page += self.host_pages;
            }
            // It never goes back: what is behind it was chosen, and what a fault chooses ahead of it is skipped.
            self.cursor.page = page;
            return Some(pieces);
        }
    }

    /// What the host page of a page holds, if it exists and was not chosen yet.
    fn content_of(&self, at: usize, page: u64) -> Option<Content> {
        let block = self.blocks.get(at)?;
        if page >= block.sent.pages() || block.sent.contains(page) {
            return None;
        }
        let has_data = self.host_page(page).any(|page| block.content_of(page) == Content::Data);
        Some(if has_data { Content::Data } else { Content::Zero })
    }

    /// Chooses the host page of a page, all of it, if nobody has: pages join the last piece where they continue that.
    fn choose(&mut self, at: usize, page: u64, pieces: &mut Vec<Piece>) -> Option<Content> {
        let host_content = self.content_of(at, page)?;
        let pages = self.host_page(page);
        let block = self.blocks.get_mut(at)?;
        for page in pages {
            let content = block.content_of(page);
            block.sent.insert(page);
            self.owed = self.owed.saturating_sub(u64::from(content == Content::Data));
            match pieces.last_mut() {
                Some(last) if last.block == at && last.content == content && last.pages.end == page => {
                    last.pages.end += 1;
                }
                _ => pieces.push(Piece { block: at, pages: page..page + 1, content }),
            }
        }
        Some(host_content)
    }

    /// The guest's pages in the host page of a page.
    fn host_page(&self, page: u64) -> Range<u64> {
        let first = page - page % self.host_pages;
        first..first + self.host_pages
    }
}

impl BlockPages {
    /// What a page holds, by what is known.
    fn content_of(&self, page: u64) -> Content {
        let zero = self.data.as_ref().is_some_and(|data| !data.contains(page));
        if zero { Content::Zero } else { Content::Data }
    }
}

fn step(host_pages: u64) -> usize {
    usize::try_from(host_pages).unwrap_or(usize::MAX)
}
