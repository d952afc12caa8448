//! Lines out of bytes: QMP and the guest agent send one JSON document per line.
//!
//! Any split of the same bytes gives the same lines. A line is ended by LF, with or without CR before it; blank lines
//! are skipped. Refuses a line over the limit as soon as it grows past it, so a peer can not make us buffer without
//! bound, and says at the end of the input whether a line was left unfinished.

use super::error::SessionError;

/// The longest line accepted: `query-qmp-schema`, a long reply, is 230 KiB in QEMU 10.0.2.
pub const MAX_LINE_BYTES: usize = 16 << 20;

/// Collects bytes and gives whole lines.
#[derive(Debug)]
pub struct LineBuffer {
    bytes: Vec<u8>,
    /// Bytes before this are given out already.
    start: usize,
    /// Bytes between `start` and this hold no LF.
    scanned: usize,
    limit_bytes: usize,
}

impl LineBuffer {
    /// Makes an empty buffer that refuses lines over `limit_bytes`.
    pub fn new(limit_bytes: usize) -> Self {
        Self { bytes: Vec::new(), start: 0, scanned: 0, limit_bytes }
    }

    /// Appends what came from the peer.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.bytes.drain(..self.start);
            self.scanned -= self.start;
            self.start = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Takes the next whole line, without its end; None when more bytes are needed.
    ///
    /// # Errors
    /// [`SessionError::LineTooLong`]; the buffer is of no further use then.
    pub fn next_line(&mut self) -> Result<Option<Vec<u8>>, SessionError> {
        loop {
            let unscanned = self.bytes.get(self.scanned..).unwrap_or_default();
            let Some(found) = unscanned.iter().position(|byte| *byte == b'\n') else {
                self.scanned = self.bytes.len();
                self.check_length(self.scanned - self.start)?;
                return Ok(None);
            };
            let end = self.scanned + found;
            self.check_length(end - self.start)?;
            let line = self.bytes.get(self.start..end).unwrap_or_default();
            let line = line.strip_suffix(b"\r").unwrap_or(line).to_vec();
            self.start = end + 1;
            self.scanned = self.start;
            if !line.trim_ascii().is_empty() {
                return Ok(Some(line));
            }
        }
    }

    /// Drops everything up to and including the first `marker`; false, with all dropped, when it has not come yet.
    pub fn skip_past(&mut self, marker: u8) -> bool {
        let rest = self.bytes.get(self.start..).unwrap_or_default();
        let found = rest.iter().position(|byte| *byte == marker);
        self.start = found.map_or(self.bytes.len(), |at| self.start + at + 1);
        self.scanned = self.start;
        found.is_some()
    }

    /// Says how the input ended: between two lines, or inside one.
    pub fn end(&self) -> SessionError {
        let rest = self.bytes.get(self.start..).unwrap_or_default().trim_ascii();
        if rest.is_empty() { SessionError::Closed } else { SessionError::HalfLine { bytes: rest.len() } }
    }

    fn check_length(&self, length: usize) -> Result<(), SessionError> {
        if length > self.limit_bytes {
            return Err(SessionError::LineTooLong { limit_bytes: self.limit_bytes });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(buffer: &mut LineBuffer) -> Vec<String> {
        std::iter::from_fn(|| buffer.next_line().unwrap())
            .map(|line| String::from_utf8(line).unwrap())
            .collect()
    }

    /// Guards against an unbounded buffer: the refusal comes while the line is still growing.
    #[test]
    fn a_line_over_the_limit_is_refused_before_its_end_comes() {
        let mut buffer = LineBuffer::new(8);
        buffer.push(b"12345678");
        assert!(matches!(buffer.next_line(), Ok(None)));
        buffer.push(b"9");
        assert!(matches!(buffer.next_line(), Err(SessionError::LineTooLong { limit_bytes: 8 })));
    }

    /// Guards the limit for a line that comes whole in one read.
    #[test]
    fn a_whole_line_over_the_limit_is_refused() {
        let mut buffer = LineBuffer::new(8);
        buffer.push(b"12345678\n123456789\n");
        assert_eq!(buffer.next_line().unwrap().unwrap(), b"12345678");
        assert!(matches!(buffer.next_line(), Err(SessionError::LineTooLong { .. })));
    }

    /// QEMU ends lines with CR LF; older ones and the agent with LF.
    #[test]
    fn line_ends_and_blank_lines_are_dropped() {
        let mut buffer = LineBuffer::new(100);
        buffer.push(b"\r\n\n  \r\na\r\nb\nc");
        assert_eq!(lines(&mut buffer), ["a", "b"]);
        assert!(matches!(buffer.end(), SessionError::HalfLine { bytes: 1 }));
        buffer.push(b"d\n");
        assert_eq!(lines(&mut buffer), ["cd"]);
        assert!(matches!(buffer.end(), SessionError::Closed));
    }

    /// The agent's sync marker may come behind rubbish of any length, which must not count as a line.
    #[test]
    fn skipping_to_a_marker_forgets_what_was_before() {
        let mut buffer = LineBuffer::new(100);
        buffer.push(b"{\"half");
        assert!(matches!(buffer.next_line(), Ok(None)));
        assert!(!buffer.skip_past(0xff));
        buffer.push(b"rest\n\xff{}\n");
        assert!(buffer.skip_past(0xff));
        assert_eq!(lines(&mut buffer), ["{}"]);
    }
}
