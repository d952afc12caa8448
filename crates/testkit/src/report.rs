//! The lines a guest prints, as values. They are written by `guest/main.rs` and `guest/commands.rs`.

/// One tick: `T <tick> <disk done> <disk in flight>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tick {
    /// Counts from 1, for as long as the guest's memory lives.
    pub tick: u64,
    /// The last counter that was durable on every disk.
    pub done: u64,
    /// The last counter whose writing was begun.
    pub in_flight: u64,
}

/// What a guest had at start: `READY sum=.. found=.. found2=..`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ready {
    /// Checksum of its memory.
    pub sum: String,
    /// Counter found on the first disk.
    pub found: Option<u64>,
    /// Counter found on the second disk.
    pub found2: Option<u64>,
}

/// What a guest found when it checked itself: `VERIFY ok=.. big=.. ...`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verify {
    /// Memory and disks are all right.
    pub ok: bool,
    /// The memory that never changes has the sum it had at start.
    pub big_ok: bool,
    /// That sum, as it is now.
    pub sum: String,
    /// The memory that always changes is of one instant.
    pub dirty_ok: bool,
    /// The last tick.
    pub tick: u64,
    /// The counter as memory knows it.
    pub disk: u64,
    /// The counter as read back from the first disk, past the guest's page cache.
    pub file: Option<u64>,
    /// The counter as read back from the second disk.
    pub file2: Option<u64>,
    /// The line as it came.
    pub line: String,
}

impl Tick {
    /// Parses a whole line; `None` where it is no tick.
    pub fn parse(line: &str) -> Option<Self> {
        let mut numbers = line.strip_prefix("T ")?.split(' ').map(|word| word.parse().ok());
        let mut next = || numbers.next().flatten();
        let tick = Self { tick: next()?, done: next()?, in_flight: next()? };
        numbers.next().is_none().then_some(tick)
    }
}

impl Ready {
    /// Parses a whole line; `None` where it is none of these.
    pub fn parse(line: &str) -> Option<Self> {
        line.strip_prefix("READY ")?;
        Some(Self {
            sum: field(line, "sum")?.to_owned(),
            found: number(line, "found"),
            found2: number(line, "found2"),
        })
    }
}

impl Verify {
    /// Parses a whole line; `None` where it is none of these.
    pub fn parse(line: &str) -> Option<Self> {
        line.strip_prefix("VERIFY ")?;
        Some(Self {
            ok: field(line, "ok")? == "1",
            big_ok: field(line, "big")? == "OK",
            sum: field(line, "sum")?.to_owned(),
            dirty_ok: field(line, "dirty")? == "OK",
            tick: number(line, "tick")?,
            disk: number(line, "disk")?,
            file: number(line, "file"),
            file2: number(line, "file2"),
            line: line.to_owned(),
        })
    }
}

fn field<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    line.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
}

fn number(line: &str, key: &str) -> Option<u64> {
    field(line, key)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards against taking half a line, as after a reconnect, for a tick.
    #[test]
    fn only_whole_ticks_are_ticks() {
        assert_eq!(Tick::parse("T 12 3 4"), Some(Tick { tick: 12, done: 3, in_flight: 4 }));
        for other in ["T 12 3", "T 12 3 4 5", "T 12 3 x", " 12 3 4", "12 3 4", "READY sum=0"] {
            assert_eq!(Tick::parse(other), None, "{other}");
        }
    }

    /// Guards the verdict: a failed check must not be read as a good one, nor a missing file as a counter.
    #[test]
    fn a_bad_verdict_is_bad() {
        let line = "VERIFY ok=0 big=BAD sum=00ff dirty=OK tick=7 disk=5 disk2=5 file=NotFound file2=5";
        let verify = Verify::parse(line).unwrap();
        assert!(!verify.ok && !verify.big_ok && verify.dirty_ok);
        assert_eq!((verify.tick, verify.disk, verify.file, verify.file2), (7, 5, None, Some(5)));
        assert_eq!(Verify::parse("VERIFY ok=1"), None);
    }
}
