//! The directory of one running server: its data, its log, and a lock that tells whether somebody looks after it.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::account::Account;
use crate::error::ProvisionError;

const PREFIX: &str = "user-state-postgres-";
const LOCK: &str = "lock";
const ADVICE: &str = "set TMPDIR to a directory that the server's user can enter";
/// Lines of the log that an error shows.
const LOG_LINES: usize = 12;

/// A directory that only the account of the server can enter. Dropping it removes it; its supervisor does so if this
/// process is killed.
#[derive(Debug)]
pub(crate) struct RunDirectory {
    path: PathBuf,
    account: Account,
}

impl RunDirectory {
    /// A new directory and its locked lock file, to be held open by whoever looks after the server.
    pub(crate) fn create() -> Result<(Self, File), ProvisionError> {
        Self::create_in(&std::env::temp_dir())
    }

    fn create_in(parent: &Path) -> Result<(Self, File), ProvisionError> {
        let path = parent.join(format!("{PREFIX}{}", Uuid::new_v4().simple()));
        let failed = |error: &io::Error| ProvisionError::file(&path, error, ADVICE);
        DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(|error| failed(&error))?;
        let account = Account::for_server(&path)?;
        // The lock file appears under its name only when it is locked: no other process takes it for abandoned.
        let unlocked = path.join("new");
        let lock = File::create_new(&unlocked).map_err(|error| failed(&error))?;
        lock.lock().map_err(|error| failed(&error))?;
        fs::rename(&unlocked, path.join(LOCK)).map_err(|error| failed(&error))?;
        let directory = Self { path, account };
        account.own(&directory.path)?;
        if !account.can_enter(&directory.path) {
            let denied = ErrorKind::PermissionDenied.into();
            return Err(ProvisionError::file(&directory.path, &denied, ADVICE));
        }
        Ok((directory, lock))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn account(&self) -> Account {
        self.account
    }

    /// Writes a file that only the account of the server can read.
    pub(crate) fn write_secret(&self, name: &str, content: &str) -> Result<(), ProvisionError> {
        let path = self.path.join(name);
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| file.write_all(content.as_bytes()))
            .map_err(|error| ProvisionError::file(&path, &error, ADVICE))?;
        self.account.own(&path)
    }

    /// Whether the postmaster `process_id` accepts connections: it says so in its pid file, as `pg_ctl` reads it.
    pub(crate) fn is_ready(&self, process_id: &str) -> bool {
        fs::read_to_string(self.path.join("data/postmaster.pid")).is_ok_and(|file| {
            let mut lines = file.lines();
            lines.next() == Some(process_id) && lines.nth(6).map(str::trim) == Some("ready")
        })
    }

    /// The end of the log, in one line.
    pub(crate) fn log_end(&self) -> Box<str> {
        let log = fs::read(self.path.join("log")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().filter(|line| !line.trim().is_empty()).collect();
        let skipped = lines.len().saturating_sub(LOG_LINES);
        let end: Vec<&str> = lines.into_iter().skip(skipped).collect();
        if end.is_empty() {
            "the log is empty".into()
        } else {
            end.join(" | ").into()
        }
    }
}

impl Drop for RunDirectory {
    fn drop(&mut self) {
        // Its supervisor was faster, as a rule; what neither could remove, a later run will.
        drop(fs::remove_dir_all(&self.path));
    }
}

/// Removes what runs left behind whose test process and supervisor were both killed.
///
/// Only directories of `account`, and only where nobody holds the lock. A server that still runs in one ends by
/// itself within a minute, when it notices that its pid file is gone.
pub(crate) fn remove_abandoned(account: Account) {
    remove_abandoned_in(&std::env::temp_dir(), account);
}

fn remove_abandoned_in(parent: &Path, account: Account) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let path = entry.path();
        let ours = entry
            .file_name()
            .as_encoded_bytes()
            .starts_with(PREFIX.as_bytes())
            && entry
                .metadata()
                .is_ok_and(|metadata| metadata.is_dir() && metadata.uid() == account.uid());
        if ours && is_abandoned(&path.join(LOCK)) {
            // Another process may be removing it, too.
            drop(fs::remove_dir_all(&path));
        }
    }
}

fn is_abandoned(lock: &Path) -> bool {
    fs::symlink_metadata(lock).is_ok_and(|metadata| metadata.is_file())
        && File::open(lock).is_ok_and(|file| match file.try_lock() {
            Ok(()) => true,
            Err(TryLockError::WouldBlock | TryLockError::Error(_)) => false,
        })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    type TestResult = Result<(), Box<dyn std::error::Error>>;

    /// A directory like `/tmp`, that everybody can enter.
    fn parent() -> io::Result<tempfile::TempDir> {
        let parent = tempfile::tempdir()?;
        fs::set_permissions(parent.path(), fs::Permissions::from_mode(0o755))?;
        Ok(parent)
    }

    #[test]
    fn a_directory_is_abandoned_once_nobody_holds_its_lock() -> TestResult {
        let parent = parent()?;
        let (directory, lock) = RunDirectory::create_in(parent.path())?;
        remove_abandoned_in(parent.path(), directory.account());
        assert!(directory.path().exists(), "held, so it stays");

        drop(lock);
        remove_abandoned_in(parent.path(), directory.account());
        assert!(!directory.path().exists());
        Ok(())
    }

    #[test]
    fn a_directory_without_a_lock_file_is_left_alone() -> TestResult {
        let parent = parent()?;
        let (directory, lock) = RunDirectory::create_in(parent.path())?;
        drop(lock);
        fs::rename(directory.path().join(LOCK), directory.path().join("other"))?;
        remove_abandoned_in(parent.path(), directory.account());
        assert!(directory.path().exists());
        Ok(())
    }

    #[test]
    fn a_parent_that_the_account_cannot_enter_is_refused() -> TestResult {
        let parent = parent()?;
        fs::set_permissions(parent.path(), fs::Permissions::from_mode(0o600))?;
        let error = RunDirectory::create_in(parent.path()).unwrap_err();
        assert!(error.to_string().contains("set TMPDIR"), "{error}");
        Ok(())
    }

    #[test]
    fn only_the_account_of_the_server_can_enter_it() -> TestResult {
        let (directory, _lock) = RunDirectory::create()?;
        directory.write_secret("password", "secret")?;
        for path in [
            directory.path().to_owned(),
            directory.path().join("password"),
        ] {
            let metadata = fs::metadata(path)?;
            assert_eq!(metadata.mode() & 0o077, 0);
            assert_eq!(metadata.uid(), directory.account().uid());
        }
        Ok(())
    }

    #[test]
    fn the_pid_file_of_another_process_says_nothing() -> TestResult {
        let (directory, _lock) = RunDirectory::create()?;
        fs::create_dir(directory.path().join("data"))?;
        let file = directory.path().join("data/postmaster.pid");
        fs::write(&file, "77\n/data\n0\n5432\n\n127.0.0.1\n 1 2\nready   \n")?;
        assert!(directory.is_ready("77"));
        assert!(!directory.is_ready("78"));
        fs::write(&file, "77\n/data\n0\n5432\n\n127.0.0.1\n 1 2\nstarting\n")?;
        assert!(!directory.is_ready("77"));
        Ok(())
    }
}
