//! What the fuzz target `migration_stream` checks; run over the corpus and its mutations in the tests too.
//!
//! Asserts, so not for use outside of tests and fuzzing.

use super::{
    Captured, DecodeError, Decoder, EncodeError, Encoder, Limits, PAGE_SIZE, RamBlock, Sink, StreamError,
};

/// Something that the decoder handed out.
#[derive(Clone, PartialEq, Eq)]
pub enum Event {
    /// [`Sink::blocks`].
    Blocks(Vec<RamBlock>),
    /// [`Sink::page`].
    Page(usize, u64, Box<[u8; PAGE_SIZE]>),
    /// [`Sink::zero`].
    Zero(usize, u64),
}

impl std::fmt::Debug for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Blocks(blocks) => f.debug_tuple("Blocks").field(blocks).finish(),
            Self::Page(block, page, data) => write!(f, "Page({block}, {page}, {:02x?}...)", &data[..4]),
            Self::Zero(block, page) => write!(f, "Zero({block}, {page})"),
        }
    }
}

/// A sink that keeps all it is given.
#[derive(Debug, Default)]
pub struct Recorder(pub Vec<Event>);

impl Sink for Recorder {
    type Error = std::convert::Infallible;

    fn blocks(&mut self, blocks: &[RamBlock]) -> Result<(), Self::Error> {
        self.0.push(Event::Blocks(blocks.to_vec()));
        Ok(())
    }

    fn page(&mut self, block: usize, page: u64, data: &[u8; PAGE_SIZE]) -> Result<(), Self::Error> {
        self.0.push(Event::Page(block, page, Box::new(*data)));
        Ok(())
    }

    fn zero(&mut self, block: usize, page: u64) -> Result<(), Self::Error> {
        self.0.push(Event::Zero(block, page));
        Ok(())
    }
}

/// Decodes a stream given in chunks.
pub fn decode<'a>(
    chunks: impl IntoIterator<Item = &'a [u8]>,
    limits: &Limits,
) -> (Vec<Event>, Result<Captured, StreamError>) {
    let mut decoder = Decoder::new(limits.clone());
    let mut sink = Recorder::default();
    for chunk in chunks {
        match decoder.feed(chunk, &mut sink) {
            Ok(()) => {}
            Err(DecodeError::Stream(error)) => return (sink.0, Err(error)),
            Err(DecodeError::Sink(never)) => match never {},
        }
    }
    (sink.0, decoder.finish())
}

/// Writes a stream with these pages, a new part before every `per_part`th.
///
/// # Errors
/// The pages are not of this capture.
pub fn encode(captured: &Captured, events: &[Event], per_part: usize) -> Result<Vec<u8>, EncodeError> {
    let mut out = Vec::new();
    let mut encoder = Encoder::new(captured);
    encoder.header(&mut out);
    encoder.configuration(&mut out);
    encoder.section_start(&mut out)?;
    for part in events.chunks(per_part.max(1)) {
        encoder.begin_part(&mut out)?;
        for event in part {
            match event {
                Event::Blocks(_) => {}
                Event::Page(block, page, data) => encoder.page(&mut out, *block, *page, data)?,
                Event::Zero(block, page) => encoder.zero(&mut out, *block, *page)?,
            }
        }
        encoder.end_part(&mut out)?;
    }
    encoder.section_end(&mut out)?;
    encoder.device_state(&mut out);
    Ok(out)
}

/// Checks that any bytes are decoded without a panic, that chunking makes no difference, and that what was
/// accepted survives an encoding.
///
/// # Panics
/// One of these does not hold.
pub fn migration_stream(data: &[u8]) {
    let limits = Limits { max_device_state: 4 << 20, require_description: false, ..Limits::default() };
    let (events, result) = decode([data], &limits);
    // The data itself says where to cut, so that a fuzzer can look for a bad place.
    let step = data.iter().take(64).fold(1_usize, |sum, byte| sum * 31 % 8191 + usize::from(*byte));
    let (in_chunks, chunked) = decode(data.chunks(step.max(1)), &limits);
    assert_eq!(events, in_chunks, "chunks of {step} bytes give other pages");
    assert_eq!(result, chunked, "chunks of {step} bytes give another result");
    let Ok(mut captured) = result else { return };
    // Page sizes are told to a postcopy destination only, so an eager stream does not keep them.
    captured.blocks.iter_mut().for_each(|block| block.page_size = RamBlock::new("", 0).page_size);
    check_device_state(&captured);
    let again = encode(&captured, &events, step % 7 + 1).expect("decoded pages are of the capture");
    let (pages, back) = decode([again.as_slice()], &limits);
    assert!(pages.iter().skip(1).eq(events.iter().skip(1)), "pages changed by encoding");
    assert_eq!(back.as_ref(), Ok(&captured), "capture changed by encoding");
    assert_eq!(Captured::from_parts(captured.to_parts()).as_ref(), Ok(&captured), "parts do not fit");
}

fn check_device_state(captured: &Captured) {
    let mut state = captured.device_state.clone();
    assert!(state.without_eof().len() < state.bytes().len());
    for section in state.sections().unwrap_or_default() {
        assert!(section.offset < state.eof_offset());
    }
    if let Ok(before) = state.run_state() {
        state.set_run_state("running").expect("a run state that can be read can be set");
        assert_eq!(state.run_state().as_deref(), Ok("running"));
        // A foreign name is not written back: the decoder reads any, and writes those of QEMU only.
        if state.set_run_state(&before).is_ok() {
            assert_eq!(state.run_state(), Ok(before));
        }
    }
}
