//! All fuzz targets by name: each a function that takes any bytes and panics where what must hold does not.
//!
//! The programs in `fuzz_targets/` hand a fuzzer's inputs to them, and `crates/engine/tests/corpus` the committed ones,
//! so that the corpus is run by plain tests through the same code.

/// A target's name, which is that of its program and of its folder in `corpus/`, and what it does with an input.
pub(crate) type Target = (&'static str, fn(&[u8]));

/// Every target.
pub(crate) const TARGETS: [Target; 10] = [
    ("agent", agent),
    ("image", image),
    ("migration_stream", vmrewind_qemu::stream::fuzz::migration_stream),
    ("node", node),
    ("pack", pack),
    ("qcow2", qcow2),
    ("qmp", qmp),
    ("record", record),
    ("return_path", vmrewind_qemu::postcopy::fuzz::return_path),
    ("segment", segment),
];

/// Runs the target of that name.
#[allow(dead_code)] // The test goes through the list.
pub(crate) fn run(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|(known, _)| *known == name);
    target.expect("a target of that name").1(data);
}

fn agent(data: &[u8]) {
    vmrewind_qemu::qmp::fuzz::agent(data);
}

fn qmp(data: &[u8]) {
    vmrewind_qemu::qmp::fuzz::qmp(data);
}

fn qcow2(data: &[u8]) {
    vmrewind_engine::fuzz::qcow2(data);
}

fn record(data: &[u8]) {
    vmrewind_engine::fuzz::record(data);
}

fn image(data: &[u8]) {
    vmrewind_store::fuzz::image(data);
}

fn node(data: &[u8]) {
    vmrewind_store::fuzz::node(data);
}

/// As a whole file, and as a directory behind a hash that is right.
fn pack(data: &[u8]) {
    vmrewind_store::fuzz::pack(data);
    if let Some(([entries, offset @ ..], raw)) = data.split_first_chunk::<3>() {
        let offset = u64::from(u16::from_le_bytes(*offset));
        vmrewind_store::fuzz::pack_directory(raw, u32::from(*entries), offset);
    }
}

/// As a whole file, and as tables behind a hash that is right.
fn segment(data: &[u8]) {
    vmrewind_store::fuzz::segment(data, 0);
    if let Some(([objects, blocks, packs, object_bits, block_bits, prefix], raw)) =
        data.split_first_chunk::<6>()
    {
        let counts = [objects, blocks, packs].map(|count| u32::from(*count));
        let prefix = u64::from(*prefix) << 56;
        vmrewind_store::fuzz::segment_meta(raw, counts, [*object_bits, *block_bits], prefix);
    }
}
