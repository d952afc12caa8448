//! QEMU command lines: read, judged, edited and written, as plain values.
//!
//! A VM is a QEMU command line. [`CommandLine`] keeps every word of it as the user wrote it and answers what
//! vmrewind has to know (its disks, memory, sockets), says what can't be supported, and edits only what must
//! be edited: disk files, the machine alias, placeholders, and the options vmrewind adds. There are no files,
//! sockets, clock or environment here.
//!
//! ```text
//! user's argv -> parse -> check_supported -> disks            at `vm create`
//! template    -> substitute -> resolve_machine_alias -> set_disk_file* -> add_* -> to_argv   at each start
//! ```
//! In that order: substitution comes first, so that braces in a path vmrewind puts in are left alone.
//!
//! Guarantees: `CommandLine::parse(argv)?.to_argv() == argv`; what is not edited is kept byte for byte; no
//! argv makes any function panic. Refused: options that no QEMU from 7.2 to 10.0 has, for whether the next
//! word belongs to them can't be known.

mod base;
mod beside;
mod blockdev;
mod clone;
mod disks;
mod drives;
mod edit;
mod error;
mod facts;
mod keyvalues;
mod memory;
mod placeholders;
mod properties;
mod sockets;
mod support;
mod table;
mod write;

#[cfg(test)]
mod tests;

pub use base::{Backing, BaseLocation, BaseSpec, DiskOptions};
pub use beside::{Conflict, Later};
pub use clone::{Change, CloneValues, Separation, Shared};
pub use disks::{BlockHandle, DiskAt, DiskSpec};
pub use error::{CmdlineError, JsonError, Refusal};
pub use keyvalues::{KeyValues, escape_commas, parse_bool};
pub use memory::Block as MemoryBlock;
pub use placeholders::Placeholders;
pub use sockets::GuestAgentChannel;
pub use write::{
    Accelerator, Display, MachineRequest, Network, RequestedDisk, UefiFiles, write_command_line,
};

use properties::Properties;
use table::{Argument, argument_of};

/// A QEMU command line: the program and its options, word for word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandLine {
    program: String,
    options: Vec<Opt>,
    /// The id of the next option that is added.
    next_id: usize,
}

/// One option with its argument, or a disk image without an option.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Opt {
    /// Tells this option from others, also after some were removed.
    id: usize,
    /// The option as written, with its one or two dashes; `None` for a disk image without an option.
    word: Option<String>,
    /// The argument; always there where `word` is not.
    value: Option<String>,
}

impl CommandLine {
    /// Takes a command line apart; `argv[0]` is the QEMU program.
    ///
    /// # Errors
    /// [`CmdlineError::Empty`], [`CmdlineError::UnknownOption`] and [`CmdlineError::MissingArgument`].
    pub fn parse(argv: &[String]) -> Result<Self, CmdlineError> {
        let (program, words) = argv.split_first().ok_or(CmdlineError::Empty)?;
        let mut line = Self { program: program.clone(), options: Vec::new(), next_id: 0 };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let Some(name) = option_name(word) else {
                line.append(None, Some(word.clone()));
                continue;
            };
            let argument =
                argument_of(name).ok_or_else(|| CmdlineError::UnknownOption { option: word.clone() })?;
            let value = match argument {
                Argument::None => None,
                Argument::Plain | Argument::Keys(_) | Argument::Character => Some(
                    words
                        .next()
                        .cloned()
                        .ok_or_else(|| CmdlineError::MissingArgument { option: word.clone() })?,
                ),
            };
            line.append(Some(word.clone()), value);
        }
        Ok(line)
    }

    /// The words of this command line, the program first.
    #[must_use]
    pub fn to_argv(&self) -> Vec<String> {
        let words = self.options.iter().flat_map(|option| option.word.iter().chain(&option.value));
        std::iter::once(&self.program).chain(words).cloned().collect()
    }

    /// The QEMU program, as written.
    #[must_use]
    pub fn program(&self) -> &str {
        &self.program
    }

    /// Adds an option at the end; `word` with its dash.
    pub fn add_option(&mut self, word: &str, value: Option<&str>) {
        self.append(Some(word.to_owned()), value.map(str::to_owned));
    }

    /// Whether an option is given; `name` without dashes.
    #[must_use]
    pub fn has_option(&self, name: &str) -> bool {
        self.named(name).next().is_some()
    }

    fn append(&mut self, word: Option<String>, value: Option<String>) {
        self.options.push(Opt { id: self.next_id, word, value });
        self.next_id += 1;
    }

    fn named<'a>(&'a self, name: &'a str) -> impl DoubleEndedIterator<Item = &'a Opt> {
        self.options.iter().filter(move |option| option.name() == name)
    }
}

impl Opt {
    /// The name without dashes; empty for a disk image without an option.
    fn name(&self) -> &str {
        self.word.as_deref().and_then(option_name).unwrap_or_default()
    }

    fn text(&self) -> &str {
        self.value.as_deref().unwrap_or_default()
    }

    /// The option and its argument as a person would write them.
    fn display(&self) -> String {
        self.word.iter().chain(&self.value).map(String::as_str).collect::<Vec<_>>().join(" ")
    }

    fn argument(&self) -> Argument {
        if self.word.is_none() { Argument::Plain } else { argument_of(self.name()).unwrap_or(Argument::None) }
    }

    /// The argument as keys, JSON or not.
    fn properties(&self) -> Result<Properties, CmdlineError> {
        let implied = match self.argument() {
            Argument::Keys(implied) => implied,
            Argument::None | Argument::Plain | Argument::Character => None,
        };
        Properties::parse(self.text(), implied)
            .map_err(|source| CmdlineError::Json { option: self.display(), source })
    }

    /// The argument as keys, where it is not JSON.
    fn keys(&self) -> KeyValues {
        let implied = match self.argument() {
            Argument::Keys(implied) => implied,
            Argument::None | Argument::Plain | Argument::Character => None,
        };
        KeyValues::parse(self.text(), implied)
    }
}

/// The name of an option as QEMU takes it: behind one dash or two; `None` for a word that is no option.
fn option_name(word: &str) -> Option<&str> {
    let name = word.strip_prefix('-')?;
    Some(name.strip_prefix('-').unwrap_or(name))
}
