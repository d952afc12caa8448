//! A whole migration in random orders, with deaths of the source at random moments.

use std::time::Duration;

use proptest::prelude::*;

use super::destination::{Destination, Stage};
use super::{captured, content, runs};
use crate::postcopy::{
    Batch, Content, DataRuns, FirstPages, Lane, Next, Options, PageAddress, Source, SourceError,
};
use crate::stream::{Captured, PAGE_SIZE};

/// One step of a test, drawn at random.
#[derive(Debug, Clone)]
enum Step {
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

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0_usize..3, 0_u64..100, any::<bool>()).prop_map(|(block, page, named)| Step::Touch(block, page, named)),
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
struct Bench<'a> {
    captured: &'a Captured,
    data: Vec<DataRuns>,
    working_set: FirstPages,
    source: Source<'a>,
    destination: Destination<'a>,
    kept: Vec<Batch>,
    /// The faults lane was told to say something, and has not yet.
    is_to_say: bool,
    now: Duration,
    /// The block that was asked for last, by this source's knowledge.
    touched: Option<usize>,
    over: bool,
}

impl<'a> Bench<'a> {
    fn new(captured: &'a Captured, data: Vec<DataRuns>, working_set: FirstPages) -> Self {
        let source = Source::fresh(captured, 0, working_set.clone(), options()).unwrap();
        let destination = Destination::new(captured);
        Self {
            captured,
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

    fn apply(&mut self, step: &Step) {
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

    fn take(&mut self, lane: Lane) {
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

    fn open(&mut self) {
        self.take(Lane::Faults);
        self.say();
    }

    fn say(&mut self) {
        if std::mem::take(&mut self.is_to_say) {
            let mut out = Vec::new();
            self.source.say(&mut out).unwrap();
            assert!(!out.is_empty(), "nothing was due");
            self.destination.receive(&out);
        }
    }

    fn fill(&mut self, batch: &Batch) {
        let data: Vec<u8> = batch
            .pieces()
            .iter()
            .filter(|piece| piece.content == Content::Data)
            .flat_map(|piece| piece.pages.clone().flat_map(|page| self.stored(piece.block, page)))
            .collect();
        let mut out = Vec::new();
        self.source.fill(batch, &data, &mut out).unwrap();
        self.destination.receive(&out);
    }

    /// What the image holds.
    fn stored(&self, block: usize, page: u64) -> [u8; PAGE_SIZE] {
        let has_data = self.data[block].iter().any(|run| run.contains(&page));
        if has_data { content(block, page) } else { [0; PAGE_SIZE] }
    }

    fn know(&mut self) {
        self.source.know(&self.data).unwrap();
    }

    fn deliver(&mut self, count: usize) {
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
        self.source = Source::recovering(self.captured, 0, working_set, options()).unwrap();
    }

    fn finish(&mut self) {
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

fn options() -> Options {
    Options { push_after: Duration::from_millis(50), ..Options::default() }
}

fn address(block: usize, page: u64) -> PageAddress {
    PageAddress { block, page }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Guards the guest's memory: in whatever order pages are asked for, read, sent and lost with a source, all data is
    /// there in the end, each page in its place and once (the destination looks at that), before the end is said.
    #[test]
    fn everything_comes_once(
        marks in proptest::collection::vec(proptest::collection::vec(any::<bool>(), 1..100), 1..4),
        working_set in proptest::collection::vec((0_usize..4, 0_u64..120), 0..40),
        steps in proptest::collection::vec(step(), 0..300),
    ) {
        let captured = captured(&marks.iter().map(|marks| marks.len() as u64).collect::<Vec<_>>());
        let data: Vec<DataRuns> = marks.iter().map(|marks| runs(marks)).collect();
        let mut early: Vec<_> = working_set.into_iter().map(|(block, page)| address(block, page)).collect();
        let later = early.split_off(early.len() / 2);
        let working_set = FirstPages { early, later };
        let mut bench = Bench::new(&captured, data, working_set);
        steps.iter().for_each(|step| bench.apply(step));
        bench.finish();
        prop_assert_eq!(bench.destination.stage, Stage::Ended);
        for (block, marks) in marks.iter().enumerate() {
            for (page, mark) in (0..).zip(marks) {
                let found = bench.destination.pages.get(&(block, page));
                let right = if *mark {
                    found == Some(&Some(content(block, page)))
                } else {
                    // A hole reads as zero once the migration is over.
                    matches!(found, None | Some(None))
                };
                prop_assert!(right, "page {} of block {}", page, block);
            }
        }
        let progress = bench.source.progress();
        prop_assert_eq!(progress.sent_pages, progress.total_pages);
    }
}

/// Brings a bench to where the guest can run.
fn running<'a>(captured: &'a Captured, data: Vec<DataRuns>, working_set: FirstPages) -> Bench<'a> {
    let mut bench = Bench::new(captured, data, working_set);
    bench.know();
    bench.open();
    bench.deliver(usize::MAX);
    assert!(bench.source.progress().can_run);
    bench
}

fn pages_of(batch: &Batch) -> Vec<(usize, u64)> {
    let pieces = batch.pieces().iter();
    pieces.flat_map(|piece| piece.pages.clone().map(|page| (piece.block, page))).collect()
}

/// Guards the guest's waiting time: what it asks for comes first, with its neighbours, and holds the push back; what it
/// needs early does not wait for the time of the push, the rest does.
#[test]
fn faults_come_before_the_working_set_and_that_before_the_rest() {
    let captured = captured(&[64]);
    let working_set = FirstPages {
        early: vec![address(0, 60), address(0, 50)],
        later: vec![address(0, 40), address(0, 60)],
    };
    let mut bench = running(&captured, vec![vec![0..64]], working_set);
    bench.destination.ask(0, 20, true);
    bench.deliver(usize::MAX);
    bench.take(Lane::Push);
    assert!(bench.kept.is_empty(), "pushed while somebody waits");
    bench.take(Lane::Faults);
    let fault: Vec<u64> = pages_of(&bench.kept[0]).into_iter().map(|(_, page)| page).collect();
    assert_eq!(fault, [20, 16, 17, 18, 19, 21, 22, 23], "the page itself goes first");
    bench.take(Lane::Push);
    assert_eq!(pages_of(&bench.kept[1]), [(0, 60), (0, 50)]);
    bench.take(Lane::Push);
    assert_eq!(bench.kept.len(), 2, "the rest waits for its time");
    bench.now = Duration::from_millis(50);
    bench.take(Lane::Push);
    assert_eq!(pages_of(&bench.kept[2]), [(0, 40)]);
    bench.take(Lane::Push);
    assert_eq!(pages_of(&bench.kept[3]), (0..16).map(|page| (0, page)).collect::<Vec<_>>());
    bench.finish();
}

/// Guards the time to the guest's first steps, whatever its size: it runs and gets what it asks for before it is known
/// which pages hold data, and nothing is said to be over.
#[test]
fn the_guest_runs_before_it_is_known_which_pages_hold_data() {
    let captured = captured(&[64]);
    let working_set = FirstPages { early: vec![address(0, 60)], later: vec![address(0, 2)] };
    let mut bench = Bench::new(&captured, vec![vec![0..4, 60..61]], working_set);
    bench.open();
    bench.deliver(usize::MAX);
    bench.destination.ask(0, 9, true);
    bench.destination.ask(0, 0, true);
    bench.deliver(usize::MAX);
    bench.now = Duration::from_secs(1);
    for _ in 0..8 {
        bench.take(Lane::Faults);
        bench.take(Lane::Push);
        bench.kept.drain(..).collect::<Vec<_>>().iter().for_each(|batch| bench.fill(batch));
    }
    let came: Vec<u64> = bench.destination.pages.keys().map(|(_, page)| *page).collect();
    assert_eq!(
        came,
        (0..16).chain([60]).collect::<Vec<_>>(),
        "no more than was asked for, with its neighbours"
    );
    assert_eq!(bench.destination.pages[&(0, 9)], None, "a page of zeros is sent as such");
    assert_eq!(bench.destination.stage, Stage::Listening);
    bench.finish();
    assert_eq!(bench.destination.stage, Stage::Ended);
    let unfit = Source::fresh(&captured, 0, FirstPages::default(), options()).unwrap().know(&[]);
    assert_eq!(unfit, Err(SourceError::Unfit { what: "its blocks are not those of its memory" }));
}

/// Guards the length of a migration: zeros are not pushed, but nobody waits for them in vain.
#[test]
fn zeros_are_answered_and_not_pushed() {
    let captured = captured(&[32]);
    let mut bench = running(&captured, vec![vec![0..4]], FirstPages::default());
    bench.destination.ask(0, 9, true);
    bench.deliver(usize::MAX);
    bench.take(Lane::Faults);
    let batch = bench.kept.pop().unwrap();
    assert_eq!(batch.data_bytes(), 0);
    bench.fill(&batch);
    bench.finish();
    let came: Vec<u64> = bench.destination.pages.keys().map(|(_, page)| *page).collect();
    assert_eq!(came, (0..4).chain(8..16).collect::<Vec<_>>(), "zeros around the one that was asked for");
}

/// The same page asked for again is on its way, and is not sent twice.
#[test]
fn a_page_asked_for_twice_is_sent_once() {
    let captured = captured(&[8, 8]);
    let mut bench = running(&captured, vec![vec![0..8], vec![2..3]], FirstPages::default());
    for _ in 0..2 {
        bench.destination.ask(1, 2, true);
        bench.destination.ask(1, 2, false);
        bench.deliver(usize::MAX);
    }
    bench.take(Lane::Faults);
    bench.take(Lane::Faults);
    assert_eq!(bench.kept.len(), 1);
    assert_eq!(bench.source.progress().asked_pages, 1);
    bench.finish();
}

/// What was asked for late is not part of a start, and what was asked for first is what its first steps wait for, on a
/// slow host too.
#[test]
fn requests_are_remembered_for_their_time_and_number() {
    let captured = captured(&[100]);
    for (early_pages, early) in [(0, 2), (3, 3)] {
        let mut bench = running(&captured, vec![vec![]], FirstPages::default());
        let few = Options { remember_pages: 4, early_pages, ..Options::default() };
        bench.source = Source::fresh(&captured, 0, FirstPages::default(), few).unwrap();
        bench.know();
        bench.source.say(&mut Vec::new()).unwrap();
        let asked = [(1, 10), (7, 260), (2, 261), (1, 262), (6, 5010), (3, 5011), (4, 300), (5, 300)];
        for (page, at_ms) in asked {
            bench.now = Duration::from_millis(at_ms);
            bench.destination.ask(0, page, true);
            bench.deliver(usize::MAX);
        }
        let mut expected = [1, 7, 2, 6].map(|page| address(0, page)).to_vec();
        let later = expected.split_off(early);
        assert_eq!(bench.source.remembered(), &FirstPages { early: expected, later });
    }
}

/// Guards the second restore: the guest does not ask for the neighbours that came with a page, and needs them all the
/// same. Those of zeros it gets when it asks.
#[test]
fn neighbours_with_data_are_remembered() {
    let captured = captured(&[100]);
    let mut bench = running(&captured, vec![vec![17..20]], FirstPages::default());
    bench.destination.ask(0, 18, true);
    bench.destination.ask(0, 40, true);
    bench.deliver(usize::MAX);
    bench.take(Lane::Faults);
    bench.take(Lane::Faults);
    let expected = [18, 40, 17, 19].map(|page| address(0, page)).to_vec();
    assert_eq!(bench.source.remembered(), &FirstPages { early: expected, later: Vec::new() });
}

/// Guards against taking QEMU's failure for success.
#[test]
fn an_early_end_is_an_error() {
    let captured = captured(&[8]);
    let shut = |status: u8| [0, 1, 0, 4, 0, 0, 0, status];
    let mut bench = running(&captured, vec![vec![0..8]], FirstPages::default());
    let error = bench.source.receive(&shut(0), Duration::ZERO).unwrap_err();
    assert_eq!(error, SourceError::GivenUp { what: "it ended before all was sent" });
    let mut bench = running(&captured, vec![vec![0..8]], FirstPages::default());
    let error = bench.source.receive(&shut(1), Duration::ZERO).unwrap_err();
    assert_eq!(error, SourceError::GivenUp { what: "it met an error" });
    let mut bench = running(&captured, vec![vec![0..8]], FirstPages::default());
    let error = bench.source.receive(&[0, 6, 0, 4, 0, 0, 0, 1], Duration::ZERO).unwrap_err();
    assert_eq!(error, SourceError::OutOfTurn { what: "the answer to RESUME" });
}

/// A machine whose pages can't be sent one by one is said to be so, before anything is sent.
#[test]
fn huge_pages_are_refused() {
    let mut captured = captured(&[1024]);
    captured.blocks[0].page_size = 2 << 20;
    let error = Source::fresh(&captured, 0, FirstPages::default(), Options::default()).unwrap_err();
    assert_eq!(error, SourceError::Unfit { what: "its memory is of huge pages" });
}

/// Pages of another length than the batch would shift all that follow.
#[test]
fn a_batch_of_the_wrong_length_is_refused() {
    let captured = captured(&[8]);
    let mut bench = running(&captured, vec![vec![0..8]], FirstPages::default());
    bench.now = Duration::from_secs(1);
    bench.take(Lane::Push);
    let batch = bench.kept.pop().unwrap();
    let error = bench.source.fill(&batch, &[0; PAGE_SIZE], &mut Vec::new()).unwrap_err();
    assert_eq!(error, SourceError::BatchLength { expected: 8 * PAGE_SIZE, found: PAGE_SIZE });
}
