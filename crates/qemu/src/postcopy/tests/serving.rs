//! A whole migration in random orders, with deaths of the source at random moments.

use std::time::Duration;

use proptest::prelude::*;
use vmrewind_testkit::postcopy::{Refusal, Stage};

use super::bench::{Bench, options, step};
use super::{captured, content, destination, runs};
use crate::postcopy::{Batch, DataRuns, FirstPages, Lane, Next, Options, PageAddress, Source, SourceError};
use crate::stream::{Captured, PAGE_SIZE};

fn address(block: usize, page: u64) -> PageAddress {
    PageAddress { block, page }
}

/// Pages of the guest in pages of hosts with 4, 16 and 64 KiB.
const HOST_PAGES: [u64; 3] = [1, 4, 16];

/// What is in memory, of one block: runs with data or not, so that host pages are mixed, all data, or all zero.
fn marks() -> impl Strategy<Value = Vec<bool>> {
    let runs = proptest::collection::vec((any::<bool>(), 1_usize..30), 1..12);
    runs.prop_map(|runs| runs.into_iter().flat_map(|(mark, len)| vec![mark; len]).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    /// Guards the guest's memory: whatever the host's pages are, and in whatever order pages are asked for, read, sent and
    /// lost with a source, QEMU refuses nothing, all data is there in the end, each page in its place and once, before
    /// the end is said.
    #[test]
    fn everything_comes_once(
        host_pages in proptest::sample::select(&HOST_PAGES[..]),
        marks in proptest::collection::vec(marks(), 1..4),
        working_set in proptest::collection::vec((0_usize..4, 0_u64..240), 0..40),
        steps in proptest::collection::vec(step(), 0..300),
    ) {
        let mut marks = marks;
        for marks in &mut marks {
            marks.resize(marks.len().next_multiple_of(usize::try_from(host_pages).unwrap()), false);
        }
        let captured = captured(&marks.iter().map(|marks| marks.len() as u64).collect::<Vec<_>>());
        let data: Vec<DataRuns> = marks.iter().map(|marks| runs(marks)).collect();
        let mut early: Vec<_> = working_set.into_iter().map(|(block, page)| address(block, page)).collect();
        let later = early.split_off(early.len() / 2);
        let working_set = FirstPages { early, later };
        let mut bench = Bench::on_host(&captured, data, working_set, host_pages);
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

/// Guards hosts with large pages: one that is asked for comes whole and in order, its zeros included, and so does one of the
/// working set or the rest; those of zeros alone are not pushed.
#[test]
fn host_pages_are_sent_whole() {
    let captured = captured(&[96]);
    let working_set = FirstPages { early: vec![address(0, 37)], later: Vec::new() };
    let mut bench = Bench::on_host(&captured, vec![vec![20..21, 24..26, 38..39, 95..96]], working_set, 16);
    bench.know();
    bench.open();
    bench.deliver(usize::MAX);
    bench.destination.ask(0, 22, true);
    bench.deliver(usize::MAX);
    assert_eq!(bench.source.progress().asked_pages, 16);
    for (lane, first) in [(Lane::Faults, 16), (Lane::Push, 32)] {
        bench.take(lane);
        let batch = bench.kept.pop().unwrap();
        assert_eq!(pages_of(&batch), (first..first + 16).map(|page| (0, page)).collect::<Vec<_>>());
        bench.fill(&batch);
    }
    bench.finish();
    let came: Vec<u64> = bench.destination.pages.keys().map(|(_, page)| *page).collect();
    assert_eq!(came, (16..48).chain(80..96).collect::<Vec<_>>());
}

/// Guards the model, and shows what the option is for: QEMU on a host with large pages refuses a source that has never heard
/// of them, at each of the places where these matter.
#[test]
fn single_pages_are_refused_on_a_host_with_large_ones() {
    let captured = captured(&[64]);
    let mut source = Source::fresh(&captured, 64, FirstPages::default(), options()).unwrap();
    let mut opening = Vec::new();
    source.say(&mut opening).unwrap();
    let mut refusing = destination(&captured, 16);
    assert_eq!(refusing.receive(&opening), Err(Refusal::PageSizes));
    // The same opening as if ADVISE and DISCARD were right.
    let mut bench = running_on(&captured, vec![vec![0..64]], 16);
    source.receive(&[0, 2, 0, 4, 0, 0, 0, 3], Duration::ZERO).unwrap();
    let mut part = |page: u64| {
        let start = (page << 12).to_be_bytes();
        let request = [&[0, 3, 0, 17], start.as_slice(), &4096_u32.to_be_bytes(), b"\x04ram0"].concat();
        source.receive(&request, Duration::ZERO).unwrap();
        let Next::Pages(batch) = source.next(Lane::Faults, Duration::ZERO) else { panic!("no pages") };
        let mut out = Vec::new();
        source.fill(&batch, &vec![1; batch.data_bytes()], &mut out).unwrap();
        out
    };
    let (here, elsewhere) = (part(0), part(40));
    assert_eq!(bench.destination.receive(&here), Ok(()), "half a host page is waited for");
    assert!(bench.destination.pages.is_empty());
    assert_eq!(bench.destination.receive(&elsewhere), Err(Refusal::NonSameHostPage));
}

/// Guards a recovery on a host with large pages: one of which QEMU had not everything is sent again, whole.
#[test]
fn a_host_page_that_was_cut_off_is_sent_again() {
    let captured = captured(&[32]);
    let large = Options { host_page_bytes: 64 << 10, ..options() };
    let mut source = Source::recovering(&captured, 32, FirstPages::default(), large).unwrap();
    source.know(&[runs(&[true; 32])]).unwrap();
    source.say(&mut Vec::new()).unwrap();
    let bits = [0xff, 0x7f, 0xff, 0xff, 0, 0, 0, 0];
    let end = 0x0123_4567_89ab_cdef_u64.to_be_bytes();
    let bitmap = [&[0, 5, 0, 5], b"\x04ram0".as_slice(), &8_u64.to_be_bytes(), &bits, &end].concat();
    source.receive(&bitmap, Duration::ZERO).unwrap();
    source.say(&mut Vec::new()).unwrap();
    source.receive(&[0, 6, 0, 4, 0, 0, 0, 1], Duration::ZERO).unwrap();
    let Next::Pages(batch) = source.next(Lane::Push, Duration::from_secs(1)) else { panic!("no pages") };
    assert_eq!(pages_of(&batch), (0..16).map(|page| (0, page)).collect::<Vec<_>>());
    assert_eq!(source.next(Lane::Push, Duration::from_secs(1)), Next::Wait(None));
}

/// What can't be put together from whole host pages is said to be so, before anything is sent.
#[test]
fn memory_of_parts_of_host_pages_is_refused() {
    let captured = captured(&[32, 17]);
    let on_host = |host_page_bytes| {
        let options = Options { host_page_bytes, ..options() };
        Source::fresh(&captured, 0, FirstPages::default(), options).map(drop)
    };
    assert_eq!(on_host(4096), Ok(()));
    let parts = SourceError::Unfit { what: "its memory does not consist of whole pages of this host" };
    assert_eq!(on_host(16 << 10), Err(parts));
    for odd in [0, 2048, 12 << 10] {
        let odd = on_host(odd).unwrap_err();
        assert_eq!(odd, SourceError::Unfit { what: "this host's page size does not fit the guest's" });
    }
}

/// Brings a bench to where the guest can run.
fn running<'a>(captured: &'a Captured, data: Vec<DataRuns>, working_set: FirstPages) -> Bench<'a> {
    run(Bench::new(captured, data, working_set))
}

fn running_on(captured: &Captured, data: Vec<DataRuns>, host_pages: u64) -> Bench<'_> {
    run(Bench::on_host(captured, data, FirstPages::default(), host_pages))
}

fn run(mut bench: Bench<'_>) -> Bench<'_> {
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
