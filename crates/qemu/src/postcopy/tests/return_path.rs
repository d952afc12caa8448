//! What QEMU sends back: any chunking, any input, and what is refused.

use proptest::prelude::*;

use crate::postcopy::{Message, ReturnFault, SourceError, fuzz};

fn message(kind: u16, payload: &[u8]) -> Vec<u8> {
    [kind.to_be_bytes().as_slice(), &u16::try_from(payload.len()).unwrap().to_be_bytes(), payload].concat()
}

fn request(start: u64, len: u32, name: &str) -> Vec<u8> {
    let name = [&[u8::try_from(name.len()).unwrap()], name.as_bytes()].concat();
    message(3, &[start.to_be_bytes().as_slice(), &len.to_be_bytes(), &name].concat())
}

fn bitmap(name: &str, len: u64, bits: usize) -> Vec<u8> {
    let name = [&[u8::try_from(name.len()).unwrap()], name.as_bytes()].concat();
    let end = 0x0123_4567_89ab_cdef_u64.to_be_bytes();
    [message(5, &name).as_slice(), &len.to_be_bytes(), &vec![0x5a; bits], &end].concat()
}

/// One of each, as a seed of the fuzz target has them.
fn all() -> Vec<u8> {
    let again = message(4, &[8192_u64.to_be_bytes().as_slice(), &8192_u32.to_be_bytes()].concat());
    [
        message(2, &3_u32.to_be_bytes()),
        request(4096, 4096, "pc.ram"),
        again,
        bitmap("pc.ram", 16, 16),
        bitmap("vga.vram", 8, 8),
        message(6, &1_u32.to_be_bytes()),
        message(1, &0_u32.to_be_bytes()),
    ]
    .concat()
}

/// The seed in the corpus is this one: what the fuzzer starts from is valid.
#[test]
fn every_message_is_decoded() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/return_path/all");
    assert_eq!(std::fs::read(path).unwrap(), all());
    let (messages, error) = fuzz::decode([all().as_slice()]);
    assert_eq!(error, None);
    let expected = [
        Message::Pong(3),
        Message::Request { block: 0, pages: 1..2 },
        Message::Request { block: 0, pages: 2..4 },
        Message::Bitmap { block: 0, received: vec![0x5a; 16] },
        Message::Bitmap { block: 1, received: vec![0x5a; 8] },
        Message::ResumeAck,
        Message::Shut { failed: false },
    ];
    assert_eq!(messages, expected);
    fuzz::return_path(&all());
}

fn fault(bytes: &[u8]) -> ReturnFault {
    match fuzz::decode([bytes]).1 {
        Some(SourceError::ReturnPath { fault, .. }) => fault,
        other => panic!("{other:?}"),
    }
}

/// Guards the guest's memory and the server's: nothing outside of the blocks is ever asked of the store, and nothing
/// is allocated for a length that QEMU would not send.
#[test]
fn what_qemu_would_not_send_is_refused() {
    let block = || "pc.ram".to_owned();
    assert_eq!(fault(&message(9, &[])), ReturnFault::Kind { kind: 9 });
    assert_eq!(fault(&message(2, &[0; 5])), ReturnFault::Length { field: "PONG", len: 5 });
    assert_eq!(fault(&request(0, 4096, "other")), ReturnFault::UnknownBlock { name: "other".into() });
    assert_eq!(fault(&message(4, &[0; 12])), ReturnFault::NoPreviousBlock);
    for (start, len) in [(0, 0), (1, 4096), (0, 100), (100 << 12, 4096), (99 << 12, 8192), (u64::MAX, 4096)] {
        assert_eq!(fault(&request(start, len, "pc.ram")), ReturnFault::Range { block: block(), start, len });
    }
    let length = ReturnFault::BitmapLength { block: block(), found: 1 << 60, expected: 16 };
    assert_eq!(fault(&bitmap("pc.ram", 1 << 60, 0)), length);
    let mut no_end = bitmap("pc.ram", 16, 16);
    *no_end.last_mut().unwrap() ^= 1;
    assert_eq!(fault(&no_end), ReturnFault::BitmapEnd { block: block() });
    assert_eq!(fault(&message(6, &[0; 4])), ReturnFault::ResumeAnswer { value: 0 });
    // A name that claims to be longer than its message.
    let long = message(3, &[[0; 12].as_slice(), &[200, b'x']].concat());
    assert_eq!(fault(&long), ReturnFault::UnknownBlock { name: String::new() });
    let trailing = message(3, &[[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 6].as_slice(), b"pc.ramX"].concat());
    assert_eq!(fault(&trailing), ReturnFault::Length { field: "REQ_PAGES_ID", len: 20 });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// The fuzz target's promises, on noise and on damaged messages.
    #[test]
    fn nothing_makes_it_panic(noise in proptest::collection::vec(any::<u8>(), 0..200), at in 0_usize..150, byte: u8) {
        fuzz::return_path(&noise);
        let mut damaged = all();
        let at = at % damaged.len();
        damaged[at] = byte;
        fuzz::return_path(&damaged);
        fuzz::return_path(&all()[..at]);
    }
}
