//! What `doctor` found, check by check.

use serde::Serialize;

use crate::output::table::{Column, table};

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Status {
    Ok,
    Warning,
    Missing,
}

impl Status {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Missing => "MISSING",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Check {
    pub(super) name: &'static str,
    pub(super) status: Status,
    found: String,
    hint: Option<String>,
}

impl Check {
    pub(super) fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, status: Status::Ok, found: found.into(), hint: None }
    }

    pub(super) fn bad(
        name: &'static str,
        status: Status,
        found: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self { name, status, found: found.into(), hint: Some(hint.into()) }
    }
}

/// All of them, and whether nothing is missing.
#[derive(Serialize)]
pub(super) struct Report {
    pub(super) ok: bool,
    pub(super) checks: Vec<Check>,
}

const COLUMNS: [Column; 3] = [("CHECK", false), ("STATUS", false), ("FOUND", false)];

impl Report {
    /// A table, then what to do about each finding.
    pub(super) fn describe(&self, colours: bool) -> String {
        let row = |check: &Check| {
            vec![check.name.to_owned(), check.status.as_str().to_owned(), check.found.clone()]
        };
        let rows: Vec<_> = self.checks.iter().map(row).collect();
        let mut text = table(&COLUMNS, &rows, colours);
        for check in &self.checks {
            if let Some(hint) = &check.hint {
                text += &format!("\n{}: {hint}", check.name);
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever reads the report must see what to do about each finding.
    #[test]
    fn findings_are_followed_by_what_to_do() {
        let checks = vec![
            Check::ok("qemu-img", "10.0.2"),
            Check::bad("kvm", Status::Warning, "no /dev/kvm", "guests run slowly"),
        ];
        let text = Report { ok: true, checks }.describe(false);
        assert_eq!(
            text,
            "CHECK     STATUS   FOUND\nqemu-img  ok       10.0.2\nkvm       warning  no /dev/kvm\nkvm: guests run slowly"
        );
    }
}
