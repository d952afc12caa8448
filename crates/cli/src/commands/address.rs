//! How snapshots are named on the command line: `VM@NAME`, or VM and name as words of their own.
//!
//! Neither a VM's name nor a snapshot's can hold an `@`, so which of the two was meant is never a guess. Where both
//! are mixed it would be one, and the words are refused.

use vmrewind_engine::{Address, Error};

use crate::command_error::CommandError;

/// What to write, where words can't be read.
const HOW: &str = "write VM@NAME, or VM and NAME as two words";

/// One snapshot: `web@one`, or `web` and `one`.
///
/// # Errors
/// `Usage` for what is not the name of a snapshot, or names it twice.
pub(crate) fn address(first: &str, name: Option<&str>) -> Result<Address, CommandError> {
    match name {
        None => Ok(first.parse()?),
        Some(name) if is_whole(first) => {
            let error = Error::usage(format!(
                "'{}' is a whole address, so there is nothing that '{}' could be",
                first.escape_debug(),
                name.escape_debug()
            ));
            Err(CommandError::advised(error, HOW))
        }
        Some(name) => Ok(Address { vm: first.parse()?, snapshot: name.parse()? }),
    }
}

/// One snapshot, and a new name after it: `web@one new`, or `web one new`.
///
/// # Errors
/// As [`address`].
pub(crate) fn address_and_new<'w>(
    first: &'w str,
    second: &'w str,
    third: Option<&'w str>,
) -> Result<(Address, &'w str), CommandError> {
    match third {
        None => Ok((address(first, None)?, second)),
        Some(new) => Ok((address(first, Some(second))?, new)),
    }
}

/// Several snapshots: `web@one web@two`, or, of one VM, `web one two`.
///
/// # Errors
/// `Usage` for what is not the name of a snapshot, and for the two forms mixed.
pub(crate) fn addresses(words: &[String]) -> Result<Vec<Address>, CommandError> {
    match words {
        [vm, names @ ..] if !names.is_empty() && !words.iter().any(|word| is_whole(word)) => {
            names.iter().map(|name| address(vm, Some(name))).collect()
        }
        [_, _, ..] if !words.iter().all(|word| is_whole(word)) => {
            let shown: Vec<String> = words.iter().map(|word| word.escape_debug().to_string()).collect();
            let error = Error::usage(format!(
                "'{}': some of these are whole addresses and some are not",
                shown.join(" ")
            ));
            Err(CommandError::advised(error, "write each snapshot as VM@NAME"))
        }
        whole => whole.iter().map(|word| Ok(word.parse()?)).collect(),
    }
}

fn is_whole(word: &str) -> bool {
    word.contains('@')
}

#[cfg(test)]
mod tests {
    use vmrewind_engine::ErrorKind;

    use super::*;

    fn listed(words: &[&str]) -> Result<Vec<String>, CommandError> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        Ok(addresses(&words)?.iter().map(Address::to_string).collect())
    }

    /// Both ways to name a snapshot must mean the same one.
    #[test]
    fn one_word_or_two() {
        assert_eq!(address("web@one", None).unwrap(), address("web", Some("one")).unwrap());
        for (first, name) in
            [("web", None), ("web@one", Some("two")), ("web", Some("@one")), ("", Some("one"))]
        {
            assert_eq!(address(first, name).unwrap_err().kind(), ErrorKind::Usage, "{first} {name:?}");
        }
    }

    /// A new name must never be taken for the snapshot's own.
    #[test]
    fn a_new_name_is_the_last_word() {
        for (first, second, third) in [("web@one", "new", None), ("web", "one", Some("new"))] {
            let (address, new) = address_and_new(first, second, third).unwrap();
            assert_eq!((address.to_string().as_str(), new), ("web@one", "new"));
        }
        assert!(address_and_new("web", "one", None).is_err());
        assert!(address_and_new("web@one", "two", Some("new")).is_err());
    }

    /// A list of what goes must not depend on how somebody reads it.
    #[test]
    fn several_in_one_form_only() {
        assert_eq!(listed(&["web@one", "db@two"]).unwrap(), ["web@one", "db@two"]);
        assert_eq!(listed(&["web", "one", "two"]).unwrap(), ["web@one", "web@two"]);
        for mixed in [&["web@one", "two"][..], &["web", "db@two"], &["web", "one", "web@two"], &["web"]] {
            assert_eq!(listed(mixed).unwrap_err().kind(), ErrorKind::Usage, "{mixed:?}");
        }
    }
}
