//! The directory in which fetched server programs are kept from one run to the next.
//!
//! What lies in it is executed, so nobody but its owner may write to it, and it is only used if that is so.

use std::env;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::account::Account;
use crate::error::ProvisionError;

const CACHE_VARIABLE: &str = "USER_STATE_TEST_CACHE";
const NAME: &str = "user-state";
/// Root's own cache directory is closed to the user that runs its servers.
const FOR_ROOT: &str = "/var/cache";
const ADVICE: &str = "set USER_STATE_TEST_CACHE to a directory that you may write to";
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// The cache, open for use.
#[derive(Debug)]
pub(crate) struct Cache {
    path: PathBuf,
    account: Account,
}

impl Cache {
    /// The cache of this user, made if need be.
    pub(crate) fn open(account: Account) -> Result<Self, ProvisionError> {
        let path = choose(account, |name| env::var_os(name)).ok_or(ProvisionError::NoCache)?;
        Self::open_at(&path, account)
    }

    pub(crate) fn open_at(path: &Path, account: Account) -> Result<Self, ProvisionError> {
        let failed = |error: io::Error| ProvisionError::file(path, &error, ADVICE);
        if !path.is_dir() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(path)
                .map_err(failed)?;
            // The process's mask can have closed it to the server's user.
            fs::set_permissions(path, Permissions::from_mode(0o755)).map_err(failed)?;
        }
        let cache = Self {
            path: path.to_owned(),
            account,
        };
        cache.check(path)?;
        Ok(cache)
    }

    /// The directory `name`, made by `fill` if it is not there yet. Processes that want it at the same time wait for
    /// the one that fills it. It appears complete or not at all.
    pub(crate) fn directory<E>(
        &self,
        name: &str,
        fill: impl FnOnce(&Path) -> Result<(), E>,
    ) -> Result<Result<PathBuf, E>, ProvisionError> {
        let path = self.path.join(name);
        if !path.is_dir() {
            let lock_path = self.path.join("lock");
            let lock = File::create(&lock_path).and_then(|file| file.lock().map(|()| file));
            let lock = lock.map_err(|error| ProvisionError::file(&lock_path, &error, ADVICE))?;
            if !path.is_dir()
                && let Err(reason) = self.fill(&path, fill)?
            {
                return Ok(Err(reason));
            }
            drop(lock);
        }
        self.check(&path)?;
        Ok(Ok(path))
    }

    fn fill<E>(
        &self,
        path: &Path,
        fill: impl FnOnce(&Path) -> Result<(), E>,
    ) -> Result<Result<(), E>, ProvisionError> {
        let partial = self.path.join("partial");
        let failed = |error: io::Error| ProvisionError::file(&partial, &error, ADVICE);
        if partial.is_dir() {
            // Left by a process that was killed.
            fs::remove_dir_all(&partial).map_err(failed)?;
        }
        DirBuilder::new()
            .mode(0o700)
            .create(&partial)
            .map_err(failed)?;
        let unpacked = partial.join("unpacked");
        let outcome = fill(&unpacked);
        if outcome.is_ok() {
            open_to_readers(&unpacked).map_err(failed)?;
            fs::rename(&unpacked, path).map_err(failed)?;
        }
        fs::remove_dir_all(&partial).map_err(failed)?;
        Ok(outcome)
    }

    /// Refuses a directory in which somebody else could have put something to execute.
    fn check(&self, path: &Path) -> Result<(), ProvisionError> {
        let metadata =
            fs::metadata(path).map_err(|error| ProvisionError::file(path, &error, ADVICE))?;
        let owners = [Account::ROOT, self.account.starter()];
        if owners.contains(&metadata.uid()) && metadata.mode() & WRITABLE_BY_OTHERS == 0 {
            Ok(())
        } else {
            Err(ProvisionError::Untrusted {
                path: path.to_owned(),
            })
        }
    }
}

/// Where the cache is: where the user says, or by the XDG base directory specification, or for root in `/var/cache`.
fn choose(account: Account, variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let absolute = |name| {
        variable(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    if let Some(path) = absolute(CACHE_VARIABLE) {
        return Some(path);
    }
    if account.is_other() {
        return Some(Path::new(FOR_ROOT).join(NAME));
    }
    let parent = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
    Some(parent.join(NAME))
}

/// Lets everybody read what is in `path`, and nobody but the owner write to it.
fn open_to_readers(path: &Path) -> io::Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    if metadata.is_symlink() {
        return Ok(());
    }
    if metadata.is_dir() {
        for entry in fs::read_dir(path)? {
            open_to_readers(&entry?.path())?;
        }
    }
    let executable = metadata.is_dir() || metadata.mode() & 0o100 != 0;
    fs::set_permissions(
        path,
        Permissions::from_mode(if executable { 0o755 } else { 0o644 }),
    )
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    type TestResult = Result<(), Box<dyn std::error::Error>>;

    fn cache() -> Result<(tempfile::TempDir, Cache), Box<dyn std::error::Error>> {
        let parent = tempfile::tempdir()?;
        fs::set_permissions(parent.path(), Permissions::from_mode(0o755))?;
        let account = Account::for_server(parent.path())?;
        let cache = Cache::open_at(&parent.path().join("cache"), account)?;
        Ok((parent, cache))
    }

    #[test]
    fn a_directory_is_filled_once_however_many_want_it() -> TestResult {
        let (_parent, cache) = cache()?;
        let fills = AtomicU32::new(0);
        let fill = |path: &Path| {
            fills.fetch_add(1, Ordering::Relaxed);
            fs::create_dir(path)?;
            fs::write(path.join("program"), "content")
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| cache.directory("programs", fill)))
                .collect();
            for thread in threads {
                let path = thread.join().map_err(|_| "panicked")???;
                assert_eq!(fs::read_to_string(path.join("program"))?, "content");
            }
            Ok::<_, Box<dyn std::error::Error>>(())
        })?;
        assert_eq!(fills.into_inner(), 1);
        Ok(())
    }

    #[test]
    fn a_directory_that_could_not_be_filled_is_not_there_and_can_be_filled_later() -> TestResult {
        let (_parent, cache) = cache()?;
        let failed = cache.directory("programs", |path| {
            fs::create_dir(path).map_err(|_| "not created")?;
            fs::write(path.join("half"), "").map_err(|_| "not written")?;
            Err("interrupted")
        })?;
        assert_eq!(failed, Err("interrupted"));
        assert!(!cache.path.join("programs").exists());

        let path = cache.directory("programs", |path| fs::create_dir(path))??;
        assert!(!path.join("half").exists());
        Ok(())
    }

    #[test]
    fn what_others_can_write_to_is_not_executed() -> TestResult {
        let (_parent, cache) = cache()?;
        let path = cache.directory("programs", |path| fs::create_dir(path))??;
        fs::set_permissions(&path, Permissions::from_mode(0o777))?;
        let refused = cache
            .directory("programs", |path| fs::create_dir(path))
            .unwrap_err();
        assert_eq!(refused, ProvisionError::Untrusted { path });

        fs::set_permissions(&cache.path, Permissions::from_mode(0o775))?;
        assert!(Cache::open_at(&cache.path, cache.account).is_err());
        Ok(())
    }

    #[test]
    fn everybody_can_read_what_the_mask_had_closed() -> TestResult {
        let (_parent, cache) = cache()?;
        let path = cache.directory("programs", |path| {
            fs::create_dir(path)?;
            for (name, mode) in [("program", 0o700), ("data", 0o666)] {
                fs::write(path.join(name), "")?;
                fs::set_permissions(path.join(name), Permissions::from_mode(mode))?;
            }
            fs::set_permissions(path, Permissions::from_mode(0o700))
        })??;
        let mode = |path: &Path| fs::metadata(path).map(|metadata| metadata.mode() & 0o777);
        assert_eq!(mode(&path)?, 0o755);
        assert_eq!(mode(&path.join("program"))?, 0o755);
        assert_eq!(mode(&path.join("data"))?, 0o644);
        Ok(())
    }

    #[test]
    fn the_place_follows_the_xdg_base_directories_except_for_root() {
        let set = |pairs: &'static [(&str, &str)]| {
            move |name: &str| {
                pairs
                    .iter()
                    .find(|(set, _)| *set == name)
                    .map(|(_, value)| OsString::from(value))
            }
        };
        let user = Account::new(1000, 1000);
        let home = set(&[("HOME", "/home/u")]);
        assert_eq!(choose(user, home), Some("/home/u/.cache/user-state".into()));
        let xdg = set(&[("HOME", "/home/u"), ("XDG_CACHE_HOME", "/x")]);
        assert_eq!(choose(user, xdg), Some("/x/user-state".into()));
        let relative = set(&[("HOME", "/home/u"), ("XDG_CACHE_HOME", "x")]);
        assert_eq!(
            choose(user, relative),
            Some("/home/u/.cache/user-state".into())
        );
        let for_root = choose(
            Account::instead_of_root(101, 104),
            set(&[("HOME", "/root")]),
        );
        assert_eq!(for_root, Some("/var/cache/user-state".into()));
        let said = set(&[("HOME", "/root"), (CACHE_VARIABLE, "/said")]);
        assert_eq!(
            choose(Account::instead_of_root(101, 104), said),
            Some("/said".into())
        );
        assert_eq!(choose(user, set(&[])), None);
    }
}
