//! What every command is given: the global options, the output, and the engine on the root once it is asked for.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use vmrewind_engine::{Caller, Cancel, Engine, Error, Helper, Host, Operation, Patience, RealDisk, Result};

use crate::command_error::CommandError;
use crate::global::GlobalOptions;
use crate::output::Output;
use crate::{host, progress, signals};

/// Where root keeps its VMs.
const SYSTEM_ROOT: &str = "/var/lib/vmrewind";

/// How long the way back waits for a VM that another command holds: a `vmrewind` that the guarded command left behind, say.
const WAY_BACK_PATIENCE: Duration = Duration::from_secs(60);

/// One run of the program.
pub(crate) struct Session {
    /// Results go there.
    pub(crate) output: Output,
    /// Set when the user wants to stop.
    pub(crate) cancel: Cancel,
    /// Whether every question is answered with yes.
    pub(crate) yes: bool,
    /// The words of the command: `snapshot create`.
    what: String,
    /// How long to wait for a VM that another command holds.
    wait: Duration,
    root: Option<PathBuf>,
    /// Whether the root was named in the command itself, and not by the variable, which names it for all commands.
    root_named: bool,
}

impl Session {
    /// Sets up logging and signals.
    ///
    /// # Errors
    /// `Failed` where the kernel refuses a signal handler.
    pub(crate) fn start(global: GlobalOptions, what: String) -> Result<Self, CommandError> {
        start_logging(global.verbose);
        let cancel = Cancel::default();
        signals::watch(&cancel)?;
        // Read here and not by clap, for which a variable would count as an argument that was given.
        let root_named = global.root.is_some();
        let root = global.root.or_else(|| std::env::var_os("VMREWIND_ROOT").map(PathBuf::from));
        let output = Output::new(global.json, global.verbose > 0);
        let wait = global.wait.unwrap_or_default();
        Ok(Self { output, cancel, yes: global.yes, what, wait, root, root_named })
    }

    /// Begins an operation on the root.
    ///
    /// # Errors
    /// `NotFound` where there is none; what keeps it from being opened.
    pub(crate) fn operation(&self) -> Result<Operation, CommandError> {
        self.begin(&self.cancel, self.wait)
    }

    /// The same for a command that puts something into the root, which is made where there is none.
    ///
    /// # Errors
    /// What keeps the root from being opened or made.
    pub(crate) fn operation_on_new_root(&self) -> Result<Operation, CommandError> {
        Ok(self.begin_on(&Engine::open(&self.root()?, host()?)?, &self.cancel, self.wait))
    }

    /// The same for a command that looks at all there is. `None` where the root was not made yet: nothing is there then,
    /// and that is no failure, unless the command names a root of its own, which is a slip.
    ///
    /// # Errors
    /// `NotFound` where the command's own root is not there; what keeps the root from being opened.
    pub(crate) fn look(&self) -> Result<Option<Operation>, CommandError> {
        let root = self.root()?;
        match Engine::open_existing(&root, host()?)? {
            Some(engine) => Ok(Some(self.begin_on(&engine, &self.cancel, self.wait))),
            None if self.root_named => Err(no_root(&root)),
            None => Ok(None),
        }
    }

    /// The same for work that must be ended whatever the user presses: the way back after a failure.
    ///
    /// # Errors
    /// As [`Session::operation`].
    pub(crate) fn unstoppable_operation(&self) -> Result<Operation, CommandError> {
        self.begin(&Cancel::default(), self.wait.max(WAY_BACK_PATIENCE))
    }

    fn begin(&self, cancel: &Cancel, wait: Duration) -> Result<Operation, CommandError> {
        let root = self.root()?;
        match Engine::open_existing(&root, host()?)? {
            Some(engine) => Ok(self.begin_on(&engine, cancel, wait)),
            None => Err(no_root(&root)),
        }
    }

    fn begin_on(&self, engine: &Engine, cancel: &Cancel, wait: Duration) -> Operation {
        let operation = engine.operation(Caller {
            what: self.what.clone(),
            wait,
            events: progress::for_output(&self.output),
            cancel: cancel.clone(),
        });
        self.output.follow(operation.time_line());
        operation
    }

    /// The root folder: the option or variable, else the user's own.
    ///
    /// # Errors
    /// `Usage` where it was not given and the user has no home folder.
    pub(crate) fn root(&self) -> Result<PathBuf, CommandError> {
        match &self.root {
            Some(root) if root.as_os_str().is_empty() => Err(CommandError::advised(
                Error::usage("the root's path is empty"),
                "give a folder with --root or VMREWIND_ROOT",
            )),
            Some(root) => Ok(root.clone()),
            None if rustix::process::geteuid().is_root() => Ok(PathBuf::from(SYSTEM_ROOT)),
            None => user_root(),
        }
    }
}

fn no_root(root: &Path) -> CommandError {
    CommandError::advised(
        Error::not_found(format!("there is no root '{}', so there is no VM", root.display())),
        "is it the one you mean (--root or VMREWIND_ROOT)? `vmrewind vm create` makes it with its first VM",
    )
}

fn host() -> Result<Host> {
    Ok(Host {
        clock: host::clock()?,
        random: host::random()?,
        disk: Arc::new(RealDisk),
        helper: Helper::this_program()?,
        patience: Patience::default(),
        steps: host::steps(),
    })
}

/// `$XDG_DATA_HOME/vmrewind`, or `~/.local/share/vmrewind` (XDG base directory specification).
fn user_root() -> Result<PathBuf, CommandError> {
    let folder = |variable| std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    let data = folder("XDG_DATA_HOME").or_else(|| folder("HOME").map(|home| home.join(".local/share")));
    data.map(|data| data.join("vmrewind")).ok_or_else(|| {
        CommandError::advised(
            Error::usage("cannot tell where your VMs are: neither HOME nor XDG_DATA_HOME is set"),
            "give the folder with --root or VMREWIND_ROOT",
        )
    })
}

/// The folder in which the user's relative paths mean something.
///
/// # Errors
/// `Failed` where it was removed.
pub(crate) fn working_dir() -> Result<PathBuf> {
    std::env::current_dir()
        .map_err(|error| Error::failed("cannot tell which folder this is: was it removed?").because(error))
}

/// A path as JSON and text show it.
pub(crate) fn shown(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn start_logging(verbose: u8) {
    use tracing_subscriber::filter::LevelFilter;
    let level = match verbose {
        0 => return,
        1 => LevelFilter::INFO,
        2 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    let colours = crate::output::colours_wanted(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    let logger = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_timer(tracing_subscriber::fmt::time::uptime())
        .with_ansi(colours);
    // A second logger in one process is a mistake of tests only; the first one stays.
    let _ = logger.try_init();
}
