//! Examples as child processes, and a place for their files.

use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::SystemTime;

use serde_json::Value;
use tempfile::TempDir;
use user_state_store::{ConnectOptions, OpenError, Store};

/// A directory with a SQLite store in it.
pub(crate) struct Place {
    directory: TempDir,
}

/// What a child process said.
pub(crate) struct Run {
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Place {
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self {
            directory: tempfile::tempdir()?,
        })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn url(&self) -> String {
        format!("sqlite:{}", self.path("test.db").display())
    }

    pub(crate) async fn store(&self) -> Result<Store, OpenError> {
        user_state_store::connect(&ConnectOptions::parse(&self.url())?).await
    }

    /// Runs an example in this directory, to its end.
    pub(crate) fn run(
        &self,
        example: &str,
        arguments: &[&str],
        stdin: &str,
    ) -> Result<Run, Box<dyn Error>> {
        let mut child = Command::new(binary(example)?)
            .args(arguments)
            .current_dir(self.directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        // What is piped in fits into the pipe; a child that reads none of it may be gone already.
        let piped = child
            .stdin
            .take()
            .map(|mut pipe| pipe.write_all(stdin.as_bytes()));
        drop(piped);
        let Output {
            status,
            stdout,
            stderr,
        } = child.wait_with_output()?;
        Ok(Run {
            status: status.code().ok_or("killed")?,
            stdout: String::from_utf8(stdout)?,
            stderr: String::from_utf8(stderr)?,
        })
    }

    /// Plays records into the store.
    pub(crate) fn replay(&self, csv: &str, more: &[&str]) -> Result<Run, Box<dyn Error>> {
        let url = self.url();
        let arguments = [&["-", "--store", &url, "--json"], more].concat();
        self.run("replay", &arguments, csv)
    }

    /// Looks at the store.
    pub(crate) fn inspect(&self, arguments: &[&str]) -> Result<Run, Box<dyn Error>> {
        let url = self.url();
        let arguments = [&["--store", url.as_str()], arguments].concat();
        self.run("inspect", &arguments, "")
    }

    /// The names and contents of all files.
    pub(crate) fn files(&self) -> std::io::Result<Vec<(PathBuf, Vec<u8>)>> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(self.directory.path())? {
            let path = entry?.path();
            files.push((path.clone(), std::fs::read(path)?));
        }
        files.sort();
        Ok(files)
    }
}

impl Run {
    /// The JSON object on the last line of stdout.
    pub(crate) fn json(&self) -> Result<Value, Box<dyn Error>> {
        let last = self.stdout.lines().last().unwrap_or_default();
        serde_json::from_str(last)
            .map_err(|error| format!("{error}: {:?}, {:?}", self.stdout, self.stderr).into())
    }
}

/// The keys of an object, sorted.
pub(crate) fn keys(json: &Value) -> Vec<&str> {
    let keys = json
        .as_object()
        .into_iter()
        .flat_map(|object| object.keys());
    keys.map(String::as_str).collect()
}

/// The compiled example beside this test. Cargo builds examples for a whole test run, but not for this test alone: then
/// it is built here where it is missing or older than its sources.
fn binary(example: &str) -> Result<PathBuf, Box<dyn Error>> {
    let this = std::env::current_exe()?;
    let profile = this.ancestors().nth(2).ok_or("no profile directory")?;
    let name = format!("{example}{}", std::env::consts::EXE_SUFFIX);
    let binary = profile.join("examples").join(name);
    let newest_source = newest_source()?;
    if modified(&binary).is_ok_and(|at| newest_source <= at) {
        return Ok(binary);
    }
    let output = profile.parent().ok_or("no target directory")?;
    let release = profile.file_name().is_some_and(|name| name == "release");
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args(["build", "--quiet", "--workspace"])
        .args(["--example", example, "--target-dir"])
        .arg(output)
        .args(release.then_some("--release"))
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    // Build scripts look at what Cargo tells a test of its package, and would run again.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            cargo.env_remove(&name);
        }
    }
    if cargo.status()?.success() {
        Ok(binary)
    } else {
        Err(format!("example {example} does not build").into())
    }
}

fn modified(path: &Path) -> std::io::Result<SystemTime> {
    path.metadata()?.modified()
}

/// When the last change was made to anything the examples are compiled from.
fn newest_source() -> Result<SystemTime, Box<dyn Error>> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let workspace = package.parent().ok_or("no workspace")?;
    let sources = [
        "loadtest/examples",
        "user-state/examples",
        "user-state-runtime/src",
        "user-state-store/src",
        "user-state-domain/src",
    ];
    let mut directories: Vec<_> = sources.iter().map(|path| workspace.join(path)).collect();
    let mut newest = SystemTime::UNIX_EPOCH;
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory)? {
            let path = entry?.path();
            if path.is_dir() {
                directories.push(path);
            } else {
                newest = newest.max(modified(&path)?);
            }
        }
    }
    Ok(newest)
}
