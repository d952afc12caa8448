//! Guards that decoding is the inverse of encoding, however the bytes are cut and the parts are laid out.

use proptest::prelude::*;

use super::*;
use crate::stream::fuzz::encode;
use crate::stream::{DeviceState, EncodeError, Encoder};

fn captured(lens: &[u64]) -> Captured {
    let named = |(index, pages): (usize, &u64)| RamBlock::new(format!("block{index}"), pages * 4096);
    Captured {
        machine_type: "pc-test".into(),
        configuration: b"\0\0\0\x07pc-test".to_vec(),
        ram_section_id: 9,
        blocks: lens.iter().enumerate().map(named).collect(),
        device_state: DeviceState::parse(Builder::default().device().description().0).unwrap(),
    }
}

/// Blocks of few pages, so that pages repeat, and records that hit them in any order.
fn captures() -> impl Strategy<Value = (Captured, Vec<Event>)> {
    prop::collection::vec(1_u64..6, 1..5).prop_flat_map(|lens| {
        let record = (0..lens.len(), any::<prop::sample::Index>(), prop::option::of(any::<u8>()));
        let capture = captured(&lens);
        let events = prop::collection::vec(record, 0..40).prop_map(move |records| {
            let at = |(block, index, data): (usize, prop::sample::Index, Option<u8>)| {
                let number = index.index(usize::try_from(lens[block]).unwrap()) as u64;
                data.map_or(Event::Zero(block, number), |byte| page(block, number, byte))
            };
            records.into_iter().map(at).collect()
        });
        (Just(capture), events)
    })
}

/// Cuts a stream into pieces of these lengths, over and over.
fn cut<'a>(mut stream: &'a [u8], lens: &[usize]) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    for len in lens.iter().cycle() {
        if stream.is_empty() {
            break;
        }
        let (piece, rest) = stream.split_at(stream.len().min(*len));
        pieces.push(piece);
        stream = rest;
    }
    pieces
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_was_encoded_is_decoded(
        (captured, events) in captures(),
        per_part in 1_usize..8,
        lens in prop::collection::vec(prop_oneof![1_usize..20, 4000_usize..4200, 1_usize..20_000], 1..6),
    ) {
        let stream = encode(&captured, &events, per_part).unwrap();
        let (decoded, result) = decode(cut(&stream, &lens), &Limits::default());
        prop_assert_eq!(&decoded[0], &Event::Blocks(captured.blocks.clone()));
        prop_assert_eq!(&decoded[1..], &events[..]);
        prop_assert_eq!(result, Ok(captured));
    }

    #[test]
    fn any_bytes_behind_a_good_start_are_decoded_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let start = Builder::with_blocks().0;
        crate::stream::fuzz::migration_stream(&[start, bytes].concat());
    }
}

#[test]
fn continue_is_used_across_parts() {
    let captured = captured(&[3]);
    let events = [Event::Zero(0, 0), Event::Zero(0, 2)];
    let stream = encode(&captured, &events, 1).unwrap();
    let wanted = Builder::new().start().word((3 * 4096) | 4).entry("block0", 3 * 4096).eos();
    let wanted = wanted.part().zero("block0", 0).eos().part().zero_again(2).eos().end().eos();
    assert_eq!(stream, wanted.device().description().0);
}

#[test]
fn a_postcopy_source_tells_page_sizes() {
    let mut captured = captured(&[512]);
    captured.blocks[0].page_size = 2 << 20;
    let list = |advised: bool| {
        let mut out = Vec::new();
        let mut encoder = Encoder::new(&captured);
        encoder.header(&mut out);
        encoder.configuration(&mut out);
        if advised {
            encoder.command(&mut out, 3, &[0; 16]).unwrap();
        }
        encoder.section_start(&mut out).unwrap();
        encoder.device_state(&mut out);
        outcome(&out).1.unwrap().blocks[0].page_size
    };
    assert_eq!((list(true), list(false)), (2 << 20, 4096));
}

#[test]
fn misuse_of_the_encoder_writes_nothing() {
    let captured = captured(&[2]);
    let mut encoder = Encoder::new(&captured);
    let mut out = Vec::new();
    assert!(matches!(encoder.zero(&mut out, 0, 0), Err(EncodeError::Order { .. })));
    assert!(matches!(encoder.end_part(&mut out), Err(EncodeError::Order { .. })));
    assert!(matches!(encoder.command(&mut out, 2, &[0; 65536]), Err(EncodeError::Command { id: 2, .. })));
    assert!(out.is_empty());
    encoder.begin_part(&mut out).unwrap();
    let len = out.len();
    let block = EncodeError::Block { block: 1, count: 1 };
    assert_eq!(encoder.page(&mut out, 1, 0, &[1; 4096]), Err(block));
    let wrong = EncodeError::Page { block: "block0".into(), page: 2, count: 2 };
    assert_eq!(encoder.zero(&mut out, 0, 2), Err(wrong));
    assert!(matches!(encoder.begin_part(&mut out), Err(EncodeError::Order { .. })));
    assert!(matches!(encoder.section_start(&mut out), Err(EncodeError::Order { .. })));
    assert!(matches!(encoder.section_end(&mut out), Err(EncodeError::Order { .. })));
    assert_eq!(out.len(), len);
}
