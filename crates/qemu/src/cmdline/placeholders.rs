//! `{name}`, `{run}` and `{port:N}` in a command line, replaced at each start.
//!
//! A value is escaped for the place it is put in: commas doubled in `key=value` text, JSON escapes in JSON.
//! Anything else in braces is the user's own and stays word for word.

use std::collections::{BTreeMap, BTreeSet};

use super::table::Argument;
use super::{CommandLine, Opt};

/// What the placeholders stand for at one start of a VM.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placeholders {
    /// For `{name}`: the VM's name.
    pub name: String,
    /// For `{run}`: the VM's folder for sockets and logs, without a slash at the end.
    pub run: String,
    /// For `{port:N}`: the port that stands for N; N itself where it is not here.
    pub ports: BTreeMap<u16, u16>,
}

/// How a value has to be written where it is put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Escape {
    None,
    Commas,
    Json,
    /// `file=json:{...}` within `key=value` text.
    JsonAndCommas,
}

/// One placeholder.
enum Placeholder {
    Name,
    Run,
    Port(u16),
}

impl CommandLine {
    /// This command line with its placeholders replaced.
    #[must_use]
    pub fn substitute(&self, values: &Placeholders) -> Self {
        let mut line = self.clone();
        for option in &mut line.options {
            let argument = option.argument();
            if let Some(text) = &mut option.value {
                *text = substitute(text, argument, values);
            }
        }
        line
    }

    /// The ports N of all `{port:N}`, each once, in ascending order.
    #[must_use]
    pub fn ports_wanted(&self) -> Vec<u16> {
        let mut ports = BTreeSet::new();
        for text in self.options.iter().map(Opt::text) {
            for (at, _) in text.match_indices('{') {
                if let Some((Placeholder::Port(port), _)) = placeholder_at(&text[at..]) {
                    ports.insert(port);
                }
            }
        }
        ports.into_iter().collect()
    }
}

fn substitute(text: &str, argument: Argument, values: &Placeholders) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('{') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let Some((placeholder, length)) = placeholder_at(rest) else {
            out.push('{');
            rest = &rest[1..];
            continue;
        };
        let value = match placeholder {
            Placeholder::Name => values.name.clone(),
            Placeholder::Run => values.run.clone(),
            Placeholder::Port(port) => values.ports.get(&port).unwrap_or(&port).to_string(),
        };
        out.push_str(&escaped(&value, escape_for(text, text.len() - rest.len(), argument)));
        rest = &rest[length..];
    }
    out.push_str(rest);
    out
}

/// The placeholder a text begins with, and its length.
fn placeholder_at(text: &str) -> Option<(Placeholder, usize)> {
    let end = text.find('}')?;
    let placeholder = match text.get(1..end)? {
        "name" => Placeholder::Name,
        "run" => Placeholder::Run,
        word => {
            let digits = word.strip_prefix("port:")?;
            let is_plain = !digits.starts_with('0') && digits.bytes().all(|byte| byte.is_ascii_digit());
            Placeholder::Port(digits.parse().ok().filter(|_| is_plain)?)
        }
    };
    Some((placeholder, end + 1))
}

/// How a value has to be written at `at` in an option's argument.
fn escape_for(text: &str, at: usize, argument: Argument) -> Escape {
    match argument {
        Argument::None => Escape::None,
        Argument::Plain if text.starts_with("json:") => Escape::Json,
        Argument::Plain => Escape::None,
        // These take the rest of the word as a path.
        Argument::Character if ["file:", "pipe:", "/"].iter().any(|start| text.starts_with(start)) => {
            Escape::None
        }
        Argument::Character => Escape::Commas,
        Argument::Keys(_) if text.starts_with('{') => Escape::Json,
        Argument::Keys(_) if text[..at].contains("=json:") => Escape::JsonAndCommas,
        Argument::Keys(_) => Escape::Commas,
    }
}

fn escaped(value: &str, escape: Escape) -> String {
    let json = |value: &str| {
        let quoted = serde_json::Value::from(value).to_string();
        // QEMU also takes strings in single quotes, so that one needs an escape as well.
        quoted[1..quoted.len() - 1].replace('\'', "\\u0027")
    };
    match escape {
        Escape::None => value.to_owned(),
        Escape::Commas => value.replace(',', ",,"),
        Escape::Json => json(value),
        Escape::JsonAndCommas => json(value).replace(',', ",,"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values() -> Placeholders {
        Placeholders { name: "a,\"b".to_owned(), run: "/r".to_owned(), ports: BTreeMap::from([(22, 10022)]) }
    }

    fn substituted(option: &str, text: &str) -> String {
        let argv = ["qemu", option, text].map(str::to_owned);
        CommandLine::parse(&argv).unwrap().substitute(&values()).to_argv()[2].clone()
    }

    /// Guards the escape of each kind of place, and that foreign braces stay.
    #[test]
    fn a_value_is_escaped_for_its_place() {
        let cases = [
            ("-name", "guest={name},process=x", "guest=a,,\"b,process=x"),
            ("-append", "vm={name} {other} {", "vm=a,\"b {other} {"),
            ("-device", r#"{"driver":"x","serial":"{name}"}"#, r#"{"driver":"x","serial":"a,\"b"}"#),
            (
                "-drive",
                r#"file=json:{"driver":"file",,"filename":"{name}"}"#,
                r#"file=json:{"driver":"file",,"filename":"a,,\"b"}"#,
            ),
            (
                "-netdev",
                "user,id=n,hostfwd=tcp::{port:22}-:22,hostfwd=tcp::{port:80}-:80",
                "user,id=n,hostfwd=tcp::10022-:22,hostfwd=tcp::80-:80",
            ),
            ("-serial", "unix:{run}/c.sock,server=on", "unix:/r/c.sock,server=on"),
            ("-serial", "file:{name}", "file:a,\"b"),
            (
                "-kernel",
                "{run}/{port:0}{port:070}{port:70000}{port:}",
                "/r/{port:0}{port:070}{port:70000}{port:}",
            ),
            ("-hda", "{{name}}", "{a,\"b}"),
        ];
        for (option, text, wanted) in cases {
            assert_eq!(substituted(option, text), wanted, "{option} {text}");
        }
    }

    /// Guards that a port is asked for once, however often it is used.
    #[test]
    fn ports_are_listed_once() {
        let argv = ["qemu", "-append", "{port:80}{port:22}{port:80}{port:x}"].map(str::to_owned);
        assert_eq!(CommandLine::parse(&argv).unwrap().ports_wanted(), [22, 80]);
    }
}
