//! Sizes, durations and times as people read them.

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// A size with a binary unit: `312 MiB`, `1.2 GiB`.
#[allow(clippy::cast_precision_loss, reason = "three digits are shown")]
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    // 1023.5 would be shown as 1024.
    while value >= 1023.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let decimals = usize::from(value < 9.95);
    format!("{value:.decimals$} {}", UNITS[unit])
}

/// A duration given in milliseconds: `6.2 ms`, `1.4 s`, `2 min 5 s`.
pub(crate) fn duration_ms(ms: f64) -> String {
    match ms {
        ms if ms < 9.95 => format!("{ms:.1} ms"),
        ms if ms < 999.5 => format!("{ms:.0} ms"),
        ms if ms < 59_950.0 => format!("{:.1} s", ms / 1000.0),
        ms => {
            let seconds = (ms / 1000.0).round();
            format!("{:.0} min {:.0} s", (seconds / 60.0).floor(), seconds % 60.0)
        }
    }
}

/// An instant in the user's time zone, to the second.
pub(crate) fn time(instant: Timestamp) -> String {
    instant.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// `1 snapshot`, `2 snapshots`.
pub(crate) fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// Text of others with its control characters made visible: it can't move the cursor or end a line.
pub(crate) fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { shown.extend(c.escape_debug()) } else { shown.push(c) }
    }
    shown
}

/// Words as a shell takes them back: quoted where that is needed.
pub(crate) fn shell_words(words: &[String]) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=+,.:/@%{}".contains(c);
    let quoted = |word: &String| {
        let word = printable(word);
        if !word.is_empty() && word.chars().all(plain) {
            word
        } else {
            format!("'{}'", word.replace('\'', r"'\''"))
        }
    };
    words.iter().map(quoted).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let shown = [0, 1023, 1024, 10 << 10, 1_048_575, 312 << 20, 1_288_490_189, u64::MAX].map(size);
        assert_eq!(shown, ["0 B", "1023 B", "1.0 KiB", "10 KiB", "1.0 MiB", "312 MiB", "1.2 GiB", "16 EiB"]);
    }

    #[test]
    fn durations() {
        let shown = [0.0, 6.21, 9.96, 123.4, 999.6, 1400.0, 59_960.0, 125_000.0].map(duration_ms);
        assert_eq!(
            shown,
            ["0.0 ms", "6.2 ms", "10 ms", "123 ms", "1.0 s", "1.4 s", "1 min 0 s", "2 min 5 s"]
        );
    }

    /// A snapshot's message must not be able to drive the terminal of who lists it.
    #[test]
    fn control_characters_are_shown() {
        assert_eq!(printable("a\u{1b}[31m\nb\u{9b}c ü"), "a\\u{1b}[31m\\nb\\u{9b}c ü");
    }

    #[test]
    fn words_for_a_shell() {
        let words = ["qemu", "-name", "my vm", "it's", ""].map(str::to_owned);
        assert_eq!(shell_words(&words), r"qemu -name 'my vm' 'it'\''s' ''");
    }
}
