//! Ends operations between two of their steps, as if their process had died there.

use std::panic::{AssertUnwindSafe, catch_unwind, panic_any, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::Bench;
use crate::engine::Operation;
use crate::host::Steps;

/// Lets so many steps pass.
struct Deadly {
    left: AtomicUsize,
}

/// What the thread of an operation ends with.
struct Died(&'static str);

impl Steps for Deadly {
    fn reached(&self, step: &'static str) {
        if self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_err() {
            panic_any(Died(step));
        }
    }
}

/// Does an operation of which nothing more comes after `pass` steps: its connections and pipes are closed, and nothing is
/// undone. Says after which step that was, with the bench as it is then; none where the operation has no more steps.
pub(crate) fn died_at(
    bench: Bench,
    pass: usize,
    operation: impl FnOnce(&Operation),
) -> (Bench, Option<&'static str>) {
    let bench = bench.with_steps(Some(Arc::new(Deadly { left: AtomicUsize::new(pass) })));
    let ended = catch_unwind(AssertUnwindSafe(|| operation(&bench.operation())));
    let step = match ended {
        Ok(()) => None,
        Err(panic) => match panic.downcast::<Died>() {
            Ok(died) => Some(died.0),
            Err(panic) => resume_unwind(panic),
        },
    };
    (bench.with_steps(None), step)
}

/// Waits for what must come some time.
pub(crate) fn until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what} does not come");
        std::thread::sleep(Duration::from_millis(2));
    }
}
