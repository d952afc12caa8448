//! One attempt to capture a running VM by one method, from the first QMP command to the resumed guest.
//!
//! The attempt owns the pause: [`Shot::take`] lets the guest run again (if it ran before) before it returns, whatever
//! happened; where QEMU does not do that in time ([`Patience::let_go`]), the guard goes on trying. What it changed in QEMU besides (the disks' top layers) the caller's journal undoes.

use std::path::Path;
use std::time::{Duration, Instant};

use vmrewind_qemu::qmp::EventCursor;
use vmrewind_qemu::qmp::commands::MigrationStatus;
use vmrewind_qemu::stream::Limits;
use vmrewind_store::ImageWriter;

use crate::capture::method::{Bounds, downtime_goal_ms};
use crate::capture::receive::{Gauge, Received, Receiver};
use crate::context::{Context, Work};
use crate::error::{Error, ErrorKind, Result};
use crate::hint::Hint;
use crate::monitor::{DiskSwitch, Monitor, stands_still_for_us};
use crate::patience::Patience;
use crate::record::snapshot::Method;
use crate::vm::run_folder::socket;

/// How long a wait lasts between looks at cancellation, receiver and bounds.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Within a pause, waits are this fine.
const LOOK_EVERY_IN_PAUSE: Duration = Duration::from_millis(2);

/// What an attempt needs.
pub(crate) struct Shot<'a> {
    /// Progress and cancellation.
    pub(crate) ctx: &'a Context,
    /// QEMU.
    pub(crate) monitor: &'a Monitor,
    /// The VM's run folder.
    pub(crate) run: &'a Path,
    /// The disks to switch, overlays already opened.
    pub(crate) disks: &'a [DiskSwitch],
    /// Whether the guest runs and is to run afterwards.
    pub(crate) guest_runs: bool,
    /// How long the guest may stand still; `None`: no limit.
    pub(crate) max_pause: Option<Duration>,
    /// When precopy is given up.
    pub(crate) bounds: Bounds,
    /// What the stream may ask for.
    pub(crate) limits: Limits,
}

/// What an attempt gave.
pub(crate) struct Taken {
    /// Stream and image.
    pub(crate) received: Received,
    /// STOP to RESUME as QEMU reported them.
    pub(crate) pause: Duration,
    /// The instant, by the host's clock.
    pub(crate) instant: jiff::Timestamp,
}

/// Why an attempt gave nothing.
pub(crate) enum Miss {
    /// This method can't do it here; another may.
    Method(Error),
    /// No method will, or the user does not want to wait.
    Final(Error),
}

impl From<Error> for Miss {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

impl Shot<'_> {
    /// Captures by `method` into `image`.
    pub(crate) fn take(&self, method: Method, image: ImageWriter) -> std::result::Result<Taken, Miss> {
        let receiver = Receiver::start(
            &self.run.join(socket::STREAM),
            image,
            self.limits.clone(),
            self.patience().connect,
        )?;
        let mut events = self.monitor.events();
        let pauses = events.clone();
        let result = match method {
            Method::Precopy => self.precopy(&receiver, &mut events),
            Method::Background => self.background(&receiver, &mut events),
            Method::Paused | Method::None => self.paused(&mut events),
        };
        let result =
            result.and_then(|instant| Ok((instant, self.finish_stream(&receiver, &mut events, method)?)));
        let (instant, ()) = match result {
            Ok(taken) => taken,
            Err(miss) => {
                // What ended before we cancelled is a cause; what ends afterwards is a consequence.
                let receiver_failed = receiver.gauge.ended();
                self.let_go();
                return Err(if receiver_failed { miss.explained_by(receiver) } else { miss });
            }
        };
        let pause = self.pause_seen(pauses)?;
        let received = receiver.finish()?;
        self.check_one_instant(method, &received)?;
        self.check_budget(pause)?;
        Ok(Taken { received, pause, instant })
    }

    fn precopy(
        &self,
        receiver: &Receiver,
        events: &mut EventCursor,
    ) -> std::result::Result<jiff::Timestamp, Miss> {
        let goal = downtime_goal_ms(0, self.max_pause);
        self.monitor.prepare_migration(&["events", "pause-before-switchover"], goal).map_err(Miss::Method)?;
        self.monitor.migrate(&self.run.join(socket::STREAM)).map_err(Miss::Method)?;
        self.wait_for_switchover(receiver, events)?;
        let stopped = Instant::now();
        self.ctx.reached("guest-stopped");
        self.monitor.switch_disks(self.disks)?;
        self.ctx.reached("disks-switched");
        let instant = self.ctx.now();
        self.monitor.continue_migration()?;
        self.wait_completed_in_pause(events, stopped, Some(self.patience().switchover))?;
        self.ctx.reached("state-sent");
        self.monitor.cont()?;
        Ok(instant)
    }

    fn background(
        &self,
        receiver: &Receiver,
        events: &mut EventCursor,
    ) -> std::result::Result<jiff::Timestamp, Miss> {
        self.monitor.prepare_migration(&["events", "background-snapshot"], 300).map_err(Miss::Method)?;
        let (stopped, instant) = self.stop_and_switch()?;
        self.monitor.migrate(&self.run.join(socket::STREAM)).map_err(Miss::Method)?;
        loop {
            if receiver.gauge.wait_first_page(LOOK_EVERY_IN_PAUSE) {
                break;
            }
            self.look_in_pause(events, stopped, Some(self.patience().first_page))?;
        }
        self.ctx.reached("state-sent");
        if self.guest_runs {
            self.monitor.cont()?;
        }
        Ok(instant)
    }

    fn paused(&self, events: &mut EventCursor) -> std::result::Result<jiff::Timestamp, Miss> {
        self.monitor.prepare_migration(&["events"], 300)?;
        let (stopped, instant) = self.stop_and_switch()?;
        self.monitor.migrate(&self.run.join(socket::STREAM))?;
        self.wait_completed_in_pause(events, stopped, None)?;
        self.monitor.cont()?;
        Ok(instant)
    }

    /// Stops the guest and switches its disks: the begin of every capture whose instant is its begin.
    fn stop_and_switch(&self) -> Result<(Instant, jiff::Timestamp)> {
        self.monitor.stop()?;
        let (stopped, instant) = (Instant::now(), self.ctx.now());
        self.ctx.reached("guest-stopped");
        self.monitor.switch_disks(self.disks)?;
        self.ctx.reached("disks-switched");
        Ok((stopped, instant))
    }

    /// Waits until QEMU has stopped the guest for the switchover, or the bounds of precopy are passed.
    fn wait_for_switchover(
        &self,
        receiver: &Receiver,
        events: &mut EventCursor,
    ) -> std::result::Result<(), Miss> {
        let begun = Instant::now();
        let mut goal = downtime_goal_ms(0, self.max_pause);
        loop {
            if self.reaches(events, LOOK_EVERY, &MigrationStatus::PreSwitchover)? {
                return Ok(());
            }
            let passes = self.monitor.migration()?.ram.map_or(0, |ram| ram.dirty_sync_count);
            let next = downtime_goal_ms(passes, self.max_pause);
            if next != goal {
                goal = next;
                self.monitor.set_downtime_goal(goal)?;
            }
            self.tell_progress(&receiver.gauge);
            self.check_alive(receiver)?;
            let ram = receiver.gauge.ram_bytes();
            if self.bounds.passed(begun.elapsed(), receiver.gauge.bytes(), ram) {
                return Err(Miss::Method(Error::failed(
                    "the guest writes memory faster than it can be copied (precopy did not converge)",
                )));
            }
        }
    }

    /// Waits for the migration's end while the guest stands still.
    fn wait_completed_in_pause(
        &self,
        events: &mut EventCursor,
        stopped: Instant,
        patience: Option<Duration>,
    ) -> std::result::Result<(), Miss> {
        loop {
            if self.look_in_pause(events, stopped, patience)? {
                return Ok(());
            }
        }
    }

    /// One look within the pause: whether the migration is complete; fails when it failed or took too long.
    fn look_in_pause(
        &self,
        events: &mut EventCursor,
        stopped: Instant,
        patience: Option<Duration>,
    ) -> std::result::Result<bool, Miss> {
        if self.reaches(events, LOOK_EVERY_IN_PAUSE, &MigrationStatus::Completed)? {
            return Ok(true);
        }
        self.ctx.cancel.check("capturing the VM")?;
        if self.max_pause.is_some_and(|max| stopped.elapsed() > max) {
            return Err(Miss::Method(over_budget(stopped.elapsed(), self.max_pause)));
        }
        if patience.is_some_and(|patience| stopped.elapsed() > patience) {
            return Err(Miss::Method(Error::failed("QEMU did not deliver the guest's state in time")));
        }
        Ok(false)
    }

    /// Follows the rest of a stream after the guest was let go (background), or confirms its end.
    fn finish_stream(
        &self,
        receiver: &Receiver,
        events: &mut EventCursor,
        method: Method,
    ) -> std::result::Result<(), Miss> {
        if method != Method::Background {
            return Ok(());
        }
        loop {
            // Its end can have been seen in the pause already.
            let ended = receiver.gauge.ended() && self.migration_is(&MigrationStatus::Completed);
            if ended || self.reaches(events, LOOK_EVERY, &MigrationStatus::Completed)? {
                return Ok(());
            }
            self.tell_progress(&receiver.gauge);
            self.check_alive(receiver)?;
        }
    }

    fn check_alive(&self, receiver: &Receiver) -> std::result::Result<(), Miss> {
        self.ctx.cancel.check("capturing the VM")?;
        if receiver.gauge.ended() && !self.migration_is(&MigrationStatus::Completed) {
            return Err(Miss::Final(Error::failed("the guest's memory could not be received")));
        }
        Ok(())
    }

    /// Waits at most `wait` for the migration's next state, and tells whether it is `wanted`; fails where it failed.
    fn reaches(
        &self,
        events: &mut EventCursor,
        wait: Duration,
        wanted: &MigrationStatus,
    ) -> std::result::Result<bool, Miss> {
        match Monitor::next_migration_status(events, wait)? {
            Some(MigrationStatus::Failed | MigrationStatus::Cancelled) => Err(Miss::Method(self.failure())),
            status => Ok(status.as_ref() == Some(wanted)),
        }
    }

    fn migration_is(&self, status: &MigrationStatus) -> bool {
        self.monitor.migration().is_ok_and(|info| info.status.as_ref() == Some(status))
    }

    fn failure(&self) -> Error {
        let reason = self.monitor.migration().ok().and_then(|info| info.error_desc);
        let reason = reason.unwrap_or_else(|| "QEMU gave no reason".into());
        Error::failed(format!("QEMU gave the migration up: {reason}"))
    }

    fn tell_progress(&self, gauge: &Gauge) {
        let total_bytes = gauge.ram_bytes();
        if total_bytes > 0 {
            // Pages that come again count again: the figure is how much of one pass is done.
            let done_bytes = gauge.covered_bytes().min(total_bytes);
            // Whether to go on is looked at elsewhere, where stopping is safe.
            let _ = self.ctx.progress(Work::CapturingMemory, done_bytes, total_bytes);
        }
    }

    fn patience(&self) -> Patience {
        self.ctx.host.patience
    }

    /// Lets the guest go on after a failure. Errors can't be helped here: the guard and the next command try again.
    fn let_go(&self) {
        let deadline = Instant::now() + self.patience().let_go;
        while Instant::now() < deadline && !self.guest_is_let_go() {
            if self.monitor.cancel_migration().is_err() && self.monitor.is_gone() {
                return;
            }
            if self.guest_runs {
                let _ = self.monitor.cont();
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Whether no migration is under way and the guest runs, if it ran; also where QEMU is gone.
    pub(crate) fn guest_is_let_go(&self) -> bool {
        let idle = match self.monitor.migration() {
            Ok(info) => info.status.is_none_or(|status| status.is_over()),
            Err(_) => return self.monitor.is_gone(),
        };
        idle && (!self.guest_runs || self.monitor.status().is_ok_and(|status| !stands_still_for_us(&status)))
    }

    /// The time from QEMU's STOP event to its RESUME event.
    fn pause_seen(&self, mut events: EventCursor) -> Result<Duration> {
        if !self.guest_runs {
            return Ok(Duration::ZERO);
        }
        let mut stopped = None;
        while let Some(event) = Monitor::wait_event(&mut events, self.patience().event, &["STOP", "RESUME"])?
        {
            match (event.name.as_str(), stopped) {
                ("STOP", None) => stopped = Some(event.timestamp),
                ("RESUME", Some(stopped)) => {
                    return Ok(event.timestamp.duration_since(&stopped).unwrap_or_default());
                }
                _ => {}
            }
        }
        Err(Error::failed("QEMU did not report that the guest stopped and went on"))
    }

    /// Memory and disks are of one instant only if the guest stood still by our will when its state was taken.
    fn check_one_instant(&self, method: Method, received: &Received) -> std::result::Result<(), Miss> {
        if method == Method::Precopy {
            return Ok(());
        }
        let state = received.captured.device_state.run_state().map_err(|error| {
            Miss::Final(Error::failed("QEMU's device state has no run state").because(error))
        })?;
        if state == "running" {
            return Err(Miss::Method(Error::failed(
                "QEMU took the memory at another instant than the disks",
            )));
        }
        Ok(())
    }

    fn check_budget(&self, pause: Duration) -> std::result::Result<(), Miss> {
        match self.max_pause {
            Some(max) if pause > max => Err(Miss::Method(over_budget(pause, self.max_pause))),
            _ => Ok(()),
        }
    }
}

fn over_budget(pause: Duration, max: Option<Duration>) -> Error {
    let ms = |duration: Duration| (duration.as_secs_f64() * 1e4).round() / 10.0;
    let max = max.unwrap_or_default();
    Error::refused(format!(
        "the guest would stand still longer than {} ms ({} ms so far)",
        ms(max),
        ms(pause)
    ))
    .with_hint(Hint::AllowLongerPause)
}

impl Miss {
    /// The error, whoever is to blame.
    pub(crate) fn into_error(self) -> Error {
        match self {
            Self::Method(error) | Self::Final(error) => error,
        }
    }

    /// Prefers what the receiver met (a full disk, a stream not understood) over what QEMU said of it.
    fn explained_by(self, receiver: Receiver) -> Self {
        match (receiver.finish(), &self) {
            (_, Self::Final(error)) if error.kind() == ErrorKind::Interrupted => self,
            (Err(error), _) => Self::Final(error),
            (Ok(_), _) => self,
        }
    }
}
