//! Images with parents, repeats and shared content, against a model; read in every way there is.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use proptest::prelude::*;
use vmrewind_store::{
    BlockSize, DirStorage, ImageId, ImageReader, ImageSummary, PAGE_SIZE, Page, SpaceIndex, Store,
    WriteOptions,
};
use vmrewind_testkit::storage::{CrashStorage, SeededRandom};

use crate::support::{folder_store, id, open, read_page, space};

/// More than a leaf, so that trees have two levels.
const PAGES: u64 = 1500;

/// Stretches of pages that are put with the same kind of content, in order.
#[derive(Debug, Clone)]
enum Step {
    /// Pages of their own content each.
    Own {
        first: u64,
        count: u64,
        tag: u32,
    },
    /// Pages that are all the same.
    Same {
        first: u64,
        count: u64,
        tag: u32,
    },
    Zero {
        first: u64,
        count: u64,
    },
    /// What other pages hold at this moment.
    Copy {
        first: u64,
        count: u64,
        from: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let stretch = || (0..PAGES, 1..120_u64);
    prop_oneof![
        4 => (stretch(), 1..6_u32).prop_map(|((first, count), tag)| Step::Own { first, count, tag }),
        1 => (stretch(), 1..4_u32).prop_map(|((first, count), tag)| Step::Same { first, count, tag }),
        1 => stretch().prop_map(|(first, count)| Step::Zero { first, count }),
        1 => (stretch(), 0..PAGES).prop_map(|((first, count), from)| Step::Copy { first, count, from }),
    ]
}

/// What a page holds: equal values, equal bytes.
type Content = (u32, u64);

fn bytes((tag, number): Content) -> Page {
    let mut page = [0; PAGE_SIZE];
    let mut random = SeededRandom::new(u64::from(tag) << 32 | number);
    for word in page.as_chunks_mut::<8>().0.iter_mut().take(40) {
        *word = random.next_u64().to_le_bytes();
    }
    page
}

/// What was put: contents by page, and all contents that were ever put.
#[derive(Debug, Default, Clone)]
struct Model {
    pages: BTreeMap<u64, Content>,
    put: BTreeSet<Content>,
}

impl Model {
    fn apply(&mut self, step: &Step, put: &mut impl FnMut(u64, Option<Content>)) {
        let (Step::Own { first, count, .. }
        | Step::Same { first, count, .. }
        | Step::Zero { first, count }
        | Step::Copy { first, count, .. }) = *step;
        for page in first..(first + count).min(PAGES) {
            let content = match *step {
                Step::Own { tag, .. } => Some((tag, page)),
                Step::Same { tag, .. } => Some((tag, 0)),
                Step::Zero { .. } => None,
                Step::Copy { from, .. } => self.pages.get(&((from + page) % PAGES)).copied(),
            };
            put(page, content);
            match content {
                Some(content) => self.pages.insert(page, content),
                None => self.pages.remove(&page),
            };
            self.put.extend(content);
        }
    }
}

/// Writes a generation: what the model holds so far, as a capture sends all memory, then the steps.
fn write(
    store: &Store,
    image: u128,
    parent: Option<u128>,
    model: &mut Model,
    steps: &[Step],
) -> ImageSummary {
    let number = |n: u128| ImageId::from_bytes(n.to_be_bytes());
    let options =
        WriteOptions { parent: parent.map(number), queue_bytes: 1 << 20, ..WriteOptions::default() };
    let mut writer = store.create_image(number(image), options).expect("begun");
    let ram = writer.add_space("ram", PAGES * 4096, BlockSize::Page4K).expect("a space");
    for (page, content) in &model.pages {
        writer.put_page(ram, *page, &bytes(*content)).expect("put");
    }
    for step in steps {
        model.apply(step, &mut |page, content| match content {
            Some(content) => writer.put_page(ram, page, &bytes(content)).expect("put"),
            None => writer.put_zero(ram, page).expect("put"),
        });
    }
    writer.finish().expect("finished")
}

/// Reads an image page by page, in runs, in bulk, as a flat file.
fn check(reader: &ImageReader, model: &BTreeMap<u64, Content>, cuts: (u64, u64)) {
    let ram = space(reader, "ram");
    let whole: Vec<u8> = (0..PAGES)
        .flat_map(|page| model.get(&page).map_or([0; PAGE_SIZE], |content| bytes(*content)))
        .collect();
    for page in (0..PAGES).step_by(7) {
        assert_eq!(
            read_page(reader, ram, page),
            model.get(&page).map(|content| bytes(*content)),
            "page {page}"
        );
    }
    let (start, end) = (cuts.0.min(cuts.1), cuts.0.max(cuts.1));
    let part = &whole[offset(start)..offset(end)];
    let mut run = vec![0xee; part.len()];
    reader.read_run(ram, start..end, &mut run).expect("read");
    assert!(run == part, "pages {start}..{end}");
    assert!(streamed(reader, ram, start..end) == part, "stream of {start}..{end}");
    assert!(streamed(reader, ram, 0..PAGES) == whole, "stream of all");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("flat");
    reader.write_flat(ram, &path, &mut |_, _| ControlFlow::Continue(())).expect("written");
    assert!(std::fs::read(&path).expect("a file") == whole, "flat file");
    reader.verify(&mut |_, _| ControlFlow::Continue(())).expect("undamaged");
    assert_eq!(reader.data_bytes(), model.len() as u64 * 4096);
}

fn offset(page: u64) -> usize {
    usize::try_from(page).expect("small") * PAGE_SIZE
}

fn streamed(reader: &ImageReader, ram: SpaceIndex, pages: std::ops::Range<u64>) -> Vec<u8> {
    let start = pages.start;
    let mut found = vec![0; offset(pages.end - pages.start)];
    let mut next = start;
    let end: ControlFlow<()> = reader
        .stream(ram, pages, |run, data| {
            assert!(run.start >= next && data.len() == offset(run.end - run.start), "in order, once");
            found[offset(run.start - start)..offset(run.end - start)].copy_from_slice(data);
            next = run.end;
            ControlFlow::Continue(())
        })
        .expect("readable");
    assert!(end.is_continue());
    found
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    // Whatever a page is found by (the parent, this image, the index), it must be that page; and what counts as new is
    // exactly what was never put before.
    #[test]
    fn every_generation_holds_what_was_put_last(
        generations in prop::collection::vec((prop::collection::vec(step(), 1..8), any::<bool>()), 1..5),
        cuts in (0..=PAGES, 0..=PAGES),
    ) {
        let store = open(CrashStorage::new());
        let mut model = Model::default();
        let mut images = Vec::new();
        for (number, (steps, has_parent)) in (0_u128..).zip(&generations) {
            let parent = number.checked_sub(1).filter(|_| *has_parent);
            let before = model.put.clone();
            let summary = write(&store, number, parent, &mut model, steps);
            let held: BTreeSet<Content> = model.pages.values().copied().collect();
            prop_assert_eq!(summary.new_bytes, held.difference(&before).count() as u64 * 4096);
            prop_assert_eq!(summary.zero_bytes, (PAGES - model.pages.len() as u64) * 4096);
            images.push(model.pages.clone());
        }
        for (number, pages) in (0_u128..).zip(&images) {
            let reader = store.open_image(&ImageId::from_bytes(number.to_be_bytes())).expect("opened");
            check(&reader, pages, cuts);
        }
    }
}

// Several captures at once into one store, of guests that have much in common: none may get another's page, and what they
// share is stored about once when they come after each other.
#[test]
fn captures_at_once_share_a_store() {
    let (_folder, store) = folder_store();
    let model = |salt: u32| -> BTreeMap<u64, Content> {
        (0..PAGES).map(|page| (page, if page % 3 == 0 { (salt, page) } else { (99, page % 500) })).collect()
    };
    let capture = |number: u32, parent: Option<u128>| {
        let mut held = Model { pages: model(number), put: BTreeSet::new() };
        let summary = write(&store, u128::from(number), parent, &mut held, &[]);
        let reader =
            store.open_image(&ImageId::from_bytes(u128::from(number).to_be_bytes())).expect("opened");
        check(&reader, &held.pages, (10, 1100));
        summary
    };
    std::thread::scope(|scope| {
        for number in 1..4 {
            scope.spawn(move || capture(number, None));
        }
    });
    let later = capture(4, Some(1));
    assert_eq!(later.new_bytes, PAGES / 3 * 4096, "the common part was there");
}

// A capture must not wait while there is room in the spill file, and what went through it must come out right.
#[test]
fn blocks_that_were_spilled_are_right() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = open(DirStorage::new(folder.path()).expect("a folder"));
    let options = WriteOptions { parent: None, queue_bytes: 0, spill_bytes: 1 << 30 };
    let mut writer = store.create_image(id("1"), options).expect("begun");
    let ram = writer.add_space("ram", PAGES * 4096, BlockSize::Page4K).expect("a space");
    let mut held = BTreeMap::new();
    for round in 0..6 {
        for page in 0..PAGES {
            writer.put_page(ram, page, &bytes((round, page))).expect("put");
            held.insert(page, (round, page));
        }
    }
    writer.finish().expect("finished");
    check(&store.open_image(&id("1")).expect("opened"), &held, (3, 4));
    let left: Vec<_> = std::fs::read_dir(folder.path())
        .expect("listed")
        .map(|entry| entry.expect("an entry").file_name())
        .filter(|name| name.to_string_lossy().contains("spill"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

// Disks have larger blocks, and an end that is not a block's.
#[test]
fn large_blocks_and_odd_ends_read_back() {
    let (_folder, store) = folder_store();
    let len = 5000 * 65536 + 512 * 3;
    let mut writer = store.create_image(id("1"), WriteOptions::default()).expect("begun");
    let disk = writer.add_space("disk", len, BlockSize::Block64K).expect("a space");
    let block = |number: u64| bytes((1, number)).repeat(16);
    for number in [0, 1, 1023, 1024, 4999] {
        writer.put_block(disk, number, &block(number)).expect("put");
    }
    writer.put_block(disk, 5000, &block(5000)[..1536]).expect("the end");
    assert!(writer.put_block(disk, 5000, &block(5000)[..1024]).is_err());
    assert!(writer.put_block(disk, 5001, &block(5001)).is_err());
    writer.finish().expect("finished");

    let reader = store.open_image(&id("1")).expect("opened");
    let runs: Vec<_> = reader.data_runs(disk).collect::<Result<_, _>>().expect("readable");
    assert_eq!(runs, [0..2, 1023..1025, 4999..5001]);
    let mut buf = vec![0xee; 65536 * 3];
    reader.read_run(disk, 4998..5001, &mut buf).expect("read");
    let end = [block(5000)[..1536].to_vec(), vec![0; 65536 - 1536]].concat();
    assert!(buf == [vec![0; 65536], block(4999), end].concat());
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("flat");
    let mut told = Vec::new();
    reader
        .write_flat(disk, &path, &mut |done, total| {
            told.push((done, total));
            ControlFlow::Continue(())
        })
        .expect("written");
    assert_eq!(told.last(), Some(&(6 * 65536, 6 * 65536)));
    let metadata = std::fs::metadata(&path).expect("a file");
    assert_eq!(metadata.len(), len);
    let allocated = std::os::unix::fs::MetadataExt::blocks(&metadata) * 512;
    assert!(allocated < 1 << 20, "holes where nothing is: {allocated}");
    let stopped = reader.write_flat(disk, &folder.path().join("other"), &mut |_, _| ControlFlow::Break(()));
    assert!(matches!(stopped, Err(vmrewind_store::StoreError::Stopped { .. })));
    assert!(!folder.path().join("other").exists(), "half a file is of no use");
}
