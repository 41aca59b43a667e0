//! PostgreSQL's server programs that are installed on this machine.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::account::Account;

/// Where to look for the programs, and nowhere else.
const BIN_VARIABLE: &str = "USER_STATE_TEST_POSTGRES_BIN";
/// The oldest version with `client_connection_check_interval`, which ends statements of clients that are gone.
const MAJOR_MIN: u32 = 14;
/// Parents of directories of packaged versions; `*` stands for one name.
const PACKAGED: [&str; 7] = [
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/usr/libexec/postgresql*",
    "/opt/homebrew/opt/postgresql*/bin",
    "/usr/local/opt/postgresql*/bin",
    "/Applications/Postgres.app/Contents/Versions/*/bin",
    "/usr/local/pgsql/bin",
];

/// A directory with `initdb` and `postgres` in it, both of which ran for the account of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Binaries {
    bin: PathBuf,
}

impl Binaries {
    /// The programs in `bin`, if they run for `account`; else why they do not serve.
    pub(crate) fn probe(bin: &Path, account: Account) -> Result<Self, Box<str>> {
        let shown = bin.display();
        for program in ["initdb", "postgres"] {
            if !bin.join(program).is_file() {
                return Err(format!("no {program} in {shown}").into());
            }
        }
        if !account.can_enter(bin) {
            return Err(format!("{shown} is closed to the server's user").into());
        }
        let output = account
            .command(&bin.join("postgres"))
            .arg("--version")
            .output()
            .map_err(|error| format!("postgres in {shown} does not run ({})", error.kind()))?;
        check_version(&String::from_utf8_lossy(&output.stdout))
            .map_err(|reason| format!("postgres in {shown} {reason}"))?;
        Ok(Self {
            bin: bin.to_owned(),
        })
    }

    /// The programs on this machine: those on the path first, then the newest package; else why there are none.
    pub(crate) fn installed(account: Account) -> Result<Self, Box<str>> {
        if let Some(bin) = std::env::var_os(BIN_VARIABLE).filter(|value| !value.is_empty()) {
            return Self::probe(Path::new(&bin), account)
                .map_err(|reason| format!("{BIN_VARIABLE}: {reason}").into());
        }
        let mut reasons = Vec::new();
        for bin in candidates() {
            match Self::probe(&bin, account) {
                Ok(binaries) => return Ok(binaries),
                Err(reason) => reasons.push(reason),
            }
        }
        if reasons.is_empty() {
            return Err("no server programs found".into());
        }
        Err(reasons.join(", ").into())
    }

    pub(crate) fn bin(&self) -> &Path {
        &self.bin
    }
}

/// Directories that may hold server programs: each at most once, the best first, those without `postgres` left out.
fn candidates() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path)
        // A link on the path leads to the directory where the other programs are.
        .filter_map(|directory| fs::canonicalize(directory.join("postgres")).ok())
        .filter_map(|program| program.parent().map(Path::to_owned));
    let packaged = PACKAGED.iter().flat_map(|pattern| expand(pattern));
    let mut found = Vec::new();
    for bin in on_path.chain(packaged).chain(configured()) {
        if bin.join("postgres").is_file() && !found.contains(&bin) {
            found.push(bin);
        }
    }
    found
}

/// What `pg_config` says, which client packages bring too: the directory may lack the server.
fn configured() -> Option<PathBuf> {
    let output = Command::new("pg_config").arg("--bindir").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some(PathBuf::from(text.trim()))
}

/// The existing paths that match a pattern with at most one `*`, the highest version first.
fn expand(pattern: &str) -> Vec<PathBuf> {
    let Some((before, after)) = pattern.split_once('*') else {
        return vec![PathBuf::from(pattern)];
    };
    let (parent, prefix) = before.rsplit_once('/').unwrap_or((".", before));
    let mut found: Vec<(u32, PathBuf)> = fs::read_dir(parent)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| {
            entry
                .file_name()
                .as_encoded_bytes()
                .starts_with(prefix.as_bytes())
        })
        .map(|entry| {
            let bin = entry.path().join(after.trim_start_matches('/'));
            (first_number(&entry.file_name()).unwrap_or(0), bin)
        })
        .collect();
    found.sort_by(|left, right| right.cmp(left));
    found.into_iter().map(|(_, bin)| bin).collect()
}

/// Judges the output of `postgres --version`, such as `postgres (PostgreSQL) 17.11`.
fn check_version(output: &str) -> Result<(), String> {
    let version = output
        .split_once("(PostgreSQL) ")
        .map(|(_, version)| OsStr::new(version));
    match version.and_then(first_number) {
        Some(major) if major >= MAJOR_MIN => Ok(()),
        Some(major) => Err(format!("has version {major}, older than {MAJOR_MIN}")),
        None => Err("does not tell its version".to_owned()),
    }
}

fn first_number(text: &OsStr) -> Option<u32> {
    let text = text.to_str()?;
    let digits = text.trim_start_matches(|character: char| !character.is_ascii_digit());
    let end = digits
        .find(|character: char| !character.is_ascii_digit())
        .unwrap_or(digits.len());
    digits.get(..end)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_from_14_on_serve() {
        assert_eq!(
            check_version("postgres (PostgreSQL) 14.0 (Debian 14.0-1)\n"),
            Ok(())
        );
        assert_eq!(check_version("postgres (PostgreSQL) 19beta1\n"), Ok(()));
        let old = check_version("postgres (PostgreSQL) 13.22\n");
        assert_eq!(old, Err("has version 13, older than 14".to_owned()));
        assert!(check_version("something else 17").is_err());
        assert!(check_version("").is_err());
    }

    #[test]
    fn of_packaged_versions_the_newest_comes_first() -> Result<(), Box<dyn std::error::Error>> {
        let root = tempfile::tempdir()?;
        for version in ["9.6", "17", "15"] {
            fs::create_dir_all(root.path().join(version).join("bin"))?;
        }
        let found = expand(&format!("{}/*/bin", root.path().display()));
        let expected: Vec<_> = ["17", "15", "9.6"]
            .iter()
            .map(|version| root.path().join(version).join("bin"))
            .collect();
        assert_eq!(found, expected);
        Ok(())
    }

    #[test]
    fn a_directory_without_the_programs_is_named_with_the_reason()
    -> Result<(), Box<dyn std::error::Error>> {
        let empty = tempfile::tempdir()?;
        let account = Account::for_server(empty.path())?;
        let reason = Binaries::probe(empty.path(), account).unwrap_err();
        assert_eq!(*reason, *format!("no initdb in {}", empty.path().display()));
        Ok(())
    }
}
