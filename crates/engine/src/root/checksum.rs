//! The checksum of a record: a field `checksum` of its own over all the other fields (docs/format.md).
//!
//! It is there for damage that leaves a file readable: a flipped bit in an id or a path. A person can edit a record all the
//! same: without the field a record is taken as it is, as those that were written before there were checksums.

use serde_json::{Map, Value};

use crate::error::{Context, Result};

/// The field.
const FIELD: &str = "checksum";

/// Puts the checksum into the text of a JSON object, as its last field.
///
/// The numbers are hashed as they are read from this text, so that it does not matter how they were made.
pub(crate) fn add(text: &str) -> Result<String> {
    let parsed: Value = serde_json::from_str(text).context(|| "cannot read a record back".into())?;
    let Some(record) = parsed.as_object().filter(|record| !record.is_empty()) else {
        return Ok(text.to_owned());
    };
    let body = text.trim_end().strip_suffix('}').map_or(text, str::trim_end);
    Ok(format!("{body},\n  \"{FIELD}\": \"{}\"\n}}", of(record)))
}

/// Whether a record has no checksum, or the right one.
pub(crate) fn is_right(record: &Value) -> bool {
    let Some(record) = record.as_object() else { return true };
    record.get(FIELD).is_none_or(|found| *found == *of(record))
}

/// The checksum of all other fields: BLAKE3 of the canonical form, in hexadecimal.
fn of(record: &Map<String, Value>) -> String {
    let mut canonical = Vec::new();
    write_object(record.iter().filter(|(key, _)| *key != FIELD), &mut canonical);
    blake3::hash(&canonical).to_hex().to_string()
}

/// The canonical form: no white space, the fields of each object sorted by name.
fn write(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Object(fields) => write_object(fields.iter(), out),
        Value::Array(elements) => {
            out.push(b'[');
            for (index, element) in elements.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write(element, out);
            }
            out.push(b']');
        }
        simple => out.extend(simple.to_string().as_bytes()),
    }
}

fn write_object<'a>(fields: impl Iterator<Item = (&'a String, &'a Value)>, out: &mut Vec<u8>) {
    let mut fields: Vec<_> = fields.collect();
    fields.sort_by_key(|(key, _)| *key);
    out.push(b'{');
    for (index, (key, value)) in fields.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend(Value::from(key.as_str()).to_string().as_bytes());
        out.push(b':');
        write(value, out);
    }
    out.push(b'}');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Value {
        serde_json::from_str(text).unwrap()
    }

    /// Guards the form that is hashed: a program that made it otherwise would call every older record damaged. The hash is
    /// that of `{"a":[1,2.50,"\u00fc\n",{}],"b":{"x":null,"y":true}}` with these numbers and letters as JSON has them.
    #[test]
    fn the_canonical_form_stays() {
        let record = parsed(r#"{ "b": {"y": true, "x": null}, "checksum": "?", "a": [1, 2.5, "ü\n", {}] }"#);
        let mut canonical = Vec::new();
        write_object(record.as_object().unwrap().iter().filter(|(key, _)| *key != FIELD), &mut canonical);
        let expected = r#"{"a":[1,2.5,"ü\n",{}],"b":{"x":null,"y":true}}"#;
        assert_eq!(String::from_utf8(canonical).unwrap(), expected);
        assert_eq!(of(record.as_object().unwrap()), blake3::hash(expected.as_bytes()).to_hex().to_string());
    }

    /// Guards records from damage that leaves them readable, and people from having to keep the order or the white space.
    #[test]
    fn any_other_content_is_noticed() {
        let text = "{\n  \"version\": 1,\n  \"pause_ms\": 12.345678901234567,\n  \"id\": \"00aa\"\n}\n";
        let with = add(text).unwrap();
        assert!(is_right(&parsed(&with)), "{with}");
        let Value::Object(fields) = parsed(&with) else { panic!("an object") };
        let turned: Map<String, Value> = fields.into_iter().rev().collect();
        assert!(is_right(&turned.into()), "the order of fields says nothing");
        assert!(is_right(&parsed(&with.replace(['\n', ' '], ""))), "nor does white space");
        for (from, to) in [("00aa", "00ab"), ("12.3", "12.4"), ("\"id\"", "\"ie\""), ("1,", "2,")] {
            assert!(!is_right(&parsed(&with.replacen(from, to, 1))), "{from}");
        }
        assert!(is_right(&parsed(text)), "one without a checksum is taken as it is");
    }
}
