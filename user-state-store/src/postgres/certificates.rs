//! The files that TLS needs, looked at before anything connects.
//!
//! **Problem.** The driver reads them in the middle of a handshake, and says of a missing file what it says of a server
//! that cannot be trusted, or that cannot be reached. **How.** Each file is read once before, and its PEM labels are
//! looked at. **Not here.** Whether the certificates are good: the handshake decides.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use crate::open_error::OpenError;

/// The most bytes of a file that are looked at, far more than all public authorities take (a quarter of a mebibyte).
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

const CERTIFICATE: &[&str] = &["CERTIFICATE"];

/// The labels of keys that the driver reads.
const KEY: &[&str] = &["PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY"];

/// Where the certificates and the key of a connection come from.
#[derive(Default)]
pub(super) struct Files {
    pub(super) root: Option<Named>,
    pub(super) certificate: Option<Named>,
    pub(super) key: Option<Named>,
}

/// PEM text or its file, and the option that names it.
pub(super) struct Named {
    option: &'static str,
    source: Source,
}

enum Source {
    Text(String),
    File(PathBuf),
}

impl Named {
    pub(super) fn file(option: &'static str, path: &Path) -> Self {
        Self {
            option,
            source: Source::File(path.to_owned()),
        }
    }

    /// The value of a variable: the driver takes PEM text in place of a path.
    pub(super) fn variable(option: &'static str, value: String) -> Self {
        let is_text = value.trim().starts_with("-----BEGIN");
        Self {
            option,
            source: if is_text {
                Source::Text(value)
            } else {
                Source::File(value.into())
            },
        }
    }

    fn text(&self) -> Result<String, &'static str> {
        let path = match &self.source {
            Source::Text(text) => return Ok(text.clone()),
            Source::File(path) => path,
        };
        let mut bytes = Vec::new();
        File::open(path)
            .and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut bytes))
            .map_err(|error| match error.kind() {
                ErrorKind::NotFound => "the file does not exist; correct its path",
                ErrorKind::PermissionDenied => "the file cannot be read; correct its permissions",
                _ => "the file cannot be read; it must be a PEM file",
            })?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn refuse<T>(&self, problem: &'static str) -> Result<T, OpenError> {
        Err(OpenError::InvalidOption {
            option: self.option,
            problem,
        })
    }

    fn check(&self, labels: &[&str], none: &'static str) -> Result<(), OpenError> {
        let text = match self.text() {
            Ok(text) => text,
            Err(problem) => return self.refuse(problem),
        };
        if text.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----")
            || text.contains("Proc-Type: 4,ENCRYPTED")
        {
            return self.refuse("the key is encrypted; decrypt it with `openssl pkey`");
        }
        let mut found = labels
            .iter()
            .flat_map(|label| bodies(&text, label))
            .peekable();
        if found.peek().is_none() {
            return self.refuse(none);
        }
        if found.all(is_der) {
            Ok(())
        } else {
            self.refuse("the file is damaged: what it holds is no base64 of DER; get it again")
        }
    }
}

impl Files {
    /// Refuses what the driver could not read.
    pub(super) fn check(&self) -> Result<(), OpenError> {
        if let Some(root) = &self.root {
            root.check(
                CERTIFICATE,
                "the file holds no certificate in PEM form; convert it with `openssl x509`",
            )?;
        }
        match (&self.certificate, &self.key) {
            (Some(certificate), None) => {
                return certificate.refuse("a certificate needs its key; give sslkey, too");
            }
            (None, Some(key)) => {
                return key.refuse("a key needs its certificate; give sslcert, too");
            }
            _ => {}
        }
        if let Some(certificate) = &self.certificate {
            certificate.check(
                CERTIFICATE,
                "the file holds no certificate in PEM form; convert it with `openssl x509`",
            )?;
        }
        if let Some(key) = &self.key {
            key.check(
                KEY,
                "the file holds no private key in PEM form; convert it with `openssl pkey`",
            )?;
        }
        Ok(())
    }
}

/// What stands between each pair of lines with this label; nothing where the second line is missing.
fn bodies<'text>(text: &'text str, label: &str) -> impl Iterator<Item = &'text str> {
    let end = format!("-----END {label}-----");
    text.split(&format!("-----BEGIN {label}-----"))
        .skip(1)
        .map(move |behind| behind.split_once(&end).map_or("", |(body, _)| body))
        .collect::<Vec<_>>()
        .into_iter()
}

/// Whether a text is base64 of something that begins as a certificate or a key does: with a sequence of DER.
fn is_der(body: &str) -> bool {
    let is_base64 = |letter: char| letter.is_ascii_alphanumeric() || "+/=".contains(letter);
    let mut letters = body.chars().filter(|letter| !letter.is_whitespace());
    // The byte 0x30, and what may follow.
    letters.clone().count() % 4 == 0
        && letters.clone().all(is_base64)
        && letters.next() == Some('M')
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD_CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
    const GOOD_KEY: &str = "-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\n";

    fn refusal(
        root: Option<&str>,
        certificate: Option<&str>,
        key: Option<&str>,
    ) -> Option<(&'static str, &'static str)> {
        let named =
            |option, text: Option<&str>| text.map(|text| Named::variable(option, text.to_owned()));
        let files = Files {
            root: named("sslrootcert", root),
            certificate: named("sslcert", certificate),
            key: named("sslkey", key),
        };
        match files.check() {
            Ok(()) => None,
            Err(OpenError::InvalidOption { option, problem }) => Some((option, problem)),
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_file_that_the_driver_cannot_use_is_refused_by_the_option_that_names_it() {
        let accepted = refusal(
            Some(GOOD_CERTIFICATE),
            Some(GOOD_CERTIFICATE),
            Some(GOOD_KEY),
        );
        assert_eq!(accepted, None);
        let encrypted =
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----";
        let old = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nMIIB\n-----END RSA PRIVATE KEY-----";
        let garbage = "-----BEGIN CERTIFICATE-----\nnot base64!\n-----END CERTIFICATE-----";
        let cut = "-----BEGIN CERTIFICATE-----\nMIIB\n";
        for (root, certificate, key, option, says) in [
            (
                Some("no-such-file"),
                None,
                None,
                "sslrootcert",
                "does not exist",
            ),
            (Some("/"), None, None, "sslrootcert", "cannot be read"),
            (Some(GOOD_KEY), None, None, "sslrootcert", "no certificate"),
            (Some(garbage), None, None, "sslrootcert", "damaged"),
            (Some(cut), None, None, "sslrootcert", "damaged"),
            (
                None,
                Some(GOOD_CERTIFICATE),
                None,
                "sslcert",
                "needs its key",
            ),
            (
                None,
                None,
                Some(GOOD_KEY),
                "sslkey",
                "needs its certificate",
            ),
            (
                None,
                Some("no-such-file"),
                Some(GOOD_KEY),
                "sslcert",
                "does not exist",
            ),
            (
                None,
                Some(GOOD_CERTIFICATE),
                Some("no-such-file"),
                "sslkey",
                "does not exist",
            ),
            (
                None,
                Some(GOOD_CERTIFICATE),
                Some(encrypted),
                "sslkey",
                "encrypted",
            ),
            (
                None,
                Some(GOOD_CERTIFICATE),
                Some(old),
                "sslkey",
                "encrypted",
            ),
            (
                None,
                Some(GOOD_CERTIFICATE),
                Some(GOOD_CERTIFICATE),
                "sslkey",
                "no private key",
            ),
        ] {
            let refused = refusal(root, certificate, key);
            assert!(
                refused.is_some_and(|(named, problem)| named == option && problem.contains(says)),
                "{option} {says}: {refused:?}"
            );
        }
    }
}
