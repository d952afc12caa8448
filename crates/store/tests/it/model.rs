//! Random puts against a map: the image holds what the map holds, however it was written.

use std::collections::BTreeMap;

use proptest::prelude::*;
use vmrewind_store::{BlockSize, ImageReader, PAGE_SIZE, Page, Store, WriteOptions};
use vmrewind_testkit::storage::CrashStorage;

use crate::support::{id, open, page, read_page, runs};

const SPACES: usize = 3;
const PAGES: u64 = 24;

/// One call of the writer.
#[derive(Debug, Clone)]
enum Step {
    Page {
        space: usize,
        number: u64,
        tag: u8,
    },
    Zero {
        space: usize,
        number: u64,
    },
    ZeroContent {
        space: usize,
        number: u64,
    },
    /// Closes the batch as well, so that repeats meet in one batch and in several.
    Attach {
        len: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let place = || (0..SPACES, 0..PAGES);
    prop_oneof![
        6 => (place(), 1..=255_u8).prop_map(|((space, number), tag)| Step::Page { space, number, tag }),
        2 => place().prop_map(|(space, number)| Step::Zero { space, number }),
        1 => place().prop_map(|(space, number)| Step::ZeroContent { space, number }),
        1 => (0..10_000_usize).prop_map(|len| Step::Attach { len }),
    ]
}

/// What an image should hold.
#[derive(Debug, Default)]
struct Model {
    pages: BTreeMap<(usize, u64), u8>,
    attachments: Vec<usize>,
}

fn write(store: &Store, steps: &[Step]) -> Model {
    let mut model = Model::default();
    let mut writer = store.create_image(id("1"), WriteOptions::default()).expect("begun");
    let spaces: Vec<_> = (0..SPACES)
        .map(|n| writer.add_space(&format!("space {n}"), PAGES * 4096, BlockSize::Page4K).expect("a space"))
        .collect();
    for step in steps {
        match *step {
            Step::Page { space, number, tag } => {
                writer.put_page(spaces[space], number, &page(tag)).expect("put");
                model.pages.insert((space, number), tag);
            }
            Step::Zero { space, number } => {
                writer.put_zero(spaces[space], number).expect("put");
                model.pages.remove(&(space, number));
            }
            Step::ZeroContent { space, number } => {
                writer.put_page(spaces[space], number, &[0; PAGE_SIZE]).expect("put");
                model.pages.remove(&(space, number));
            }
            Step::Attach { len } => {
                let name = model.attachments.len().to_string();
                writer.attach(&name, &vec![0xa7; len]).expect("attached");
                model.attachments.push(len);
            }
        }
    }
    let summary = writer.finish().expect("finished");
    let distinct = model.pages.values().collect::<std::collections::BTreeSet<_>>().len();
    assert_eq!(summary.new_bytes, distinct as u64 * 4096);
    model
}

fn expected(model: &Model, space: usize, number: u64) -> Option<Page> {
    model.pages.get(&(space, number)).map(|&tag| page(tag))
}

fn check(reader: &ImageReader, model: &Model, cut: u64) {
    for (at, space) in reader.spaces().iter().enumerate() {
        let mut data_pages = Vec::new();
        let mut whole = Vec::new();
        for number in 0..PAGES {
            let content = expected(model, at, number);
            assert_eq!(read_page(reader, space.index, number), content, "page {number} of space {at}");
            data_pages.extend(content.map(|_| number));
            whole.extend_from_slice(&content.unwrap_or([0; PAGE_SIZE]));
        }
        let runs: Vec<_> = runs(reader, space.index);
        assert!(runs.windows(2).all(|pair| pair[0].end < pair[1].start), "runs are as long as they can be");
        assert_eq!(runs.into_iter().flatten().collect::<Vec<_>>(), data_pages);
        // The same in two reads, cut anywhere, into buffers that are not zero before.
        let mut buf = vec![0xee; whole.len()];
        let (front, back) = buf.split_at_mut(usize::try_from(cut).expect("small") * PAGE_SIZE);
        reader.read_run(space.index, 0..cut, front).expect("read");
        reader.read_run(space.index, cut..PAGES, back).expect("read");
        assert!(buf == whole, "bulk read of space {at}");
    }
    for (name, len) in reader.attachments() {
        assert_eq!(reader.attachment(name).expect("read"), vec![0xa7; usize::try_from(len).expect("small")]);
    }
    let lens: Vec<_> = reader.attachments().map(|(_, len)| usize::try_from(len).expect("small")).collect();
    assert_eq!(lens, model.attachments);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    // Slots are reused within a batch, across batches, after zeroing: no page may get another's bytes.
    #[test]
    fn an_image_holds_what_was_put_last(steps in prop::collection::vec(step(), 0..400), cut in 0..=PAGES) {
        let store = open(CrashStorage::new());
        let model = write(&store, &steps);
        check(&store.open_image(&id("1")).expect("opened"), &model, cut);
    }
}
