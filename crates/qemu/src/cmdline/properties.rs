//! The argument of an option that may be `key=value` text or JSON, read in one way.
//!
//! `-blockdev`, `-device`, `-object`, `-netdev` and others take both forms. Keys of nested objects are written
//! with dots (`file.filename`), whichever form the user chose. QEMU's JSON also takes strings in single
//! quotes; those are read here as well.

use serde_json::{Map, Value};

use super::error::JsonError;
use super::keyvalues::{KeyValues, parse_bool};

/// Nesting beyond which a key is not taken apart (QEMU's own JSON depth limit is 1024).
const MAX_DEPTH: usize = 64;

/// An option's argument.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Properties {
    /// `key=value,...`
    Keys(KeyValues),
    /// `{...}`
    Json(Value),
}

impl Properties {
    /// Reads an argument: JSON where it begins with a brace, as QEMU decides it.
    pub(super) fn parse(text: &str, implied_key: Option<&str>) -> Result<Self, JsonError> {
        if text.starts_with('{') {
            return parse_json(text).map(Self::Json);
        }
        Ok(Self::Keys(KeyValues::parse(text, implied_key)))
    }

    /// The value of a key as text: booleans as `on`/`off`, numbers in decimal; `None` for null, objects, lists.
    pub(super) fn get(&self, key: &str) -> Option<String> {
        match self {
            Self::Keys(keys) => keys.get(key).map(str::to_owned),
            Self::Json(value) => scalar_text(lookup(value, key)?),
        }
    }

    /// Whether a key is given and means yes.
    pub(super) fn is_on(&self, key: &str) -> bool {
        self.get(key).as_deref().and_then(parse_bool) == Some(true)
    }

    /// Whether a key is given and means no.
    pub(super) fn is_off(&self, key: &str) -> bool {
        self.get(key).as_deref().and_then(parse_bool) == Some(false)
    }

    /// Gives each scalar the value that `rewrite` has for its key (with dots) and text; `None` leaves it as it is.
    pub(super) fn rewrite(&mut self, rewrite: &mut dyn FnMut(&str, &str) -> Option<String>) {
        match self {
            Self::Keys(keys) => keys.rewrite(rewrite),
            Self::Json(value) => rewrite_json(value, "", rewrite),
        }
    }

    /// Adds a key that is not there.
    pub(super) fn push(&mut self, key: &str, value: &str) {
        match self {
            Self::Keys(keys) => keys.push(key, value),
            Self::Json(tree) => insert(tree, key, Value::String(value.to_owned())),
        }
    }

    /// Drops a key, with what is below it.
    pub(super) fn remove(&mut self, key: &str) {
        match self {
            Self::Keys(keys) => keys.remove_where(|other| other == key),
            Self::Json(tree) => {
                if let Some(map) = tree.as_object_mut() {
                    map.remove(key);
                }
            }
        }
    }

    /// The argument as it stands on a command line.
    pub(super) fn to_text(&self) -> String {
        match self {
            Self::Keys(keys) => keys.to_string(),
            Self::Json(value) => value.to_string(),
        }
    }

    /// The argument as one nested object; lists written with dots become objects with number keys.
    pub(super) fn tree(&self) -> Value {
        match self {
            Self::Keys(keys) => {
                let mut tree = Value::Object(Map::new());
                for (key, value) in keys.iter() {
                    insert(&mut tree, key, Value::String(value.to_owned()));
                }
                tree
            }
            Self::Json(value) => value.clone(),
        }
    }
}

/// Parses JSON as QEMU does: strings may also stand in single quotes.
pub(super) fn parse_json(text: &str) -> Result<Value, JsonError> {
    serde_json::from_str(text)
        .or_else(|error| serde_json::from_str(&double_quotes(text)).map_err(|_| error))
        .map_err(|error| JsonError(error.to_string()))
}

/// Rewrites strings in single quotes to strings in double quotes.
fn double_quotes(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        match (quote, char) {
            (Some(_), '\\') => match chars.next() {
                Some('\'') => out.push('\''),
                Some(escaped) => out.extend(['\\', escaped]),
                None => out.push('\\'),
            },
            (Some('\''), '"') => out.push_str("\\\""),
            (Some(open), _) if char == open => {
                quote = None;
                out.push('"');
            }
            (None, '\'' | '"') => {
                quote = Some(char);
                out.push('"');
            }
            _ => out.push(char),
        }
    }
    out
}

/// Finds a key in an object: nested along its dots, or written with dots as it stands.
fn lookup<'v>(value: &'v Value, key: &str) -> Option<&'v Value> {
    if let Some(found) = value.get(key) {
        return Some(found);
    }
    key.match_indices('.').find_map(|(at, _)| lookup(value.get(&key[..at])?, &key[at + 1..]))
}

/// Puts a value at a dotted key. Where a part of the path is no object already, the later one counts.
pub(super) fn insert(tree: &mut Value, key: &str, value: Value) {
    let mut node = tree;
    let mut parts = key.splitn(MAX_DEPTH, '.').peekable();
    while let Some(part) = parts.next() {
        if !node.is_object() {
            *node = Value::Object(Map::new());
        }
        let Value::Object(map) = node else { return };
        if parts.peek().is_none() {
            map.insert(part.to_owned(), value);
            return;
        }
        node = map.entry(part).or_insert(Value::Null);
    }
}

/// A scalar as `key=value` text would write it.
pub(super) fn scalar_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(flag) => Some(if *flag { "on" } else { "off" }.to_owned()),
        Value::Number(number) => Some(number.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// All scalars of a tree as dotted keys and text, in order; nulls are left out.
pub(super) fn flatten(tree: &Value) -> Vec<(String, String)> {
    let mut out = Vec::new();
    flatten_into(&mut out, "", tree);
    out
}

fn flatten_into(out: &mut Vec<(String, String)>, prefix: &str, value: &Value) {
    let join = |key: &str| if prefix.is_empty() { key.to_owned() } else { format!("{prefix}.{key}") };
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| flatten_into(out, &join(key), value)),
        Value::Array(list) => {
            list.iter().enumerate().for_each(|(at, value)| flatten_into(out, &join(&at.to_string()), value));
        }
        Value::Null => {}
        Value::String(_) | Value::Bool(_) | Value::Number(_) => {
            out.extend(scalar_text(value).map(|text| (prefix.to_owned(), text)));
        }
    }
}

/// Rewrites the scalars of a tree. A number stays one where its new text is a number.
fn rewrite_json(value: &mut Value, key: &str, rewrite: &mut dyn FnMut(&str, &str) -> Option<String>) {
    let join = |part: &str| if key.is_empty() { part.to_owned() } else { format!("{key}.{part}") };
    match value {
        Value::Object(map) => {
            for (part, value) in map.iter_mut() {
                rewrite_json(value, &join(part), rewrite);
            }
        }
        Value::Array(list) => {
            for (at, value) in list.iter_mut().enumerate() {
                rewrite_json(value, &join(&at.to_string()), rewrite);
            }
        }
        scalar => {
            let new = scalar_text(scalar).and_then(|text| rewrite(key, &text));
            if let Some(text) = new {
                let number = text.parse::<u64>().ok().filter(|_| scalar.is_number());
                *scalar = number.map_or_else(|| Value::String(text), Value::from);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Guards that both forms of an option read alike.
    #[test]
    fn both_forms_read_alike() {
        let forms = [
            "driver=qcow2,node-name=d,file.driver=file,file.filename=/a,,b,read-only=on",
            r#"{"driver":"qcow2","node-name":"d","file":{"driver":"file","filename":"/a,b"},"read-only":true}"#,
            "{'driver':'qcow2','node-name':'d','file':{'driver':'file','filename':'/a,b'},'read-only':true}",
            "qcow2,node-name=d,file.driver=file,file.filename=/a,,b,read-only=yes",
        ];
        for form in forms {
            let properties = Properties::parse(form, Some("driver")).unwrap();
            assert_eq!(properties.get("driver").as_deref(), Some("qcow2"), "{form}");
            assert_eq!(properties.get("file.filename").as_deref(), Some("/a,b"), "{form}");
            assert!(properties.is_on("read-only"), "{form}");
            assert!(!properties.is_on("file"), "{form}");
        }
    }

    /// Guards the reading of QEMU's single quotes with either quote inside.
    #[test]
    fn single_quotes_are_read() {
        assert_eq!(parse_json(r#"{'a':'b"c\'d'}"#).unwrap(), json!({"a": "b\"c'd"}));
        assert_eq!(parse_json(r#"{"a":"it's"}"#).unwrap(), json!({"a": "it's"}));
        assert!(parse_json("{'a':").is_err());
    }

    /// Guards that flattening is the inverse of inserting.
    #[test]
    fn flatten_is_the_inverse_of_insert() {
        let tree = json!({"driver": "nbd", "server": {"type": "inet", "host": "h"}});
        let mut again = json!({});
        for (key, value) in flatten(&tree) {
            insert(&mut again, &key, Value::String(value));
        }
        assert_eq!(again, tree);
    }
}
