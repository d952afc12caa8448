//! What can be wrong with a stream, and where.

/// A stream, or the remains of one, that is not as QEMU writes it or uses what is not supported.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("migration stream, byte {offset}: {fault}")]
pub struct StreamError {
    /// Where the faulty piece begins: counted from the start of the stream, or of the blob that was parsed.
    pub offset: u64,
    /// What is wrong with it.
    pub fault: Fault,
}

/// Why decoding stopped.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError<E> {
    /// The stream is at fault.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// The receiver of the pages failed; its error, as it was.
    #[error("cannot take in a piece of the migration stream")]
    Sink(#[source] E),
}

/// One thing wrong with a stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The first word is not `QEVM`.
    #[error("not a QEMU migration stream (it starts with {magic:#010x})")]
    Magic {
        /// The word found.
        magic: u32,
    },
    /// A version of the stream that no supported QEMU writes.
    #[error("stream version {version}, supported is 3")]
    Version {
        /// The version found.
        version: u32,
    },
    /// The stream does not say which machine type it is of (machine types of QEMU before 2.4).
    #[error("no CONFIGURATION after the header (found byte {tag:#04x})")]
    NoConfiguration {
        /// The byte found in its place.
        tag: u8,
    },
    /// A length or count is beyond its bound; nothing was allocated for it.
    #[error("{field} is {value}, at most {limit} is accepted")]
    TooMuch {
        /// What is too long or too many.
        field: &'static str,
        /// The value in the stream.
        value: u64,
        /// The bound.
        limit: u64,
    },
    /// A name is not UTF-8.
    #[error("{field} is not text")]
    NotText {
        /// Which name.
        field: &'static str,
    },
    /// A part of CONFIGURATION that is not known, so that its length is not known either.
    #[error("unknown part of the configuration, {name} version {version}")]
    ConfigurationPart {
        /// Its name.
        name: String,
        /// Its version.
        version: u32,
    },
    /// A migration capability that changes the format.
    #[error("migration capability {name} is not supported here")]
    Capability {
        /// The capability.
        name: String,
    },
    /// The pages of the guest are not of 4 KiB.
    #[error("target pages of 2^{bits} bytes, supported is 2^12")]
    TargetPageBits {
        /// The exponent found.
        bits: u32,
    },
    /// Bytes are left behind the end.
    #[error("{count} bytes left over behind {field}")]
    Trailing {
        /// What ended too early.
        field: &'static str,
        /// How many bytes follow.
        count: usize,
    },
    /// A stored summary and a stored blob contradict each other.
    #[error("{field} differs from that in the configuration")]
    Mismatch {
        /// What differs.
        field: &'static str,
    },
    /// An iterable section other than `ram`: block migration, vfio, dirty bitmaps and the like.
    #[error("live section \"{name}\" is not supported: only the memory of the guest may be sent live")]
    IterableSection {
        /// Name of the section.
        name: String,
    },
    /// Device state ahead of memory: devices with an early part, such as virtio-mem.
    #[error("device \"{name}\" sends state ahead of memory, which is not supported")]
    EarlySection {
        /// Name of the section.
        name: String,
    },
    /// The section `ram` is of an unknown kind.
    #[error("section ram of instance {instance}, version {version}: supported are instance 0, version 4")]
    RamVersion {
        /// The instance found.
        instance: u32,
        /// The version found.
        version: u32,
    },
    /// A second SECTION_START of `ram`.
    #[error("section ram starts a second time")]
    RamRepeated,
    /// More memory behind SECTION_END.
    #[error("memory continues after its SECTION_END")]
    RamEnded,
    /// Device state or a part of memory came before SECTION_START of `ram`.
    #[error("no memory: section ram has not started")]
    NoRam,
    /// A section id that was not started.
    #[error("section id {found}, expected {expected}")]
    SectionId {
        /// The id of `ram`.
        expected: u32,
        /// The id found.
        found: u32,
    },
    /// A byte that starts nothing known.
    #[error("unknown piece {tag:#04x}")]
    Tag {
        /// The byte found.
        tag: u8,
    },
    /// A command of a postcopy migration, which is no capture.
    #[error("command {id} belongs to a postcopy migration")]
    Command {
        /// Its number.
        id: u16,
    },
    /// RAM data does not open with the list of blocks.
    #[error("memory does not start with the list of RAM blocks")]
    NoBlockList,
    /// A second list of blocks.
    #[error("a second list of RAM blocks")]
    BlockListRepeated,
    /// A block of no name.
    #[error("a RAM block without a name")]
    BlockName,
    /// A block is empty, not of whole pages, or longer than the announced sum leaves room for.
    #[error("RAM block \"{name}\" of {len} bytes: not whole pages, or beyond the announced sum")]
    BlockLength {
        /// Name of the block.
        name: String,
        /// Its length in bytes.
        len: u64,
    },
    /// Two blocks of one name.
    #[error("RAM block \"{name}\" is listed twice")]
    BlockRepeated {
        /// The name.
        name: String,
    },
    /// A page size that no host has.
    #[error("RAM block \"{name}\" in pages of {page_size} bytes")]
    BlockPageSize {
        /// Name of the block.
        name: String,
        /// The size found.
        page_size: u64,
    },
    /// Block page sizes and guest addresses together cannot be told apart.
    #[error("postcopy page sizes together with x-ignore-shared are not supported")]
    BlockFields,
    /// A record of an unknown kind: compressed, XBZRLE, multifd, RDMA.
    #[error("unknown memory record (flags {flags:#05x}): compression, xbzrle, multifd are not supported")]
    Flags {
        /// The flags found.
        flags: u64,
    },
    /// A page of a block that is not in the list.
    #[error("page of an unknown RAM block \"{name}\"")]
    UnknownBlock {
        /// The name found, made printable.
        name: String,
    },
    /// The first page says "same block as before".
    #[error("the first page names no RAM block")]
    NoPreviousBlock,
    /// A page outside its block.
    #[error("page at {page_offset:#x} is outside RAM block \"{block}\"")]
    PageOffset {
        /// Name of the block.
        block: String,
        /// Offset of the page in the block, in bytes.
        page_offset: u64,
    },
    /// A "zero page" of other bytes, as only QEMU before 1.0 wrote.
    #[error("zero page filled with {byte:#04x}")]
    ZeroFill {
        /// The byte found.
        byte: u8,
    },
    /// A section is not closed by a footer.
    #[error("no section footer (found byte {tag:#04x})")]
    NoFooter {
        /// The byte found in its place.
        tag: u8,
    },
    /// The stream ends in the middle of something.
    #[error("the stream ends inside {field}")]
    Truncated {
        /// What is incomplete.
        field: &'static str,
    },
    /// The device state has no end mark, or lacks the description of devices though it was asked for.
    #[error("the device state is incomplete: no end mark{}", if *.described { " followed by a description of devices" } else { "" })]
    NoEnd {
        /// A description was required.
        described: bool,
    },
    /// The description of devices at the end is not a JSON object.
    #[error("the description of devices is not JSON")]
    Description,
    /// The device state does not tell the run state of the VM.
    #[error("no section globalstate, or not one of a known form")]
    NoRunState,
    /// A run state that does not fit into the field, or is not one.
    #[error("\"{name}\" is not a run state")]
    RunState {
        /// The name given.
        name: String,
    },
    /// The decoder met a fault before and reads no more.
    #[error("decoding has failed before")]
    Failed,
}
