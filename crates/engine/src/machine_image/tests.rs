//! Machines as images, and images that are no machines.

use super::*;
use crate::error::ErrorKind;
use crate::testing::images::{Block, IMAGE, machine, store, writer};

const BLOCKS: [Block<'_>; 2] = [("vga.vram", 4, &[1]), ("pc.ram", 16, &[0, 7])];

/// Guards all of a machine that is no page: what was kept comes back, byte for byte.
#[test]
fn a_machine_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let summary = finish(machine(&BLOCKS), writer(&store, &BLOCKS)).unwrap();
    assert_eq!(summary.id.as_str(), IMAGE);
    let (found, kept) = (captured(&store.open_image(&summary.id).unwrap()).unwrap(), machine(&BLOCKS));
    assert_eq!((found.machine_type, found.configuration), (kept.machine_type, kept.configuration));
    assert_eq!((found.ram_section_id, found.blocks), (kept.ram_section_id, kept.blocks));
    assert_eq!(found.device_state.bytes(), kept.device_state.bytes());
}

/// Guards a guest against memory that is not its own: where the image's spaces are not the machine's blocks, one of them
/// missing, unknown, of another length or in another place, that is damage, and nothing is restored from it.
#[test]
fn memory_of_another_machine_is_damage() {
    let others: [&[Block<'_>]; 5] = [
        &BLOCKS[..1],
        &[BLOCKS[1], BLOCKS[0]],
        &[BLOCKS[0], ("pc.ram", 17, &[])],
        &[BLOCKS[0], ("mach-virt.ram", 16, &[])],
        &[BLOCKS[0], BLOCKS[1], ("pc.bios", 1, &[])],
    ];
    for other in others {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let summary = finish(machine(&BLOCKS), writer(&store, other)).unwrap();
        let error = captured(&store.open_image(&summary.id).unwrap()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged, "{other:?}: {error}");
    }
}

/// Guards against restoring what is none: an image without a machine's state, or with one that can't be read, is damage.
#[test]
fn an_image_without_a_machine_is_damage() {
    let parts = machine(&BLOCKS).into_parts();
    let summary = serde_json::to_vec(&parts.summary).unwrap();
    let whole = [
        (SUMMARY, summary.as_slice()),
        (CONFIGURATION, &parts.configuration),
        (DEVICE_STATE, &parts.device_state),
    ];
    for missing in 0..3 {
        for cut in [None, Some(3)] {
            let dir = tempfile::tempdir().unwrap();
            let store = store(dir.path());
            let mut image = writer(&store, &BLOCKS);
            for (number, (name, bytes)) in whole.iter().enumerate() {
                match cut {
                    _ if number != missing => image.attach(name, bytes).unwrap(),
                    Some(len) => image.attach(name, &bytes[..len]).unwrap(),
                    None => {}
                }
            }
            let summary = image.finish().unwrap();
            let error = captured(&store.open_image(&summary.id).unwrap()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Damaged, "{} {cut:?}: {error}", whole[missing].0);
        }
    }
}
