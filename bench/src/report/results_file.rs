//! The page `bench/RESULTS.md`: an introduction, then one section per scenario and day, the newest first.

use std::path::PathBuf;

use super::Section;
use crate::outcome::{Outcome, context};
use crate::program::package_folder;

const INTRODUCTION: &str = "\
# Results

Measured by `./x bench`, the newest first. Every figure of vmrewind stands beside what people would use instead, taken
on the same guest in the same run: compare within a section, not between machines. What missed its aim says so.

";

/// Puts a section on the page, in place of one of the same scenario and day; returns where the page is.
///
/// # Errors
/// Where the page can't be read or written. It is written as a whole or not at all.
pub(crate) fn record(section: &Section<'_>) -> Outcome<PathBuf> {
    let path = package_folder().join("RESULTS.md");
    let cannot = || format!("cannot write '{}'", path.display());
    let page = match std::fs::read_to_string(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => INTRODUCTION.to_owned(),
        page => page.map_err(context(cannot))?,
    };
    let temporary = path.with_extension("md.new");
    std::fs::write(&temporary, with_section(&page, section)).map_err(context(cannot))?;
    std::fs::rename(&temporary, &path).map_err(context(cannot))?;
    Ok(path)
}

/// The page with the section put before the others, and without an older one of the same heading.
fn with_section(page: &str, section: &Section<'_>) -> String {
    let (introduction, sections) = split(page);
    let heading = section.heading();
    let others = sections.into_iter().filter(|text| text.lines().next() != Some(heading.as_str()));
    let parts = std::iter::once(introduction).chain(std::iter::once(section.markdown())).chain(others);
    let page = parts.map(|part| format!("{}\n\n", part.trim_end())).collect::<String>();
    format!("{}\n", page.trim_end())
}

/// What stands before the first section, and the sections.
fn split(page: &str) -> (String, Vec<String>) {
    let (mut introduction, mut sections) = (String::new(), Vec::<String>::new());
    for line in page.split_inclusive('\n') {
        if line.starts_with("## ") {
            sections.push(String::new());
        }
        sections.last_mut().unwrap_or(&mut introduction).push_str(line);
    }
    (introduction, sections)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section<'a>(title: &'a str, date: &'a str, body: &str) -> Section<'a> {
        Section { title, date, command: "c".into(), machine: "m".into(), body: body.into() }
    }

    /// Guards what was recorded before: a new record must not lose or double it.
    #[test]
    fn sections_are_added_in_front_and_replaced_by_heading() {
        let first = with_section(INTRODUCTION, &section("capture", "2000-01-01", "one"));
        let second = with_section(&first, &section("capture", "2000-01-02", "two"));
        let again = with_section(&second, &section("capture", "2000-01-01", "### three\n\nmore"));
        let headings: Vec<_> = again.lines().filter(|line| line.starts_with('#')).collect();
        assert_eq!(headings, ["# Results", "## capture, 2000-01-01", "### three", "## capture, 2000-01-02"]);
        assert!(again.starts_with(INTRODUCTION) && again.ends_with("two\n") && !again.contains("one"));
        assert_eq!(with_section(&again, &section("capture", "2000-01-01", "### three\n\nmore")), again);
    }
}
