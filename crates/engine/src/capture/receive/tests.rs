//! Streams that QEMU delivers, whole, late, cut off or not at all, into an image.

use std::io::Write;
use std::thread;

use vmrewind_store::{ImageId, Store};

use super::*;
use crate::error::ErrorKind;
use crate::replay::feed::Feed;
use crate::testing::context;
use crate::testing::images::{Block, content, image, machine, store, writer};

const BLOCKS: [Block<'_>; 2] = [("vga.vram", 8, &[2, 3]), ("pc.ram", 64, &[0, 5, 63])];
const LONG: Duration = Duration::from_secs(60);

/// The stream of a machine.
fn stream() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let (captured, image) = (machine(&BLOCKS), image(&store(dir.path()), &BLOCKS));
    let mut stream = Vec::new();
    let feed =
        Feed { ctx: &context(), image: &image, captured: &captured, present: None, fresh_memory: false };
    feed.write(&mut stream).unwrap();
    stream
}

/// A store, and a receiver into an image of it.
fn begin(dir: &Path, patience: Duration) -> (Store, Receiver) {
    let store = store(&dir.join("store"));
    let limits = Limits { require_description: false, ..Limits::default() };
    let receiver = Receiver::start(&dir.join("stream.sock"), writer(&store, &[]), limits, patience).unwrap();
    (store, receiver)
}

/// Delivers bytes to it, in pieces of so many.
fn deliver(dir: &Path, bytes: &[u8], pieces: usize) {
    let mut socket = UnixStream::connect(dir.join("stream.sock")).unwrap();
    for piece in bytes.chunks(pieces) {
        if socket.write_all(piece).is_err() {
            return;
        }
    }
}

/// Guards the guest's memory on its way into the store: each page in its place, however the stream is cut into pieces, and
/// what is shown meanwhile is what came.
#[test]
fn a_machine_is_received() {
    let stream = stream();
    for pieces in [1000, 1 << 20] {
        let dir = tempfile::tempdir().unwrap();
        let (store, receiver) = begin(dir.path(), LONG);
        deliver(dir.path(), &stream, pieces);
        assert!(receiver.gauge.wait_first_page(LONG));
        let gauge = Arc::clone(&receiver.gauge);
        let received = receiver.finish().unwrap();
        assert_eq!((gauge.bytes(), gauge.ram_bytes()), (stream.len() as u64, 72 << 12));
        assert!(gauge.ended() && gauge.covered_bytes() >= 5 << 12);
        assert_eq!(received.captured.blocks, machine(&BLOCKS).blocks);
        let summary = received.image.finish().unwrap();
        let image = store.open_image(&summary.id).unwrap();
        for (number, (_, pages, with_data)) in BLOCKS.iter().enumerate() {
            for page in 0..*pages {
                let mut found = [0; PAGE_SIZE];
                image.read_run(image.spaces()[number].index, page..page + 1, &mut found).unwrap();
                let expected = if with_data.contains(&page) { content(number, page) } else { [0; PAGE_SIZE] };
                assert_eq!(found, expected, "page {page} of block {number}");
            }
        }
    }
}

/// Guards against half a machine: wherever a stream is cut off there is an error, and no image.
#[test]
fn a_stream_that_is_cut_off_is_an_error() {
    let stream = stream();
    for len in (0..stream.len()).step_by(997).chain([stream.len() - 1]) {
        let dir = tempfile::tempdir().unwrap();
        let (store, receiver) = begin(dir.path(), LONG);
        deliver(dir.path(), &stream[..len], 1 << 20);
        let error = receiver.finish().map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Failed, "{len}: {error}");
        assert_eq!(store.images().unwrap(), [] as [ImageId; 0], "{len}");
    }
}

/// Guards a pause against a stream that is none: QEMU's connection is closed at once, and nobody waits for more.
#[test]
fn a_stream_that_is_none_ends_the_reception() {
    let dir = tempfile::tempdir().unwrap();
    let (_store, receiver) = begin(dir.path(), LONG);
    let socket = dir.path().to_owned();
    let sender = thread::spawn(move || deliver(&socket, &[0x51; 8 << 20], 1 << 16));
    assert!(!receiver.gauge.wait_first_page(LONG), "it ended without a page");
    let error = receiver.finish().map(drop).unwrap_err();
    assert!(error.to_string().contains("not understood"), "{error}");
    sender.join().unwrap();
}

/// Guards a capture of a QEMU that does not connect, and one that is given up while QEMU says nothing: both end.
#[test]
fn a_silent_qemu_is_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let (_store, receiver) = begin(dir.path(), Duration::from_millis(20));
    let error = receiver.finish().map(drop).unwrap_err();
    assert!(error.to_string().contains("did not connect"), "{error}");
    for connects in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let (store, receiver) = begin(dir.path(), LONG);
        let silent = connects.then(|| UnixStream::connect(dir.path().join("stream.sock")).unwrap());
        assert!(!receiver.gauge.wait_first_page(Duration::from_millis(5)));
        drop(receiver);
        drop(silent);
        assert!(!dir.path().join("stream.sock").exists(), "its socket is left");
        let left = std::fs::read_dir(dir.path().join("store")).unwrap().map(|it| it.unwrap().file_name());
        let parts: Vec<_> = left.filter(|name| name.to_string_lossy().ends_with(".image.part")).collect();
        assert!(parts.is_empty() && store.images().unwrap().is_empty(), "{parts:?}");
    }
}
