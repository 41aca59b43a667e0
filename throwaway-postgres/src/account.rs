//! The user that runs a server: ourselves, or as root somebody else, since PostgreSQL refuses root.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use crate::error::ProvisionError;

/// Who runs a server for root, in order of preference. PostgreSQL wants a user that has a name.
const SERVER_USERS: [&str; 3] = ["postgres", "_postgres", "nobody"];
/// Passed on to server programs; all else of our environment, secrets included, is none of their business.
const KEPT_VARIABLES: [&str; 3] = ["PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"];

/// A user and a group by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Account {
    uid: u32,
    gid: u32,
    /// Whether this is somebody else than the running process.
    other: bool,
}

impl Account {
    pub(crate) const ROOT: u32 = 0;

    /// The account of a process that runs servers itself.
    pub(crate) const fn new(uid: u32, gid: u32) -> Self {
        Self {
            uid,
            gid,
            other: false,
        }
    }

    /// The account that runs servers for a process of root's.
    pub(crate) const fn instead_of_root(uid: u32, gid: u32) -> Self {
        Self {
            uid,
            gid,
            other: true,
        }
    }

    /// The account for servers that are started by the owner of `file`, a file made by this process.
    pub(crate) fn for_server(file: &Path) -> Result<Self, ProvisionError> {
        let metadata = fs::metadata(file)
            .map_err(|error| ProvisionError::file(file, &error, "see that it is readable"))?;
        if metadata.uid() != Self::ROOT {
            return Ok(Self::new(metadata.uid(), metadata.gid()));
        }
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let (uid, gid) = unprivileged(&passwd).ok_or(ProvisionError::NoAccount)?;
        Ok(Self::instead_of_root(uid, gid))
    }

    pub(crate) fn uid(self) -> u32 {
        self.uid
    }

    /// Whether servers run as somebody else than the running process, which then is root's.
    pub(crate) fn is_other(self) -> bool {
        self.other
    }

    /// The user who runs this process.
    pub(crate) fn starter(self) -> u32 {
        if self.other { Self::ROOT } else { self.uid }
    }

    /// Makes the account the owner of a file or directory of ours.
    pub(crate) fn own(self, path: &Path) -> Result<(), ProvisionError> {
        if !self.other {
            return Ok(());
        }
        chown(path, Some(self.uid), Some(self.gid)).map_err(|error| {
            ProvisionError::file(path, &error, "see that root may change its owner")
        })
    }

    /// A command that runs as the account, with a clean environment, away from the directory we happen to be in.
    pub(crate) fn command(self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("LC_ALL", "C").current_dir("/");
        for variable in KEPT_VARIABLES {
            if let Some(value) = std::env::var_os(variable) {
                command.env(variable, value);
            }
        }
        if self.other {
            command.uid(self.uid).gid(self.gid);
        }
        command
    }

    /// Whether the account can enter `directory` and every directory above it.
    pub(crate) fn can_enter(self, directory: &Path) -> bool {
        directory.ancestors().all(|ancestor| {
            fs::metadata(ancestor).is_ok_and(|metadata| {
                let mode = metadata.mode();
                if metadata.uid() == self.uid {
                    mode & 0o100 != 0
                } else if metadata.gid() == self.gid {
                    mode & 0o010 != 0
                } else {
                    mode & 0o001 != 0
                }
            })
        })
    }
}

/// The uid and gid of the first of [`SERVER_USERS`] in the text of `/etc/passwd`.
fn unprivileged(passwd: &str) -> Option<(u32, u32)> {
    SERVER_USERS.iter().find_map(|user| {
        passwd.lines().find_map(|line| {
            let mut fields = line.split(':');
            let named = fields.next() == Some(user);
            let uid = fields.nth(1)?.parse().ok()?;
            let gid = fields.next()?.parse().ok()?;
            (named && uid != Account::ROOT).then_some((uid, gid))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\n\
        nobody:x:65534:65533:nobody:/:/usr/sbin/nologin\n\
        postgres:x:101:104:PostgreSQL:/var/lib/postgresql:/bin/bash\n";

    #[test]
    fn the_user_postgres_is_preferred_to_nobody() {
        assert_eq!(unprivileged(PASSWD), Some((101, 104)));
        let without = PASSWD.replace("postgres:", "pgsql:");
        assert_eq!(unprivileged(&without), Some((65534, 65533)));
    }

    #[test]
    fn root_under_another_name_and_unreadable_lines_are_no_account() {
        assert_eq!(
            unprivileged("postgres:x:0:0::/:\nnobody:x:-2:-2::/:\nbroken\n"),
            None
        );
    }

    #[test]
    fn a_command_hides_our_environment() {
        let account = Account::new(1, 1);
        let command = account.command(Path::new("postgres"));
        let kept: Vec<_> = command
            .get_envs()
            .filter_map(|(name, _)| name.to_str())
            .collect();
        assert!(kept.contains(&"LC_ALL"));
        assert!(
            kept.iter()
                .all(|name| *name == "LC_ALL" || KEPT_VARIABLES.contains(name))
        );
    }

    #[test]
    fn a_directory_below_a_closed_one_cannot_be_entered() -> Result<(), Box<dyn std::error::Error>>
    {
        use std::os::unix::fs::PermissionsExt;

        let closed = tempfile::tempdir()?;
        fs::set_permissions(closed.path(), fs::Permissions::from_mode(0o700))?;
        let inner = closed.path().join("inner");
        fs::create_dir(&inner)?;
        let owner = fs::metadata(closed.path())?;
        let stranger = Account::instead_of_root(owner.uid() + 1, owner.gid() + 1);
        assert!(!stranger.can_enter(&inner));
        fs::set_permissions(closed.path(), fs::Permissions::from_mode(0o711))?;
        fs::set_permissions(&inner, fs::Permissions::from_mode(0o711))?;
        let above = closed
            .path()
            .parent()
            .is_some_and(|parent| stranger.can_enter(parent));
        assert_eq!(stranger.can_enter(&inner), above);
        Ok(())
    }
}
