//! Frees what no snapshot needs in the store: memory that was deleted, files of operations that died.
//!
//! Plan: which images nobody names, and what in the packs no image needs. Apply: the store does it, beside captures and
//! restores. No VM is held: an image is named by a journal before it is begun, and by a manifest before that journal goes.
//!
//! An image that a snapshot names and that is not there is damage: what it needs can't be told, and its file may be put back.
//! Nothing is freed then.

use std::ops::ControlFlow;
use std::time::Duration;

use serde::Serialize;
use vmrewind_store::{GcOptions, GcPlan, PackReason, Progress};

use crate::context::{Context, Work};
use crate::engine::Operation;
use crate::error::{Error, Result};
use crate::hint::Hint;
use crate::images::{store_error, unnamed_images};

/// How long captures that are under way are waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a collection does, or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct GcView {
    /// Whether nothing was done.
    pub dry_run: bool,
    /// Ids of memory images that no snapshot names.
    pub images: Vec<String>,
    /// Packs that go, or are written anew without what is dead.
    pub packs: Vec<GcPack>,
    /// Files that dead commands left.
    pub left_files: Vec<String>,
    /// What the packs took before.
    pub pack_bytes: u64,
    /// What snapshots need of that.
    pub live_bytes: u64,
    /// What is freed.
    pub freed_bytes: u64,
    /// Packs that were kept all the same: what came meanwhile needs them, or something in them is damaged.
    pub kept_packs: u64,
}

/// A pack that goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GcPack {
    /// Its id.
    pub pack: String,
    /// What it takes.
    pub bytes: u64,
    /// What snapshots need of it.
    pub live_bytes: u64,
    /// `unused`, `mostly-unused` or `small`.
    pub reason: &'static str,
}

impl Operation {
    /// What [`Engine::gc`] would do; nothing is done.
    ///
    /// # Errors
    /// As [`Engine::gc`].
    pub fn gc_plan(&self) -> Result<GcView> {
        let planned = self.plan_gc();
        self.ctx.work_ended();
        Ok(view(&planned?))
    }

    /// Frees what no snapshot needs.
    ///
    /// # Errors
    /// `Damaged` where the store is: then it cannot be told what is needed. `Busy` while captures go on and on.
    pub fn gc(&self) -> Result<GcView> {
        let done = self.plan_gc().and_then(|plan| {
            self.ctx.reached("gc-planned");
            let ctx = &self.ctx;
            let report = self
                .store
                .gc(&plan, PATIENCE, &mut |progress| told(ctx, progress))
                .map_err(|error| store_error("cannot free what no snapshot needs", error))?;
            let images = report.images.iter().map(ToString::to_string).collect();
            let (freed_bytes, kept_packs) = (report.freed_bytes, report.kept_packs);
            Ok(GcView { dry_run: false, images, freed_bytes, kept_packs, ..view(&plan) })
        });
        self.ctx.work_ended();
        done
    }

    fn plan_gc(&self) -> Result<GcPlan> {
        let cannot = |error| store_error("cannot list the store's images", error);
        self.refuse_missing_images()?;
        // Listed first: see `unnamed_images`.
        let images = self.store.images().map_err(cannot)?;
        // Twice, since a listing of a folder can miss a manifest that is replaced at that moment.
        let remove_images = unnamed_images(&self.root, unnamed_images(&self.root, images)?)?;
        let ctx = &self.ctx;
        self.store.plan_gc(&GcOptions { remove_images }, &mut |progress| told(ctx, progress)).map_err(
            |error| {
                if error.is_damage() {
                    return Error::damaged(
                        "the store is damaged, so it can't be told what snapshots need of it",
                    )
                    .because(error)
                    .with_hint(Hint::CheckStore);
                }
                store_error("cannot work out what no snapshot needs", error)
            },
        )
    }
}

impl Operation {
    /// Fails where an image is gone whose snapshot is not.
    fn refuse_missing_images(&self) -> Result<()> {
        let missing = self.missing_images(&self.named_images()?)?;
        let told = missing.iter().map(|one| format!("{} ({})", one.what, one.snapshots.join(", ")));
        match told.collect::<Vec<_>>().join("; ") {
            none if none.is_empty() => Ok(()),
            all => Err(Error::damaged(format!("it can't be told what snapshots need of the store: {all}"))
                .with_hint(Hint::MissingImage)),
        }
    }
}

/// Tells of progress, and asks whether to go on.
fn told(ctx: &Context, progress: Progress) -> ControlFlow<()> {
    match (progress.what, progress.done) {
        ("rewriting packs", 1..) => ctx.reached("gc-pack-rewritten"),
        ("waiting for captures", _) => ctx.reached("gc-waiting"),
        ("removing packs", 0) => ctx.reached("gc-rewritten"),
        ("removing packs", 1) => ctx.reached("gc-pack-removed"),
        _ => {}
    }
    // Images are counted, not measured: a bar of bytes would say nothing.
    if progress.what != "rewriting packs" {
        return ctx.go_on();
    }
    ctx.progress(Work::Store(progress.what), progress.done, progress.total)
}

fn view(plan: &GcPlan) -> GcView {
    let pack = |step: &vmrewind_store::PackStep| GcPack {
        pack: step.pack.to_string(),
        bytes: step.bytes,
        live_bytes: step.live_bytes,
        reason: match step.reason {
            PackReason::Unused => "unused",
            PackReason::MostlyUnused => "mostly-unused",
            PackReason::Damaged => "damaged",
            _ => "small",
        },
    };
    GcView {
        dry_run: true,
        images: plan.images.iter().map(ToString::to_string).collect(),
        packs: plan.packs.iter().map(pack).collect(),
        left_files: plan.parts.iter().map(|part| part.name.clone()).collect(),
        pack_bytes: plan.pack_bytes,
        live_bytes: plan.live_bytes,
        freed_bytes: plan.freed_bytes,
        kept_packs: 0,
    }
}
