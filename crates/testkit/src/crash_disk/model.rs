//! What is in a recorded folder: as programs see it, and as far as it is durable.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

/// What is written to a disk as a whole or not at all, in bytes.
pub(super) const SECTOR: usize = 512;

/// The number of a file or folder in a [`Model`].
pub(super) type Number = usize;

/// Names in a folder.
pub(super) type Names = BTreeMap<OsString, Number>;

/// A change of a file's content.
#[derive(Debug, Clone)]
pub(super) enum Change {
    Write(usize, Arc<[u8]>),
    Length(usize),
}

/// A change of names, in the folders of these numbers.
#[derive(Debug, Clone)]
pub(super) enum NameChange {
    Link(Number, OsString, Number),
    Unlink(Number, OsString, Number),
    Rename((Number, OsString), (Number, OsString), Number),
}

#[derive(Debug, Clone)]
pub(super) enum Node {
    File(FileNode),
    Dir { now: Names, durable: Names },
}

#[derive(Debug, Clone)]
pub(super) struct FileNode {
    pub(super) durable: Arc<[u8]>,
    now: Arc<[u8]>,
    pub(super) pending: Vec<Change>,
    pub(super) mode: u32,
    pub(super) modified: SystemTime,
    stamp: Stamp,
    /// The kernel lost what is pending, and has told nobody yet.
    is_error_untold: bool,
    /// The kernel lost what is pending: no sync brings it back.
    pub(super) is_lost: bool,
}

/// Tells whether a file was changed since it was looked at.
type Stamp = (u64, u64, i64, i64);

/// A folder's content. Copies share what did not change.
#[derive(Debug, Clone)]
pub(super) struct Model {
    root: PathBuf,
    trusted: Vec<PathBuf>,
    pub(super) nodes: Vec<Arc<Node>>,
    pub(super) pending: Vec<NameChange>,
    /// By the host's inode number.
    known: HashMap<u64, Number>,
}

impl Change {
    pub(super) fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Write(offset, data) => {
                let end = offset + data.len();
                if content.len() < end {
                    content.resize(end, 0);
                }
                content[*offset..end].copy_from_slice(data);
            }
            Self::Length(len) => content.resize(*len, 0),
        }
    }
}

impl NameChange {
    fn touches(&self, folder: Number) -> bool {
        match self {
            Self::Link(dir, ..) | Self::Unlink(dir, ..) => *dir == folder,
            Self::Rename((from, _), (to, _), _) => *from == folder || *to == folder,
        }
    }

    /// Makes the change; `names` gives the names in a folder.
    pub(super) fn apply(&self, mut names: impl FnMut(Number, &mut dyn FnMut(&mut Names))) {
        let mut unlink = |dir: Number, name: &OsString, node: Number| {
            names(dir, &mut |names| {
                if names.get(name) == Some(&node) {
                    names.remove(name);
                }
            });
        };
        match self {
            Self::Unlink(dir, name, node) => unlink(*dir, name, *node),
            Self::Link(dir, name, node) => {
                names(*dir, &mut |names| {
                    names.insert(name.clone(), *node);
                });
            }
            Self::Rename((from, old), (to, new), node) => {
                unlink(*from, old, *node);
                names(*to, &mut |names| {
                    names.insert(new.clone(), *node);
                });
            }
        }
    }
}

impl Model {
    /// What is in `root` now, all of it durable.
    pub(super) fn of(root: &Path, trusted: Vec<PathBuf>) -> io::Result<Self> {
        let empty = Node::Dir { now: Names::new(), durable: Names::new() };
        let mut model = Self {
            root: root.to_owned(),
            trusted,
            nodes: vec![Arc::new(empty)],
            pending: Vec::new(),
            known: HashMap::new(),
        };
        model.absorb()?;
        model.settle();
        Ok(model)
    }

    /// Makes all durable.
    pub(super) fn settle(&mut self) {
        self.pending.clear();
        for node in &mut self.nodes {
            match Arc::make_mut(node) {
                Node::File(file) => file.settle(),
                Node::Dir { now, durable } => durable.clone_from(now),
            }
        }
    }

    /// Finds what other programs changed.
    pub(super) fn absorb(&mut self) -> io::Result<()> {
        self.absorb_dir(0, &self.root.clone())
    }

    fn absorb_dir(&mut self, folder: Number, path: &Path) -> io::Result<()> {
        let trusted = self.trusted.iter().any(|trusted| path.starts_with(trusted));
        let mut found = BTreeSet::new();
        for entry in std::fs::read_dir(path)? {
            let entry = entry?;
            let (name, path) = (entry.file_name(), entry.path());
            // Gone since it was listed, or a socket or link: nothing that a crash test looks at.
            let Ok(metadata) = std::fs::symlink_metadata(&path) else { continue };
            if !metadata.is_file() && !metadata.is_dir() {
                continue;
            }
            found.insert(name.clone());
            let number = self.number_of(&metadata);
            if self.names(folder).get(&name) != Some(&number) {
                self.change_names(NameChange::Link(folder, name, number));
            }
            if metadata.is_dir() {
                self.absorb_dir(number, &path)?;
            } else {
                self.absorb_file(number, &path, &metadata)?;
                if trusted && let Node::File(file) = Arc::make_mut(&mut self.nodes[number]) {
                    file.settle();
                }
            }
        }
        let gone = self.names(folder).iter().filter(|(name, _)| !found.contains(*name));
        let gone: Vec<_> = gone.map(|(name, number)| (name.clone(), *number)).collect();
        for (name, number) in gone {
            self.known.retain(|_, known| *known != number);
            self.change_names(NameChange::Unlink(folder, name, number));
        }
        if trusted {
            self.sync_names(folder);
        }
        Ok(())
    }

    /// The number of a file or folder of the host.
    fn number_of(&mut self, metadata: &std::fs::Metadata) -> Number {
        if let Some(number) = self.known.get(&metadata.ino()) {
            return *number;
        }
        let node = if metadata.is_dir() {
            Node::Dir { now: Names::new(), durable: Names::new() }
        } else {
            Node::File(FileNode::empty(metadata.mode()))
        };
        self.nodes.push(Arc::new(node));
        self.known.insert(metadata.ino(), self.nodes.len() - 1);
        self.nodes.len() - 1
    }

    fn absorb_file(&mut self, number: Number, path: &Path, metadata: &std::fs::Metadata) -> io::Result<()> {
        let stamp = stamp(metadata);
        if matches!(&*self.nodes[number], Node::File(file) if file.stamp == stamp) {
            return Ok(());
        }
        let found = std::fs::read(path)?;
        let Node::File(file) = Arc::make_mut(&mut self.nodes[number]) else { return Ok(()) };
        file.stamp = stamp;
        file.modified = metadata.modified()?;
        if found.len() != file.now.len() {
            file.change(Change::Length(found.len()));
        }
        for (index, sector) in found.chunks(SECTOR).enumerate() {
            let offset = index * SECTOR;
            if file.now[offset..offset + sector.len()] != *sector {
                file.pending.push(Change::Write(offset, sector.into()));
            }
        }
        file.now = found.into();
        Ok(())
    }

    fn names(&self, folder: Number) -> &Names {
        match &*self.nodes[folder] {
            Node::Dir { now, .. } => now,
            Node::File(_) => unreachable!("a folder's number is of a folder"),
        }
    }

    fn find(&self, path: &Path) -> io::Result<Number> {
        let inside = path.strip_prefix(&self.root).map_err(|_| io::ErrorKind::InvalidInput)?;
        inside.iter().try_fold(0, |folder, name| match &*self.nodes[folder] {
            Node::Dir { now, .. } => now.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into()),
            Node::File(_) => Err(io::ErrorKind::NotADirectory.into()),
        })
    }

    /// The folder of a path, and the name in it.
    fn place(&self, path: &Path) -> io::Result<(Number, OsString)> {
        let name = path.file_name().map(OsStr::to_owned).ok_or(io::ErrorKind::InvalidInput)?;
        Ok((self.find(path.parent().ok_or(io::ErrorKind::InvalidInput)?)?, name))
    }

    fn change_names(&mut self, change: NameChange) {
        change.apply(|folder, edit| {
            if let Node::Dir { now, .. } = Arc::make_mut(&mut self.nodes[folder]) {
                edit(now);
            }
        });
        self.pending.push(change);
    }

    fn sync_names(&mut self, folder: Number) {
        let (synced, pending) =
            std::mem::take(&mut self.pending).into_iter().partition(|change| change.touches(folder));
        self.pending = pending;
        let synced: Vec<NameChange> = synced;
        for change in synced {
            change.apply(|folder, edit| {
                if let Node::Dir { durable, .. } = Arc::make_mut(&mut self.nodes[folder]) {
                    edit(durable);
                }
            });
        }
    }

    /// A file or folder was made on the host.
    pub(super) fn created(&mut self, path: &Path) -> io::Result<()> {
        let (folder, name) = self.place(path)?;
        let metadata = std::fs::symlink_metadata(path)?;
        // The host uses numbers of removed files again.
        self.known.remove(&metadata.ino());
        let number = self.number_of(&metadata);
        self.change_names(NameChange::Link(folder, name, number));
        if metadata.is_file() { self.look(number, path) } else { Ok(()) }
    }

    pub(super) fn renamed(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let (number, from, to) = (self.find(from)?, self.place(from)?, self.place(to)?);
        // What is replaced gives its number on the host free.
        let replaced = self.names(to.0).get(&to.1).copied();
        self.known.retain(|_, known| Some(*known) != replaced);
        self.change_names(NameChange::Rename(from, to, number));
        Ok(())
    }

    pub(super) fn removed(&mut self, path: &Path) -> io::Result<()> {
        let (number, (folder, name)) = (self.find(path)?, self.place(path)?);
        self.change_names(NameChange::Unlink(folder, name, number));
        self.known.retain(|_, known| *known != number);
        Ok(())
    }

    /// A file was changed by a step.
    pub(super) fn changed(&mut self, path: &Path, change: Change) -> io::Result<()> {
        let number = self.find(path)?;
        if let Node::File(file) = Arc::make_mut(&mut self.nodes[number]) {
            file.change(change);
        }
        self.look(number, path)
    }

    pub(super) fn set_mode(&mut self, path: &Path, mode: u32) -> io::Result<()> {
        let number = self.find(path)?;
        if let Node::File(file) = Arc::make_mut(&mut self.nodes[number]) {
            file.mode = mode;
        }
        self.look(number, path)
    }

    /// Remembers how a file looks on the host, so that the step that changed it does not count as another program's.
    fn look(&mut self, number: Number, path: &Path) -> io::Result<()> {
        let metadata = std::fs::symlink_metadata(path)?;
        if let Node::File(file) = Arc::make_mut(&mut self.nodes[number]) {
            file.stamp = stamp(&metadata);
            file.modified = metadata.modified()?;
        }
        Ok(())
    }

    pub(super) fn sync_file(&mut self, path: &Path) -> io::Result<()> {
        let number = self.find(path)?;
        let Node::File(file) = Arc::make_mut(&mut self.nodes[number]) else { return Ok(()) };
        if std::mem::take(&mut file.is_error_untold) {
            return Err(io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error()));
        }
        if !file.is_lost {
            file.settle();
        }
        Ok(())
    }

    pub(super) fn sync_dir(&mut self, folder: &Path) -> io::Result<()> {
        let number = self.find(folder)?;
        self.sync_names(number);
        Ok(())
    }

    pub(super) fn lose_write_back(&mut self, path: &Path) -> io::Result<()> {
        let number = self.find(path)?;
        if let Node::File(file) = Arc::make_mut(&mut self.nodes[number]) {
            (file.is_error_untold, file.is_lost) = (true, true);
        }
        Ok(())
    }
}

impl FileNode {
    fn empty(mode: u32) -> Self {
        Self {
            durable: Arc::from([]),
            now: Arc::from([]),
            pending: Vec::new(),
            mode: mode & 0o7777,
            modified: SystemTime::UNIX_EPOCH,
            stamp: (0, 0, 0, 0),
            is_error_untold: false,
            is_lost: false,
        }
    }

    fn change(&mut self, change: Change) {
        let mut now = self.now.to_vec();
        change.apply(&mut now);
        self.now = now.into();
        self.pending.push(change);
    }

    fn settle(&mut self) {
        self.durable = Arc::clone(&self.now);
        self.pending.clear();
    }
}

fn stamp(metadata: &std::fs::Metadata) -> Stamp {
    (metadata.ino(), metadata.len(), metadata.mtime(), metadata.mtime_nsec())
}
