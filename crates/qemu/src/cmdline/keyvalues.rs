//! QEMU's `key=value,key2=value2` text: parsed, edited, and printed back without loss.
//!
//! Guarantee: `KeyValues::parse(text, _).to_string() == text` for any text, and after an edit every entry
//! that was not edited still prints byte for byte as it was written.
//!
//! ```text
//! entries = entry *( "," entry )
//! entry   = key "=" value        value: a comma in it is written ",,"
//!         / value                first entry only, where the option has an implied key
//!         / key                  a flag: same as key=on
//! ```
//! Of several entries with one key the last counts, as in QEMU.

use std::fmt;

/// An option's `key=value,...` text as an editable list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValues {
    entries: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    /// What is printed: escapes included, separators not.
    raw: String,
    key: String,
    value: String,
    /// Written without `key=`.
    implied: bool,
}

impl KeyValues {
    /// Parses the text of an option; `implied_key` is the key of a first word without `=`.
    ///
    /// Never fails: what QEMU would refuse is kept word for word for QEMU to refuse.
    #[must_use]
    pub fn parse(text: &str, implied_key: Option<&str>) -> Self {
        let mut entries = Vec::new();
        let mut rest = Some(text);
        while let Some(text) = rest {
            let implied_key = if entries.is_empty() { implied_key } else { None };
            let (entry, tail) = Entry::parse(text, implied_key);
            entries.push(entry);
            rest = tail;
        }
        Self { entries }
    }

    /// The value that counts for `key`: that of its last entry.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.entries.iter().rev().find(|entry| entry.key == key).map(|entry| entry.value.as_str())
    }

    /// Whether `key` is given and means yes; `None` where it is absent or no boolean.
    #[must_use]
    pub fn get_bool(&self, key: &str) -> Option<bool> {
        parse_bool(self.get(key)?)
    }

    /// All keys and unescaped values, as written, first to last.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.entries
            .iter()
            .filter(|entry| !entry.key.is_empty())
            .map(|entry| (entry.key.as_str(), entry.value.as_str()))
    }

    /// Whether any key satisfies `wanted`.
    pub fn any_key(&self, wanted: impl Fn(&str) -> bool) -> bool {
        self.iter().any(|(key, _)| wanted(key))
    }

    /// Sets `key` to `value` where its last entry stands (earlier ones are dropped), or at the end.
    pub fn set(&mut self, key: &str, value: &str) {
        let Some(at) = self.entries.iter().rposition(|entry| entry.key == key) else {
            return self.push(key, value);
        };
        let implied = self.entries[at].implied && at == 0 && !value.is_empty() && !value.contains(['=', ',']);
        self.entries[at] = if implied { Entry::implied(key, value) } else { Entry::with_key(key, value) };
        let mut index = 0;
        self.entries.retain(|entry| {
            index += 1;
            index > at || entry.key != key
        });
    }

    /// Adds an entry at the end, whether or not the key is there already.
    pub fn push(&mut self, key: &str, value: &str) {
        // A trailing comma, or no text at all, is an empty entry: it is not followed but replaced.
        self.entries.pop_if(|last| last.raw.is_empty());
        self.entries.push(Entry::with_key(key, value));
    }

    /// Adds an entry behind the first one that has key `after`, or at the end.
    pub fn insert_after(&mut self, after: &str, key: &str, value: &str) {
        match self.entries.iter().position(|entry| entry.key == after) {
            Some(at) => self.entries.insert(at + 1, Entry::with_key(key, value)),
            None => self.push(key, value),
        }
    }

    /// Renames the first entry whose key satisfies `wanted` to `key=value`; false where there is none.
    pub fn replace_first(&mut self, wanted: impl Fn(&str) -> bool, key: &str, value: &str) -> bool {
        let Some(at) = self.entries.iter().position(|entry| wanted(&entry.key)) else { return false };
        self.entries[at] = Entry::with_key(key, value);
        true
    }

    /// Gives each entry the value that `rewrite` has for its key and value; `None` leaves it as it was written.
    pub fn rewrite(&mut self, mut rewrite: impl FnMut(&str, &str) -> Option<String>) {
        for entry in self.entries.iter_mut().filter(|entry| !entry.key.is_empty()) {
            if let Some(value) = rewrite(&entry.key, &entry.value) {
                let implied = entry.implied && !value.is_empty() && !value.contains(['=', ',']);
                let key = entry.key.clone();
                *entry = if implied { Entry::implied(&key, &value) } else { Entry::with_key(&key, &value) };
            }
        }
    }

    /// Drops all entries whose key satisfies `unwanted`.
    pub fn remove_where(&mut self, unwanted: impl Fn(&str) -> bool) {
        self.entries.retain(|entry| entry.key.is_empty() || !unwanted(&entry.key));
    }
}

impl fmt::Display for KeyValues {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, entry) in self.entries.iter().enumerate() {
            if index > 0 {
                out.write_str(",")?;
            }
            out.write_str(&entry.raw)?;
        }
        Ok(())
    }
}

impl Entry {
    /// Takes one entry off the front of `text`; the tail is `None` where no separator follows.
    fn parse<'t>(text: &'t str, implied_key: Option<&str>) -> (Self, Option<&'t str>) {
        let name_end = text.find(['=', ',']).unwrap_or(text.len());
        let has_value = text[name_end..].starts_with('=');
        if !has_value && (implied_key.is_none() || name_end == 0) {
            return (Self::flag(&text[..name_end]), text.get(name_end + 1..));
        }
        let value_start = if has_value { name_end + 1 } else { 0 };
        let (value, raw_end) = take_value(text, value_start);
        let key = if has_value { &text[..name_end] } else { implied_key.unwrap_or_default() };
        let raw = text[..raw_end].to_owned();
        let entry = Self { raw, key: key.to_owned(), value, implied: !has_value };
        (entry, text.get(raw_end + 1..))
    }

    fn flag(word: &str) -> Self {
        Self { raw: word.to_owned(), key: word.to_owned(), value: "on".to_owned(), implied: false }
    }

    fn with_key(key: &str, value: &str) -> Self {
        let raw = format!("{key}={}", escape_commas(value));
        Self { raw, key: key.to_owned(), value: value.to_owned(), implied: false }
    }

    fn implied(key: &str, value: &str) -> Self {
        Self { raw: value.to_owned(), key: key.to_owned(), value: value.to_owned(), implied: true }
    }
}

/// Reads an escaped value from `start`: the value without escapes, and where it ends.
fn take_value(text: &str, start: usize) -> (String, usize) {
    let mut value = String::new();
    let mut at = start;
    while let Some(length) = text[at..].find(',') {
        value.push_str(&text[at..at + length]);
        at += length;
        if !text[at + 1..].starts_with(',') {
            return (value, at);
        }
        value.push(',');
        at += 2;
    }
    value.push_str(&text[at..]);
    (value, text.len())
}

/// Doubles commas, so that `value` can stand in `key=value` text.
#[must_use]
pub fn escape_commas(value: &str) -> String {
    value.replace(',', ",,")
}

/// Reads a boolean as QEMU does.
#[must_use]
pub fn parse_bool(value: &str) -> Option<bool> {
    match value {
        "on" | "yes" | "true" | "y" => Some(true),
        "off" | "no" | "false" | "n" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pairs(text: &str, implied: Option<&str>) -> Vec<(String, String)> {
        KeyValues::parse(text, implied)
            .iter()
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect()
    }

    fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    /// Guards the reading of escapes, flags and implied keys as QEMU's own parser reads them.
    #[test]
    fn reads_as_qemu_does() {
        type Case = (&'static str, Option<&'static str>, &'static [(&'static str, &'static str)]);
        let cases: &[Case] = &[
            ("file=a,if=virtio", None, &[("file", "a"), ("if", "virtio")]),
            ("file=a,,b=c,if=none", None, &[("file", "a,b=c"), ("if", "none")]),
            ("file=,,,if=none", None, &[("file", ","), ("if", "none")]),
            ("q35,accel=kvm", Some("type"), &[("type", "q35"), ("accel", "kvm")]),
            ("a,,b", Some("guest"), &[("guest", "a,b")]),
            ("file=x,readonly", None, &[("file", "x"), ("readonly", "on")]),
            ("file=x,", None, &[("file", "x")]),
            ("file=", None, &[("file", "")]),
            ("", Some("type"), &[]),
        ];
        for (text, implied, wanted) in cases {
            assert_eq!(pairs(text, *implied), owned(wanted), "{text}");
        }
    }

    /// Guards that an edit leaves every other entry as it was written, escapes and odd spelling included.
    #[test]
    fn an_edit_touches_one_entry() {
        let mut keys = KeyValues::parse("if=none,,x,file=/a,serial=1,,2,readonly", None);
        keys.set("file", "/b,c");
        keys.insert_after("file", "format", "qcow2");
        assert_eq!(keys.to_string(), "if=none,,x,file=/b,,c,format=qcow2,serial=1,,2,readonly");
        keys.remove_where(|key| key == "serial");
        assert_eq!(keys.to_string(), "if=none,,x,file=/b,,c,format=qcow2,readonly");
    }

    /// Guards that the implied form stays where it can, and is spelled out where the value forbids it.
    #[test]
    fn an_implied_key_stays_implied() {
        let mut keys = KeyValues::parse("q35,accel=tcg", Some("type"));
        keys.set("type", "pc-q35-10.0");
        assert_eq!(keys.to_string(), "pc-q35-10.0,accel=tcg");
        keys.set("type", "a,b");
        assert_eq!(keys.to_string(), "type=a,,b,accel=tcg");
    }

    /// Guards against an earlier duplicate surviving an edit and confusing a reader.
    #[test]
    fn the_last_duplicate_counts_and_setting_leaves_one() {
        let mut keys = KeyValues::parse("file=a,if=ide,file=b", None);
        assert_eq!(keys.get("file"), Some("b"));
        keys.set("file", "c");
        assert_eq!(keys.to_string(), "if=ide,file=c");
    }

    proptest! {
        /// Guards losslessness for any text.
        #[test]
        fn print_is_the_inverse_of_parse(text in "[a,=.é]{0,24}|.{0,40}", implied in proptest::option::of("[a-z]{1,4}")) {
            prop_assert_eq!(KeyValues::parse(&text, implied.as_deref()).to_string(), text);
        }

        /// Guards that a value that was set is read back, whatever it holds.
        #[test]
        fn a_value_set_is_the_value_read(text in "[a-c,=]{0,16}", value in ".{0,20}") {
            let mut keys = KeyValues::parse(&text, Some("a"));
            keys.set("key", &value);
            let printed = KeyValues::parse(&keys.to_string(), Some("a"));
            prop_assert_eq!(printed.get("key"), Some(value.as_str()));
        }
    }
}
