//! A whole migration in random orders, with deaths of the source at random moments.

use std::time::Duration;

use proptest::prelude::*;

use super::bench::{Bench, options, step};
use super::destination::Stage;
use super::{captured, content, runs};
use crate::postcopy::{Batch, DataRuns, FirstPages, Lane, Options, PageAddress, Source, SourceError};
use crate::stream::{Captured, PAGE_SIZE};

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
