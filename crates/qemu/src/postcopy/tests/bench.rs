//! A migration in one process: a source and a simulated destination, one step at a time.

use std::time::Duration;

use proptest::prelude::*;
use vmrewind_testkit::postcopy::{Destination, Stage};

use super::{content, destination};
use crate::postcopy::{Batch, Content, DataRuns, FirstPages, Lane, Next, Options, Source};
use crate::stream::{Captured, PAGE_BYTES, PAGE_SIZE};

/// One step of a test, drawn at random.
#[derive(Debug, Clone)]
pub(super) enum Step {
    /// A processor of the guest touches a page.
    Touch(usize, u64, bool),
    /// A lane looks for work; what it gets it keeps.
    Take(bool),
    /// What is to be said is.
    Say,
    /// A batch that was kept is read and sent.
    Fill(usize),
    /// Some bytes of the return path arrive.
    Deliver(usize),
    /// It is found out which pages hold data.
    Know,
    /// Time goes by.
    Pass(u64),
    /// The source dies; another one takes over.
    Die,
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0_usize..3, 0_u64..200, any::<bool>()).prop_map(|(block, page, named)| Step::Touch(block, page, named)),
        6 => any::<bool>().prop_map(Step::Take),
        3 => Just(Step::Say),
        6 => (0_usize..8).prop_map(Step::Fill),
        4 => (1_usize..60).prop_map(Step::Deliver),
        2 => (0_u64..100).prop_map(Step::Pass),
        1 => Just(Step::Die),
        1 => Just(Step::Know),
    ]
}

/// A migration under way in one process.
pub(super) struct Bench<'a> {
    captured: &'a Captured,
    options: Options,
    data: Vec<DataRuns>,
    working_set: FirstPages,
    pub(super) source: Source<'a>,
    pub(super) destination: Destination,
    pub(super) kept: Vec<Batch>,
    /// The faults lane was told to say something, and has not yet.
    is_to_say: bool,
    pub(super) now: Duration,
    /// The block that was asked for last, by this source's knowledge.
    touched: Option<usize>,
    over: bool,
}

impl<'a> Bench<'a> {
    pub(super) fn new(captured: &'a Captured, data: Vec<DataRuns>, working_set: FirstPages) -> Self {
        Self::on_host(captured, data, working_set, 1)
    }

    /// A migration between QEMUs on a host of such pages, in pages of the guest.
    pub(super) fn on_host(
        captured: &'a Captured,
        data: Vec<DataRuns>,
        working_set: FirstPages,
        host_pages: u64,
    ) -> Self {
        let options = Options { host_page_bytes: host_pages * PAGE_BYTES, ..options() };
        let source = Source::fresh(captured, 0, working_set.clone(), options.clone()).unwrap();
        let destination = destination(captured, host_pages);
        Self {
            captured,
            options,
            data,
            working_set,
            source,
            destination,
            kept: Vec::new(),
            is_to_say: false,
            now: Duration::ZERO,
            touched: None,
            over: false,
        }
    }

    pub(super) fn apply(&mut self, step: &Step) {
        match step {
            Step::Touch(block, page, named) => {
                let block = block % self.captured.blocks.len();
                let page = page % self.captured.blocks[block].pages();
                let missing = !self.destination.pages.contains_key(&(block, page));
                if self.destination.stage == Stage::Listening && missing {
                    self.destination.ask(block, page, *named || self.touched != Some(block));
                    self.touched = Some(block);
                }
            }
            // One thread does what this lane gets: it looks for no other work before.
            Step::Take(true) if self.is_to_say => {}
            Step::Take(faults) => self.take(if *faults { Lane::Faults } else { Lane::Push }),
            Step::Say => self.say(),
            Step::Fill(at) => {
                if !self.kept.is_empty() {
                    let batch = self.kept.swap_remove(at % self.kept.len());
                    self.fill(&batch);
                }
            }
            Step::Deliver(count) => self.deliver(*count),
            Step::Know => self.know(),
            Step::Pass(ms) => self.now += Duration::from_millis(*ms),
            // QEMU ends with a source that dies before it can run; that is another test's.
            Step::Die if self.destination.runs && self.destination.stage == Stage::Listening => self.die(),
            Step::Die => {}
        }
    }

    pub(super) fn take(&mut self, lane: Lane) {
        match self.source.next(lane, self.now) {
            Next::Say => {
                assert_eq!(lane, Lane::Faults);
                self.is_to_say = true;
            }
            Next::Pages(batch) => self.kept.push(batch),
            Next::Over => self.over = true,
            Next::Wait(until) => assert!(until.is_none_or(|until| until > self.now)),
        }
    }

    pub(super) fn open(&mut self) {
        self.take(Lane::Faults);
        self.say();
    }

    fn say(&mut self) {
        if std::mem::take(&mut self.is_to_say) {
            let mut out = Vec::new();
            self.source.say(&mut out).unwrap();
            // The end is not due any more once the other lane took zeros of the working set, after all data was sent.
            assert!(!out.is_empty() || !self.kept.is_empty(), "nothing was due");
            self.receive(&out);
        }
    }

    pub(super) fn fill(&mut self, batch: &Batch) {
        let data: Vec<u8> = batch
            .pieces()
            .iter()
            .filter(|piece| piece.content == Content::Data)
            .flat_map(|piece| piece.pages.clone().flat_map(|page| self.stored(piece.block, page)))
            .collect();
        let mut out = Vec::new();
        self.source.fill(batch, &data, &mut out).unwrap();
        self.receive(&out);
    }

    /// Gives the destination what one call of the source gave: whole pieces, as another lane's can follow.
    fn receive(&mut self, out: &[u8]) {
        self.destination.receive(out).unwrap();
        assert!(self.destination.is_between_pieces());
        let (captured, destination) = (self.captured, &self.destination);
        if destination.runs {
            assert_eq!(destination.configuration, captured.configuration);
            assert_eq!(destination.devices, captured.device_state.without_eof());
            assert_eq!(destination.ram_section, Some(captured.ram_section_id));
        }
    }

    /// What the image holds.
    fn stored(&self, block: usize, page: u64) -> [u8; PAGE_SIZE] {
        let has_data = self.data[block].iter().any(|run| run.contains(&page));
        if has_data { content(block, page) } else { [0; PAGE_SIZE] }
    }

    pub(super) fn know(&mut self) {
        self.source.know(&self.data).unwrap();
    }

    pub(super) fn deliver(&mut self, count: usize) {
        let count = count.min(self.destination.answers.len());
        let bytes: Vec<u8> = self.destination.answers.drain(..count).collect();
        self.source.receive(&bytes, self.now).unwrap();
    }

    /// Batches that were not sent are lost with the source; so is what QEMU had said to it.
    fn die(&mut self) {
        self.kept.clear();
        self.is_to_say = false;
        self.touched = None;
        self.destination.lose_source();
        let working_set = self.working_set.clone();
        self.source = Source::recovering(self.captured, 0, working_set, self.options.clone()).unwrap();
    }

    pub(super) fn finish(&mut self) {
        self.know();
        for _ in 0..10_000 {
            if self.over {
                return;
            }
            self.take(Lane::Faults);
            self.take(Lane::Push);
            self.say();
            while let Some(batch) = self.kept.pop() {
                self.fill(&batch);
            }
            self.deliver(usize::MAX);
            self.now += Duration::from_millis(20);
        }
        panic!("it does not end: {:?}", self.source);
    }
}

pub(super) fn options() -> Options {
    Options { push_after: Duration::from_millis(50), ..Options::default() }
}
