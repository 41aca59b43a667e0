//! Whether the file at the path is still the one that is open.
//!
//! **Problem.** A file that is removed or replaced while it is open goes on taking writes, which nobody will ever read.
//! **How.** After opening, device and inode of the file are compared before each call and after each commit, and those of
//! its side files `-wal` and `-shm` after each commit; that costs a microsecond each, beside a commit that waits for the
//! disk. A file that is not the same refuses every later call of the store, and no connection makes a new file.
//!
//! SQLite names the side files after the file that a symbolic link leads to, so they are looked for beside that one.
//!
//! **What a commit means then.** It is in the file that was open. If that file is put back, so is the write; if not, it is
//! lost. So the outcome is unknown.
//!
//! **What says nothing.** A path that cannot be looked at just now, for another reason than that nothing is there: such a
//! call fails, and the next one may succeed.
//!
//! **Not here.** Windows, where a file that is open can be neither removed nor replaced. A file whose bytes were
//! overwritten in place, but for one that was emptied.

use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::error::{Cause, StoreError};

/// The smallest page of a database: a shorter file was emptied.
const FILE_BYTES_MIN: u64 = 512;

/// The file of a store.
#[derive(Debug)]
pub(super) struct Watch {
    path: PathBuf,
    opened: OnceLock<Opened>,
    /// The side files of the connection that writes, from its first commit on.
    beside: Mutex<Option<[Identity; 2]>>,
    replaced: AtomicBool,
}

/// The file that was opened.
#[derive(Debug)]
struct Opened {
    identity: Identity,
    /// Its path without symbolic links.
    resolved: PathBuf,
}

/// Which file it is, whatever its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
}

impl Watch {
    /// The file at a path, which need not exist yet.
    pub(super) fn on(path: &Path) -> Arc<Self> {
        Arc::new(Self {
            path: path.to_owned(),
            opened: OnceLock::new(),
            beside: Mutex::new(None),
            replaced: AtomicBool::new(false),
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// From now on the file must stay the same.
    pub(super) fn begin(&self) -> std::io::Result<()> {
        let resolved = std::fs::canonicalize(&self.path)?;
        let (identity, _) = look(&self.path)?;
        // A store begins once.
        self.opened.get_or_init(|| Opened { identity, resolved });
        Ok(())
    }

    /// Whether the store is open, and may make no file any more.
    pub(super) fn has_begun(&self) -> bool {
        self.opened.get().is_some()
    }

    /// A new connection writes: it opened the side files anew.
    pub(super) fn new_writer(&self) {
        *self.lock() = self.look_beside().ok();
    }

    /// Refuses a call on a file that is not the one that was opened.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        let Some(opened) = self.opened.get() else {
            return Ok(());
        };
        if self.replaced.load(Ordering::Acquire) {
            return Err(StoreError::Misconfigured(Cause::FileReplaced));
        }
        match look(&self.path) {
            Ok((found, bytes)) if found == opened.identity && bytes >= FILE_BYTES_MIN => Ok(()),
            Err(error) if !is_gone(&error) => Err(StoreError::Unavailable(Cause::Io(error.kind()))),
            Ok(_) | Err(_) => Err(StoreError::Misconfigured(self.was_replaced())),
        }
    }

    /// Whether a commit is in the file that a later open will read.
    pub(super) fn check_commit(&self) -> Result<(), Cause> {
        match self.check() {
            Ok(()) => {}
            Err(StoreError::Misconfigured(cause) | StoreError::Unavailable(cause)) => {
                return Err(cause);
            }
            Err(_) => return Err(Cause::FileReplaced),
        }
        if !self.has_begun() {
            return Ok(());
        }
        // The commit is in the log, so there is one, and nobody removes it while this connection is open.
        let found = match self.look_beside() {
            Ok(found) => found,
            Err(error) if is_gone(&error) => return Err(self.was_replaced()),
            Err(error) => return Err(Cause::Io(error.kind())),
        };
        let known = *self.lock().get_or_insert(found);
        if known == found {
            Ok(())
        } else {
            Err(self.was_replaced())
        }
    }

    fn was_replaced(&self) -> Cause {
        if !self.replaced.swap(true, Ordering::AcqRel) {
            tracing::warn!(
                "the database file was removed or replaced: the store refuses every call until it is opened again"
            );
        }
        Cause::FileReplaced
    }

    fn look_beside(&self) -> std::io::Result<[Identity; 2]> {
        let resolved = match self.opened.get() {
            Some(opened) => opened.resolved.clone(),
            None => std::fs::canonicalize(&self.path)?,
        };
        let beside = |suffix| look(&beside(&resolved, suffix)).map(|(identity, _)| identity);
        Ok([beside("-wal")?, beside("-shm")?])
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<[Identity; 2]>> {
        self.beside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The path of a side file of the file at a path without symbolic links.
pub(super) fn beside(resolved: &Path, suffix: &str) -> PathBuf {
    let mut path = resolved.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

/// Whether nothing is at the path.
fn is_gone(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

/// Which file is at a path, and its length.
fn look(path: &Path) -> std::io::Result<(Identity, u64)> {
    let metadata = std::fs::metadata(path)?;
    Ok((identity(&metadata), metadata.len()))
}

#[cfg(unix)]
fn identity(metadata: &std::fs::Metadata) -> Identity {
    use std::os::unix::fs::MetadataExt as _;
    Identity {
        device: metadata.dev(),
        inode: metadata.ino(),
    }
}

#[cfg(not(unix))]
fn identity(_: &std::fs::Metadata) -> Identity {
    Identity {
        device: 0,
        inode: 0,
    }
}
