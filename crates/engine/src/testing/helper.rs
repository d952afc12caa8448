//! The helper program of a bench: a shell that plays a part, or this test program once more, as a process of its own.

use std::path::Path;

use crate::background::{BACKGROUND_COMMAND, BackgroundProcess};
use crate::capture::guard::{GUARD_COMMAND, watch};
use crate::host::Helper;
use crate::jobs::work_in_background;

/// What a helper does as a guard.
#[derive(Debug, Clone, Copy)]
pub(crate) enum GuardPart {
    /// What a guard does.
    Real,
    /// It says that it is ready, keeps what it is told, and does nothing.
    Told,
    /// It ends before it is ready.
    Ends,
    /// It says that it is ready, and hears nothing any more.
    Deaf,
}

/// What a helper does as a page server.
#[derive(Debug, Clone, Copy)]
pub(crate) enum PagesPart {
    /// What a page server does.
    Real,
    /// It ends at once.
    Ends,
    /// It lives, and serves nobody.
    Idle,
}

/// The parts of a helper.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parts {
    pub(crate) guard: GuardPart,
    pub(crate) pages: PagesPart,
}

impl Parts {
    /// As in the real program.
    pub(crate) const REAL: Self = Self { guard: GuardPart::Real, pages: PagesPart::Real };
    /// A guard that only keeps what it is told, and page servers.
    pub(crate) const TOLD: Self = Self { guard: GuardPart::Told, pages: PagesPart::Real };

    /// The helper that plays them.
    pub(crate) fn helper(self) -> Helper {
        let program = std::env::current_exe().unwrap();
        // All words are names of tests to the test runner; one of them is.
        let this = format!("'{}' --exact {THIS} --nocapture \"$0\" \"$@\"", program.display());
        let guard = match self.guard {
            // The test runner has words of its own to say before.
            GuardPart::Real => format!("{this} | sed -un 's/.*ready$/ready/p'"),
            GuardPart::Told => "echo ready; cat > \"$1/guard.told-$2\"".to_owned(),
            GuardPart::Ends => "exit 1".to_owned(),
            GuardPart::Deaf => "exec <&-; echo ready; exec sleep 600".to_owned(),
        };
        let pages = match self.pages {
            PagesPart::Real => format!("exec {this}"),
            PagesPart::Ends => "exit 1".to_owned(),
            // Until whoever started it gives it up.
            PagesPart::Idle => "exec cat".to_owned(),
        };
        Helper::shell(&format!("case $0 in {GUARD_COMMAND}) {guard};; {BACKGROUND_COMMAND}) {pages};; esac"))
    }
}

/// The name of [`plays_its_part`].
const THIS: &str = "testing::helper::plays_its_part";

/// What the helper program is, where it is this one. As a test of its own it guards the page server's beginning: words
/// that no vmrewind gives are refused.
#[test]
fn plays_its_part() {
    let words: Vec<String> = std::env::args().collect();
    let part = words.iter().position(|word| word == GUARD_COMMAND || word == BACKGROUND_COMMAND);
    match part.map(|at| &words[at..]) {
        Some([part, folder, seat]) if part == GUARD_COMMAND => watch(Path::new(folder), seat).unwrap(),
        Some([_, kind, role, root, vm, seat]) => work_in_background(BackgroundProcess {
            seat: seat.clone(),
            kind: kind.clone(),
            role: role.clone(),
            root: root.into(),
            vm: vm.clone(),
            program: Parts::REAL.helper(),
            steps: None,
        })
        .unwrap(),
        _ => {
            let folder = tempfile::tempdir().unwrap();
            let helper = Parts::REAL.helper();
            let mut nonsense = helper.command();
            nonsense.arg(BACKGROUND_COMMAND).arg("pages").arg("nonsense").arg(folder.path()).arg("v").arg("");
            let done = nonsense.output().unwrap();
            let said = String::from_utf8_lossy(&done.stderr) + String::from_utf8_lossy(&done.stdout);
            assert!(!done.status.success() && said.contains("is no part of a background job"), "{said}");
        }
    }
}
