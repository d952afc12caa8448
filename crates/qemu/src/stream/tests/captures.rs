//! Guards that what QEMU really sends is understood, whole, and can be sent back.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::stream::fuzz::encode;

/// Memory after all records, as (block, page) to the byte sum of the page, zero pages included.
fn memory(events: &[Event]) -> BTreeMap<(usize, u64), u64> {
    let mut memory = BTreeMap::new();
    for event in events {
        match event {
            Event::Blocks(_) => {}
            Event::Page(block, page, data) => {
                memory.insert((*block, *page), data.iter().map(|byte| u64::from(*byte)).sum());
            }
            Event::Zero(block, page) => {
                memory.insert((*block, *page), 0);
            }
        }
    }
    memory
}

#[test]
fn every_capture_is_decoded_whole() {
    for (name, stream) in real_captures() {
        let (events, result) = outcome(&stream);
        let captured = result.unwrap_or_else(|error| panic!("{name}: {error}"));
        let [Event::Blocks(blocks), ..] = events.as_slice() else { panic!("{name}: no blocks") };
        assert_eq!(blocks, &captured.blocks, "{name}");
        let sent: u64 = blocks
            .iter()
            .filter(|block| block.name != "ram" || name.starts_with("none"))
            .map(RamBlock::pages)
            .sum();
        assert_eq!(memory(&events).len() as u64, sent, "{name}: each page has come");
        let machine = name.split('-').next().unwrap();
        assert!(captured.machine_type.contains(machine), "{name} is of {}", captured.machine_type);
        let end = stream.len() - captured.device_state.bytes().len();
        assert_eq!(captured.device_state.bytes(), &stream[end..], "{name}");
    }
}

#[test]
fn a_background_snapshot_has_each_page_once_and_precopy_repeats_some() {
    let repeats = |start| {
        let (events, _) = outcome(&real_capture(start));
        events.len() - 1 - memory(&events).len()
    };
    assert_eq!(repeats("q35-background"), 0);
    assert_eq!(repeats("pc-background"), 0);
    assert!(repeats("q35-precopy") > 0);
    assert!(repeats("pc-precopy") > 0);
}

#[test]
fn truncations_are_errors() {
    for (name, stream) in real_captures() {
        let limits = Limits { require_description: !name.contains("novmdesc"), ..Limits::default() };
        assert!(decode([stream.as_slice()], &limits).1.is_ok(), "{name}");
        // A sample: each byte of the first 400 and the last 200, some of the pages, every seventh of the rest.
        let device = stream.len() - outcome(&stream).1.unwrap().device_state.bytes().len();
        let cuts: BTreeSet<usize> =
            (0..device).step_by(61).chain(0..400).chain(device..stream.len()).collect();
        for cut in cuts.into_iter().filter(|cut| cut % 7 == 0 || *cut < 400 || stream.len() - cut < 200) {
            assert!(decode([&stream[..cut]], &limits).1.is_err(), "{name} cut at {cut}");
        }
    }
}

/// The one cut that cannot be seen without knowing that a description was to come: the state is whole then.
#[test]
fn a_stream_cut_behind_the_end_mark_is_refused_unless_no_description_is_expected() {
    for (name, stream) in real_captures() {
        let state = outcome(&stream).1.unwrap().device_state;
        if state.description().is_none() {
            continue;
        }
        let cut = &stream[..stream.len() - state.bytes().len() + state.eof_offset() + 1];
        let strict = decode([cut], &Limits::default()).1.unwrap_err();
        assert_eq!(strict.fault, Fault::NoEnd { described: true }, "{name}");
        let taken = outcome(cut).1.unwrap().device_state;
        assert_eq!(taken.without_eof(), state.without_eof(), "{name}");
    }
}

#[test]
fn trailing_bytes_are_an_error() {
    for (name, stream) in real_captures() {
        for extra in [&[0][..], &[0, 6, 0, 0, 0, 0], b"\n", &[4, 0, 0, 0, 1]] {
            let longer = [&stream[..], extra].concat();
            assert!(outcome(&longer).1.is_err(), "{name} with {extra:?} behind it");
        }
    }
}

#[test]
fn captures_are_written_back_with_the_same_memory_and_state() {
    for (name, stream) in real_captures() {
        let (events, result) = outcome(&stream);
        let captured = result.unwrap();
        let again = encode(&captured, &events, 100).unwrap();
        let (pages, back) = outcome(&again);
        assert_eq!(back, Ok(captured), "{name}");
        assert_eq!(pages, events, "{name}");
    }
}

#[test]
fn a_capture_written_in_one_part_is_qemus_stream_but_for_the_sections() {
    // Without SWITCHOVER_START and page records in SECTION_END, a background snapshot is byte for byte the same
    // but for the empty SECTION_END that QEMU leaves out there.
    let stream = real_capture("pc-background");
    let (events, result) = outcome(&stream);
    let captured = result.unwrap();
    let mut again = encode(&captured, &events[1..], usize::MAX).unwrap();
    let end = again.len() - captured.device_state.bytes().len();
    again.drain(end - (5 + 8 + 5)..end);
    assert_eq!(again.len(), stream.len());
    assert!(again == stream);
}

#[test]
fn parts_survive_storing() {
    for (name, stream) in real_captures() {
        let captured = outcome(&stream).1.unwrap();
        let parts = captured.to_parts();
        let text = serde_json::to_string(&parts.summary).unwrap();
        let read = crate::stream::Parts { summary: serde_json::from_str(&text).unwrap(), ..parts };
        assert_eq!(Captured::from_parts(read), Ok(captured), "{name}");
    }
}

#[test]
fn parts_that_contradict_each_other_are_refused() {
    let parts = outcome(&real_capture("pc-precopy")).1.unwrap().to_parts();
    let fault = |change: fn(&mut crate::stream::Parts)| {
        let mut changed = parts.clone();
        change(&mut changed);
        Captured::from_parts(changed).unwrap_err().fault
    };
    assert_eq!(
        fault(|parts| parts.summary.machine_type = "pc".into()),
        Fault::Mismatch { field: "the machine type" }
    );
    assert_eq!(
        fault(|parts| parts.summary.blocks[0].guest_address = Some(0)),
        Fault::Mismatch { field: "the use of guest addresses" }
    );
    assert!(matches!(fault(|parts| parts.summary.blocks[0].len = 5), Fault::BlockLength { .. }));
    assert!(matches!(fault(|parts| parts.summary.blocks[0].len = !4095), Fault::TooMuch { .. }));
    let twice = fault(|parts| parts.summary.blocks[1].name = "pc.ram".into());
    assert_eq!(twice, Fault::BlockRepeated { name: "pc.ram".into() });
    assert!(matches!(fault(|parts| parts.configuration.push(1)), Fault::Trailing { count: 1, .. }));
    assert!(matches!(fault(|parts| parts.configuration.push(5)), Fault::Truncated { .. }));
    assert!(matches!(fault(|parts| parts.device_state.push(1)), Fault::NoEnd { .. }));
}

#[test]
fn the_run_state_is_read_and_changed_in_place() {
    for (name, stream) in real_captures() {
        let state = outcome(&stream).1.unwrap().device_state;
        let wanted = match name.split('-').nth(1).unwrap() {
            "precopy" => "running",
            _ if name.starts_with("none") => "prelaunch",
            _ => "paused",
        };
        assert_eq!(state.run_state().as_deref(), Ok(wanted), "{name}");
        let mut changed = state.clone();
        changed.set_run_state("finish-migrate").unwrap();
        assert_eq!(changed.run_state().as_deref(), Ok("finish-migrate"));
        let differ = |a: &[u8], b: &[u8]| a.iter().zip(b).filter(|(a, b)| a != b).count();
        assert!(differ(changed.bytes(), state.bytes()) <= 15, "{name}: more than name and length changed");
        changed.set_run_state(wanted).unwrap();
        assert_eq!(changed, state, "{name}");
        for wrong in ["", "Running", "a name of more than 31 letters--", "run\0ning"] {
            assert!(matches!(changed.set_run_state(wrong).unwrap_err().fault, Fault::RunState { .. }));
        }
        assert_eq!(changed, state, "{name}: changed by a refused name");
    }
}

#[test]
fn a_device_state_without_globalstate_has_no_run_state() {
    let stream = Builder::with_blocks().eos().device().description().0;
    let mut state = outcome(&stream).1.unwrap().device_state;
    assert_eq!(state.run_state().unwrap_err().fault, Fault::NoRunState);
    assert_eq!(state.set_run_state("running").unwrap_err().fault, Fault::NoRunState);
}

#[test]
fn sections_are_found_by_the_description() {
    for (name, stream) in real_captures() {
        let state = outcome(&stream).1.unwrap().device_state;
        if name.contains("novmdesc") {
            assert!(state.description().is_none() && state.sections().is_none());
            continue;
        }
        let description = state.description().unwrap();
        let sections = state.sections().unwrap_or_else(|| panic!("{name}: description does not fit"));
        assert_eq!(sections.len(), description["devices"].as_array().unwrap().len(), "{name}");
        let global = sections.iter().find(|section| section.name == "globalstate").unwrap();
        assert_eq!((global.instance, global.version), (0, 1));
        let header = &state.bytes()[global.offset..];
        assert_eq!((header[0], &header[5..17]), (4, &b"\x0bglobalstate"[..]));
        assert_eq!(state.bytes()[state.eof_offset()..][..2], [0, 6], "{name}");
        assert_eq!(state.without_eof().len(), state.eof_offset());
    }
}
