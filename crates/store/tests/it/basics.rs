//! The life of an image in a folder: written, listed, read, verified, removed, swept.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};

use vmrewind_store::{
    BlockSize, ImageId, ImageReader, ImageWriter, PAGE_SIZE, Page, Part, Store, StoreError, WriteOptions,
};

use crate::support::{check_sample, folder_store, id, page, small_queue, space, write_sample};

// The whole promise at once: what was put last is what is read, in one piece, from a fresh store.
#[test]
fn an_image_reads_back_as_it_was_put() {
    let (folder, store) = folder_store();
    let written = write_sample(&store, &id("a1")).expect("written");
    assert_eq!(store.images().expect("listed"), [id("a1")]);
    let reader = store.open_image(&id("a1")).expect("opened");
    check_sample(&reader);
    assert_eq!(reader.summary(), written);
    assert_eq!((written.bytes, written.zero_bytes, written.new_bytes), (9 * 4096, 6 * 4096, 3 * 4096));
    assert_eq!(written.stored_bytes, bytes_of(&folder, &[".image", ".pack"]));
    reader.verify(&mut |_, _| ControlFlow::Continue(())).expect("undamaged");
}

/// Adds up the lengths of the files whose names end so.
fn bytes_of(folder: &tempfile::TempDir, suffixes: &[&str]) -> u64 {
    let entries = std::fs::read_dir(folder.path()).expect("a folder").map(|entry| entry.expect("an entry"));
    entries
        .filter(|entry| {
            let name = entry.file_name().into_string().expect("text");
            suffixes.iter().any(|suffix| name.ends_with(suffix))
        })
        .map(|entry| entry.metadata().expect("metadata").len())
        .sum()
}

fn names(folder: &tempfile::TempDir) -> Vec<String> {
    let entries = std::fs::read_dir(folder.path()).expect("a folder").map(|entry| entry.expect("an entry"));
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().into_string().expect("text")).collect();
    names.sort_unstable();
    names
}

// Capture sends pages many times: what counts as new is what the image has in the end, each content once.
#[test]
fn repeated_and_zeroed_pages_are_not_counted() {
    let (_folder, store) = folder_store();
    let mut writer = store.create_image(id("1"), WriteOptions::default()).expect("begun");
    let ram = writer.add_space("ram", 64 * 4096, BlockSize::Page4K).expect("a space");
    for round in 1..50_u8 {
        for number in 0..64 {
            writer.put_page(ram, number, &numbered(round, number)).expect("put");
        }
        for number in 0..32 {
            writer.put_page(ram, number, &[0; PAGE_SIZE]).expect("put");
        }
        writer.put_page(ram, 63, &numbered(round, 62)).expect("put");
    }
    let summary = writer.finish().expect("finished");
    assert_eq!((summary.zero_bytes, summary.new_bytes), (32 * 4096, 31 * 4096));
}

// What the queue holds when it is full, and one image beside another, must not change what is written.
#[test]
fn images_written_at_once_do_not_mix() {
    let (_folder, store) = folder_store();
    let pages = 3000_u64;
    std::thread::scope(|scope| {
        for tag in [1_u8, 2, 3] {
            let store = store.clone();
            scope.spawn(move || {
                let options = small_queue();
                let mut writer = store.create_image(id(&format!("{tag}")), options).expect("begun");
                let ram = writer.add_space("ram", pages * 4096, BlockSize::Page4K).expect("a space");
                for number in 0..pages {
                    writer.put_page(ram, number, &numbered(tag, number)).expect("put");
                }
                writer.attach("large", &vec![tag; 3 << 20]).expect("attached");
                writer.finish().expect("finished");
            });
        }
    });
    for tag in [1_u8, 2, 3] {
        let reader = store.open_image(&id(&format!("{tag}"))).expect("opened");
        let ram = space(&reader, "ram");
        let mut buf = vec![0; 3000 * PAGE_SIZE];
        reader.read_run(ram, 0..pages, &mut buf).expect("read");
        for (number, content) in (0..).zip(buf.as_chunks::<PAGE_SIZE>().0) {
            assert_eq!(*content, numbered(tag, number));
        }
        assert_eq!(reader.attachment("large").expect("read"), vec![tag; 3 << 20]);
    }
}

fn numbered(tag: u8, number: u64) -> Page {
    let mut content = page(tag);
    content[100..108].copy_from_slice(&number.to_le_bytes());
    content
}

// A writer that is given up leaves nothing, and its id can be used again.
#[test]
fn a_dropped_writer_leaves_nothing() {
    let (folder, store) = folder_store();
    let mut writer = store.create_image(id("1"), WriteOptions::default()).expect("begun");
    let ram = writer.add_space("ram", 4096 * 4096, BlockSize::Page4K).expect("a space");
    for number in 0..2000 {
        writer.put_page(ram, number, &page(1)).expect("put");
    }
    assert!(store.images().expect("listed").is_empty(), "not listed while it is written");
    drop(writer);
    assert_eq!(names(&folder), ["lock"]);
    write_sample(&store, &id("1")).expect("the id is free");
}

// An image is immutable: its id can't be taken by another, neither when it is whole nor while it is written.
#[test]
fn an_id_is_used_once() {
    let (_folder, store) = folder_store();
    let writer = store.create_image(id("1"), WriteOptions::default()).expect("begun");
    assert!(matches!(write_sample(&store, &id("1")), Err(StoreError::Exists { .. })));
    writer.finish().expect("finished: the attempt did not disturb it");
    assert!(matches!(write_sample(&store, &id("1")), Err(StoreError::Exists { .. })));
    assert!(store.open_image(&id("1")).expect("opened").spaces().is_empty());
    assert!(!store.latched(), "a taken id is no failed write");
}

// Recovery repeats its steps: removing twice is harmless. What is being read cannot go: its pages would with the next gc.
#[test]
fn removing_is_idempotent_and_refused_while_a_reader_is_open() {
    let (folder, store) = folder_store();
    write_sample(&store, &id("1")).expect("written");
    let len = std::fs::metadata(folder.path().join("1.image")).expect("a file").len();
    let reader = store.open_image(&id("1")).expect("opened");
    assert!(matches!(store.remove_image(&id("1")), Err(StoreError::InUse { .. })));
    check_sample(&reader);
    drop(reader);
    assert_eq!(store.remove_image(&id("1")).expect("removed"), len);
    assert_eq!(store.remove_image(&id("1")).expect("again"), 0);
    assert!(matches!(store.open_image(&id("1")), Err(StoreError::NotFound { .. })));
}

// A sweep removes what a killed writer left, and only that: not what is being written, not what is none of ours.
#[test]
fn sweep_removes_only_what_has_lost_its_writer() {
    let (folder, store) = folder_store();
    write_sample(&store, &id("1")).expect("written");
    let writer = store.create_image(id("2"), WriteOptions::default()).expect("begun");
    let parts =
        ["3.image.part", "3-0.pack.part", "3.spill.part", "4.image.part", "X.image.part", "notes.txt.part"];
    for name in parts {
        std::fs::write(folder.path().join(name), b"abc").expect("a file");
    }
    let report = store.sweep(|image| *image == id("4")).expect("swept");
    assert_eq!((report.removed, report.freed_bytes, report.kept), (vec![id("3")], 9, 2));
    writer.finish().expect("the live writer was left alone");
    assert_eq!(store.images().expect("listed"), [id("1"), id("2")]);
    for name in ["4.image.part", "notes.txt.part", "X.image.part"] {
        assert!(folder.path().join(name).exists(), "{name}");
    }
    // A part file without a writer does not block its id.
    write_sample(&store, &id("4")).expect("written");
}

// A scheduled sweep meets captures at every moment of theirs, file creation included: none may lose its file.
#[test]
fn sweeps_beside_writers_take_nothing_from_them() {
    let (_folder, store) = folder_store();
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !is_done.load(Ordering::Relaxed) {
                    let report = store.sweep(|_| false).expect("swept");
                    assert_eq!(
                        report.freed_bytes, 0,
                        "only files that nothing was written to yet: {report:?}"
                    );
                }
            });
        }
        for number in 0..150_u128 {
            let image = ImageId::from_bytes(number.to_be_bytes());
            write_sample(&store, &image).expect("written");
        }
        is_done.store(true, Ordering::Relaxed);
    });
    assert_eq!(store.images().expect("listed").len(), 150);
}

// A capture and a page server hand these to threads of theirs.
#[test]
fn handles_can_be_sent_and_shared() {
    fn is_send<T: Send>() {}
    fn is_sync<T: Sync>() {}
    is_send::<ImageWriter>();
    is_send::<ImageReader>();
    is_sync::<ImageReader>();
    is_sync::<Store>();
}

// Wrong requests are told to the caller and spoil nothing.
#[test]
fn wrong_requests_are_refused_and_harmless() {
    let (_folder, store) = folder_store();
    let mut writer = store.create_image(id("1"), WriteOptions::default()).expect("begun");
    let ram = writer.add_space("ram", 2 * 4096, BlockSize::Page4K).expect("a space");
    let is_invalid = |result: Result<(), StoreError>| matches!(result, Err(StoreError::Invalid { .. }));
    assert!(is_invalid(writer.put_page(ram, 2, &page(1))));
    assert!(is_invalid(writer.put_zero(ram, u64::MAX)));
    for (name, len) in [("ram", 4096), ("", 4096), (&"x".repeat(256), 4096), ("odd", 100), ("huge", 1 << 44)]
    {
        assert!(is_invalid(writer.add_space(name, len, BlockSize::Page4K).map(|_| ())), "{name} {len}");
    }
    writer.attach("a", b"1").expect("attached");
    assert!(is_invalid(writer.attach("a", b"2")));
    writer.finish().expect("finished");

    let reader = store.open_image(&id("1")).expect("opened");
    let ram = space(&reader, "ram");
    let mut buf = [0; 2 * PAGE_SIZE];
    assert!(is_invalid(reader.read_run(ram, 0..3, &mut buf)));
    assert!(is_invalid(reader.read_run(ram, 0..1, &mut buf)));
    assert!(is_invalid(reader.read_run(ram, u64::MAX..u64::MAX, &mut [])));
    assert!(is_invalid(reader.attachment("b").map(|_| ())));
    assert_eq!(reader.attachment("a").expect("read"), b"1");
}

// A file moved to another id is not that image, even though all its hashes are right.
#[test]
fn an_image_under_a_wrong_name_is_damaged() {
    let (folder, store) = folder_store();
    write_sample(&store, &id("1")).expect("written");
    std::fs::rename(folder.path().join("1.image"), folder.path().join("2.image")).expect("renamed");
    let error = store.open_image(&id("2")).expect_err("refused");
    assert!(matches!(error, StoreError::Damaged { what: Part::Header, .. }), "{error}");
    assert_eq!(error.to_string(), "image 2 is damaged in its header: it belongs to image 1");
}

// A long verification reports how far it is, ends at the total, and can be interrupted.
#[test]
fn verify_reports_progress_and_stops_on_request() {
    let (_folder, store) = folder_store();
    write_sample(&store, &id("1")).expect("written");
    let reader = store.open_image(&id("1")).expect("opened");
    let mut steps = Vec::new();
    reader
        .verify(&mut |done, total| {
            steps.push((done, total));
            ControlFlow::Continue(())
        })
        .expect("undamaged");
    let total = 3 * 4096 + 5000;
    // One leaf, two attachments, of which one is empty.
    assert_eq!(steps, [(3 * 4096, total), (total, total), (total, total)]);
    let stopped = reader.verify(&mut |_, _| ControlFlow::Break(()));
    assert!(matches!(stopped, Err(StoreError::Stopped { .. })));
}
