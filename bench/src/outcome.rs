//! What a measurement comes to; errors are for a person to read.

use std::error::Error;
use std::fmt;

/// A result whose error is shown to a developer and not acted upon.
pub(crate) type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// An error with what was being done.
#[derive(Debug)]
struct While {
    doing: String,
    source: Box<dyn Error>,
}

impl fmt::Display for While {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.doing)
    }
}

impl Error for While {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(self.source.as_ref())
    }
}

/// Says what was being done when an error came; for use with `map_err`.
pub(crate) fn context<E: Into<Box<dyn Error>>>(
    doing: impl FnOnce() -> String,
) -> impl FnOnce(E) -> Box<dyn Error> {
    move |source| Box::new(While { doing: doing(), source: source.into() })
}

/// An error and its causes on one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards against errors that tell that something failed, but not what or why.
    #[test]
    fn every_cause_is_told() {
        let error = context(|| "cannot boot".into())(Box::<dyn Error>::from("no kernel"));
        assert_eq!(
            chain(context(|| "cannot measure".into())(error).as_ref()),
            "cannot measure: cannot boot: no kernel"
        );
    }
}
