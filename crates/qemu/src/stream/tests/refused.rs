//! Guards that each rule of the format is kept: what is accepted by hand-made streams, what is refused and why.

use super::*;
use crate::stream::fuzz::Recorder;
use crate::stream::{DecodeError, Decoder, PAGE_SIZE, Sink};

#[test]
fn continue_refers_to_the_last_page_of_an_earlier_section() {
    let stream = Builder::with_blocks().eos().part().page("b", 0, 1).zero("a", 3).eos();
    let stream = stream.part().page_again(2, 7).eos().end().zero_again(1).eos().device();
    let wanted = [block_list(), page(1, 0, 1), Event::Zero(0, 3), page(0, 2, 7), Event::Zero(0, 1)];
    assert_eq!(stream.events(), wanted);
}

#[test]
fn repeats_come_in_the_order_of_the_stream() {
    let stream =
        Builder::with_blocks().page("a", 1, 5).zero_again(1).page_again(1, 6).zero("a", 1).eos().device();
    assert_eq!(
        stream.events(),
        [block_list(), page(0, 1, 5), Event::Zero(0, 1), page(0, 1, 6), Event::Zero(0, 1)]
    );
}

#[test]
fn commands_between_sections_are_stepped_over() {
    let start = Builder::new().command(1, &[]).command(2, &[0, 0, 0, 1]);
    let start = start.start().word(4096 | 4).entry("a", 4096).eos();
    let stream =
        start.command(11, &[]).part().zero("a", 0).eos().command(8, &[1; 65535]).end().eos().device();
    assert_eq!(stream.events(), [Event::Blocks(vec![RamBlock::new("a", 4096)]), Event::Zero(0, 0)]);
    for id in 4..=7 {
        assert_eq!(Builder::new().command(id, &[0; 4]).fault(), Fault::Command { id });
    }
}

#[test]
fn page_sizes_are_read_where_a_postcopy_source_sends_them() {
    let advice = [4096_u64.to_be_bytes(), 4096_u64.to_be_bytes()].concat();
    let huge = |name: &str, len| RamBlock { page_size: 2 << 20, ..RamBlock::new(name, len) };
    let start = Builder::new().command(3, &advice).start().word((6 << 20) | 4);
    let mixed = start.clone().entry("a", 2 << 20).word(2 << 20).entry("b", 2 << 20);
    let last_huge = mixed.clone().entry("c", 2 << 20).word(2 << 20).eos().device();
    let last_small = mixed.entry("c", 2 << 20).eos().device();
    let [a, b, c] = [huge("a", 2 << 20), RamBlock::new("b", 2 << 20), huge("c", 2 << 20)];
    assert_eq!(last_huge.events(), [Event::Blocks(vec![a.clone(), b.clone(), c.clone()])]);
    assert_eq!(last_small.events(), [Event::Blocks(vec![a, b, RamBlock { page_size: 4096, ..c }])]);
    let odd = start.entry("a", 2 << 20).word(3 << 20).fault();
    assert_eq!(odd, Fault::BlockPageSize { name: "a".into(), page_size: 3 << 20 });
}

#[test]
fn guest_addresses_are_read_where_the_configuration_says_so() {
    let shared = [&[0, 0, 0, 1, 15][..], b"x-ignore-shared"].concat();
    let start = Builder::new().configuration_part("configuration/capabilities", &shared);
    let list = start.clone().start().word(4096 | 4).entry("a", 4096).word(0xc0000);
    let block = RamBlock { guest_address: Some(0xc0000), ..RamBlock::new("a", 4096) };
    assert_eq!(list.eos().device().events(), [Event::Blocks(vec![block])]);
    let advised = start.command(3, &[0; 16]).start().word(4096 | 4).entry("a", 4096);
    assert_eq!(advised.fault(), Fault::BlockFields);
}

#[test]
fn parts_of_the_configuration_are_kept_or_refused() {
    let known = Builder::new()
        .configuration_part("configuration/target-page-bits", &12_u32.to_be_bytes())
        .configuration_part("configuration/uuid", &[9; 16]);
    let stream = known.start().word(4).eos().device();
    let captured = outcome(&stream.0).1.unwrap();
    assert_eq!((captured.machine_type.as_str(), captured.blocks.len()), ("pc-test", 0));
    assert_eq!(captured.configuration.len(), 4 + 7 + (1 + 31 + 4 + 4) + (1 + 19 + 4 + 16));
    let refused = |name: &str, payload: &[u8]| Builder::new().configuration_part(name, payload).fault();
    assert_eq!(refused("configuration/target-page-bits", &[0, 0, 0, 14]), Fault::TargetPageBits { bits: 14 });
    let mapped = refused("configuration/capabilities", b"\0\0\0\x01\x0amapped-ram");
    assert_eq!(mapped, Fault::Capability { name: "mapped-ram".into() });
    assert!(matches!(refused("configuration/capabilities", &[1, 0, 0, 0]), Fault::TooMuch { .. }));
    let unknown = Fault::ConfigurationPart { name: "configuration/new".into(), version: 1 };
    assert_eq!(refused("configuration/new", &[]), unknown);
    let bytes = Builder::default().bytes(b"QEVM\0\0\0\x03\x07\x7f\xff\xff\xff").fault();
    assert!(matches!(bytes, Fault::TooMuch { value: 0x7fff_ffff, .. }));
}

#[test]
fn foreign_headers_are_refused() {
    let fault = |bytes: &[u8]| Builder::default().bytes(bytes).fault();
    assert_eq!(fault(b"\x1f\x8b\x08\0\0\0"), Fault::Magic { magic: 0x1f8b_0800 });
    assert_eq!(fault(b"QEVM\0\0\0\x02"), Fault::Version { version: 2 });
    assert_eq!(fault(b"QEVM\0\0\0\x03\x01"), Fault::NoConfiguration { tag: 1 });
    assert_eq!(fault(b""), Fault::Truncated { field: "the header" });
}

#[test]
fn sections_other_than_ram_are_named() {
    let block = Builder::new().bytes(&[1]).u32(2).name("block").u32(0).u32(1);
    assert_eq!(block.fault(), Fault::IterableSection { name: "block".into() });
    let later = Builder::with_blocks().eos().bytes(&[1]).u32(3).name("vfio");
    assert_eq!(later.fault(), Fault::IterableSection { name: "vfio".into() });
    let early = Builder::new().bytes(&[4]).u32(2).name("virtio-mem-early");
    assert_eq!(early.fault(), Fault::EarlySection { name: "virtio-mem-early".into() });
    let version = Builder::new().bytes(&[1]).u32(2).name("ram").u32(0).u32(3);
    assert_eq!(version.fault(), Fault::RamVersion { instance: 0, version: 3 });
}

#[test]
fn sections_out_of_order_are_refused() {
    assert_eq!(Builder::new().part().fault(), Fault::NoRam);
    assert_eq!(Builder::new().bytes(&[0]).fault(), Fault::NoRam);
    assert_eq!(Builder::with_blocks().eos().start().fault(), Fault::RamRepeated);
    assert_eq!(Builder::with_blocks().eos().end().eos().part().fault(), Fault::RamEnded);
    assert_eq!(Builder::new().bytes(&[9]).fault(), Fault::Tag { tag: 9 });
    let other = Fault::SectionId { expected: 9, found: 8 };
    assert_eq!(Builder::with_blocks().eos().bytes(&[2]).u32(8).fault(), other);
    assert_eq!(Builder::with_blocks().word(0x10).bytes(&[0x7e]).u32(8).fault(), other);
    assert_eq!(Builder::with_blocks().word(0x10).bytes(&[2]).fault(), Fault::NoFooter { tag: 2 });
    assert_eq!(Builder::new().start().eos().fault(), Fault::NoBlockList);
    assert_eq!(Builder::with_blocks().word(4096 | 4).fault(), Fault::BlockListRepeated);
}

#[test]
fn block_lists_that_cannot_be_are_refused() {
    let list = |sum: u64| Builder::new().start().word(sum | 4);
    let length = |len| Fault::BlockLength { name: "a".into(), len };
    assert_eq!(list(8192).entry("a", 0).fault(), length(0));
    assert_eq!(list(8192).entry("a", 4097).fault(), length(4097));
    assert_eq!(list(8192).entry("a", 12288).fault(), length(12288));
    assert_eq!(list(8192).entry("", 4096).fault(), Fault::BlockName);
    assert_eq!(
        list(8192).bytes(b"\x01\xff").word(4096).fault(),
        Fault::NotText { field: "name of a RAM block" }
    );
    let repeated = list(8192).entry("a", 4096).entry("a", 4096).fault();
    assert_eq!(repeated, Fault::BlockRepeated { name: "a".into() });
    assert!(matches!(list(1 << 60).fault(), Fault::TooMuch { field: "memory", .. }));
    let limits = Limits { max_blocks: 1, ..lenient() };
    let two = list(8192).entry("a", 4096).entry("b", 4096);
    let error = decode([two.0.as_slice()], &limits).1.unwrap_err();
    assert_eq!(error.fault, Fault::TooMuch { field: "number of RAM blocks", value: 2, limit: 1 });
}

#[test]
fn page_records_that_cannot_be_are_refused() {
    let blocks = Builder::with_blocks;
    let outside = Fault::PageOffset { block: "b".into(), page_offset: 8192 };
    assert_eq!(blocks().zero("b", 2).fault(), outside);
    assert_eq!(blocks().word(8192 | 8).name("b").fault(), outside);
    assert_eq!(blocks().zero("c", 0).fault(), Fault::UnknownBlock { name: "c".into() });
    assert_eq!(blocks().zero_again(0).fault(), Fault::NoPreviousBlock);
    assert_eq!(blocks().word(2).name("a").bytes(&[3]).fault(), Fault::ZeroFill { byte: 3 });
    for flags in [0, 1, 0x0a, 0x12, 0x24, 0x30, 0x40, 0x80, 0x100, 0x200] {
        assert_eq!(blocks().word(flags).fault(), Fault::Flags { flags });
    }
    assert_eq!(blocks().word(4096 | 0x10).fault(), Fault::Flags { flags: 0x10 });
}

#[test]
fn faults_tell_their_place_in_any_chunking() {
    let before = Builder::with_blocks().page("a", 0, 1);
    let stream = before.clone().zero("c", 0).0;
    for step in [1, 7, 4096, stream.len()] {
        let error = decode(stream.chunks(step), &lenient()).1.unwrap_err();
        assert_eq!(error.offset, before.0.len() as u64);
    }
}

#[test]
fn device_state_must_have_its_ends() {
    let ram = || Builder::with_blocks().eos();
    let no_end = Fault::NoEnd { described: false };
    assert_eq!(ram().fault(), Fault::Truncated { field: "the sections, ahead of the device state" });
    assert_eq!(ram().bytes(&[0]).fault(), Fault::Truncated { field: "the device state" });
    assert_eq!(ram().bytes(&[4, 0, 0]).fault(), no_end);
    assert_eq!(ram().device().bytes(&[1]).fault(), no_end);
    assert_eq!(ram().device().bytes(&[0]).fault(), no_end);
    assert_eq!(ram().device().description().bytes(b" ").fault(), no_end);
    assert_eq!(ram().device().bytes(b"\x06\0\0\0\x02[]").fault(), Fault::Description);
    assert_eq!(ram().device().bytes(b"\x06\0\0\0\x02{,").fault(), Fault::Description);
    let whole = ram().device().description().0;
    assert!(decode([whole.as_slice()], &Limits::default()).1.is_ok());
    let bare = decode([ram().device().0.as_slice()], &Limits::default()).1.unwrap_err();
    assert_eq!(bare.fault, Fault::NoEnd { described: true });
    let limits = Limits { max_device_state: 20, ..lenient() };
    let stream = ram().device().0;
    for step in [1, 1000] {
        let error = decode(stream.chunks(step), &limits).1.unwrap_err();
        assert_eq!(error.offset, ram().0.len() as u64 + 20);
        assert!(matches!(error.fault, Fault::TooMuch { limit: 20, .. }));
    }
}

/// Fails at the nth page.
struct Failing(u64);

impl Sink for Failing {
    type Error = std::io::Error;

    fn blocks(&mut self, _: &[RamBlock]) -> std::io::Result<()> {
        Ok(())
    }

    fn page(&mut self, _: usize, _: u64, _: &[u8; PAGE_SIZE]) -> std::io::Result<()> {
        self.0 = self.0.checked_sub(1).ok_or_else(|| std::io::Error::other("disk full"))?;
        Ok(())
    }

    fn zero(&mut self, _: usize, _: u64) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn an_error_of_the_sink_comes_back_and_ends_the_decoding() {
    let stream = Builder::with_blocks().page("a", 0, 1).page_again(1, 1).eos().device().0;
    let mut decoder = Decoder::new(lenient());
    let Err(DecodeError::Sink(error)) = decoder.feed(&stream, &mut Failing(1)) else {
        panic!("the sink's error is lost");
    };
    assert_eq!(error.to_string(), "disk full");
    let again = decoder.feed(&[0], &mut Recorder::default());
    assert!(matches!(again, Err(DecodeError::Stream(StreamError { fault: Fault::Failed, .. }))));
    assert_eq!(decoder.finish().unwrap_err().fault, Fault::Failed);
}

#[test]
fn counters_follow_the_stream() {
    let ram = Builder::with_blocks().zero("a", 0).page_again(1, 1).eos();
    let mut decoder = Decoder::new(lenient());
    let mut sink = Recorder::default();
    decoder.feed(&Builder::with_blocks().0, &mut sink).unwrap();
    assert!(!decoder.first_page_seen());
    let rest = &ram.0[Builder::with_blocks().0.len()..];
    decoder.feed(rest, &mut sink).unwrap();
    assert!(decoder.first_page_seen() && !decoder.ram_done());
    assert_eq!((decoder.pages(), decoder.zero_pages()), (1, 1));
    decoder.feed(&Builder::default().device().0, &mut sink).unwrap();
    assert!(decoder.ram_done());
    assert_eq!(decoder.bytes_seen(), ram.device().0.len() as u64);
}
