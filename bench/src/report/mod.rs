//! How results are shown: aligned tables that are Markdown and read well on a terminal, and the page they are kept on.

pub(crate) mod results_file;
pub(crate) mod table;

pub(crate) use table::Table;

/// One scenario's result for the page of results.
pub(crate) struct Section<'a> {
    /// The scenario.
    pub(crate) title: &'a str,
    /// When it was measured, as the user says.
    pub(crate) date: &'a str,
    /// How.
    pub(crate) command: String,
    /// On what.
    pub(crate) machine: String,
    /// Tables and verdicts.
    pub(crate) body: String,
}

impl Section<'_> {
    /// The line that begins this section.
    pub(crate) fn heading(&self) -> String {
        format!("## {}, {}", self.title, self.date)
    }

    /// The section as Markdown, with its heading and an empty line at its end.
    pub(crate) fn markdown(&self) -> String {
        let Self { command, machine, body, .. } = self;
        format!("{}\n\n`{command}`  \n{machine}\n\n{}\n\n", self.heading(), body.trim_end())
    }
}

/// Arguments as a person would type them.
pub(crate) fn arguments_as_typed(arguments: impl Iterator<Item = String>) -> String {
    let quoted = |argument: String| if argument.contains(' ') { format!("'{argument}'") } else { argument };
    arguments.map(quoted).collect::<Vec<_>>().join(" ")
}

/// A number of milliseconds, with as many decimals as it can bear.
pub(crate) fn milliseconds(value: f64) -> String {
    if value < 100.0 { format!("{value:.1}") } else { format!("{value:.0}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards the record: whoever reads it must be able to take it again.
    #[test]
    fn a_section_tells_how_it_was_taken() {
        let section = Section {
            title: "capture",
            date: "2000-01-02",
            command: "./x bench capture".into(),
            machine: "1 core".into(),
            body: "text\n".into(),
        };
        assert_eq!(section.markdown(), "## capture, 2000-01-02\n\n`./x bench capture`  \n1 core\n\ntext\n\n");
        let typed = arguments_as_typed(["--dir".to_owned(), "a b".to_owned()].into_iter());
        assert_eq!(typed, "--dir 'a b'");
        assert_eq!([7.04, 99.96, 1651.4].map(milliseconds), ["7.0", "100.0", "1651"]);
    }
}
