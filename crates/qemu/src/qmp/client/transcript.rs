//! The last lines each way, for error reports.
//!
//! Each direction has a ring of its own, so that a flood of events does not push out the commands that led to it.

use std::collections::VecDeque;

use crate::qmp::error::excerpt;

const KEPT_LINES: usize = 64;
const LINE_CHARS: usize = 400;

#[derive(Debug, Default)]
pub(super) struct Transcript {
    sent: VecDeque<(u64, String)>,
    received: VecDeque<(u64, String)>,
    next: u64,
}

impl Transcript {
    pub(super) fn sent(&mut self, line: &[u8]) {
        let number = self.number();
        push(&mut self.sent, (number, excerpt(line, LINE_CHARS)));
    }

    pub(super) fn received(&mut self, line: &[u8]) {
        let number = self.number();
        push(&mut self.received, (number, excerpt(line, LINE_CHARS)));
    }

    /// All lines kept, in the order in which they went by.
    pub(super) fn lines(&self) -> Vec<String> {
        let sent = self.sent.iter().map(|(number, line)| (*number, format!("-> {line}")));
        let received = self.received.iter().map(|(number, line)| (*number, format!("<- {line}")));
        let mut lines: Vec<(u64, String)> = sent.chain(received).collect();
        lines.sort_unstable_by_key(|(number, _)| *number);
        lines.into_iter().map(|(_, line)| line).collect()
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

fn push(ring: &mut VecDeque<(u64, String)>, entry: (u64, String)) {
    if ring.len() == KEPT_LINES {
        ring.pop_front();
    }
    ring.push_back(entry);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards the use of a transcript: the command that failed is still there behind a thousand events.
    #[test]
    fn a_flood_one_way_keeps_the_other_way() {
        let mut transcript = Transcript::default();
        transcript.sent(b"{\"execute\":\"stop\"}\n");
        for number in 0..1000 {
            transcript.received(format!("event {number}").as_bytes());
        }
        transcript.sent("x".repeat(5000).as_bytes());
        let lines = transcript.lines();
        assert_eq!(lines.len(), 2 + KEPT_LINES);
        assert_eq!(lines.first().unwrap(), "-> {\"execute\":\"stop\"}");
        assert_eq!(lines.get(1).unwrap(), "<- event 936");
        assert_eq!(lines.last().unwrap().len(), "-> ".len() + LINE_CHARS + "...".len());
    }
}
