//! Building the Pekko application with Maven, when its sources have changed.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::profile::Profile;

const PROJECT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/pekko");
const SERIALIZATION: &str = "serialization";
const MODEL_TWO: &str = "model-v2";
const LIVE: &str = "live";
const PLUGIN: &str = "pekko-persistence-r2dbc";

/// Halves the work of a compiler that runs once.
const MAVEN_OPTS: &str = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC";

/// What Maven says of an artefact that is in no repository, or in none within reach.
const UNRESOLVED: [&str; 4] = [
    "Could not find artifact",
    "Could not resolve dependencies",
    "was not found in",
    "Could not transfer artifact",
];

/// The application, built for a profile.
#[derive(Debug, Clone)]
pub struct Built {
    /// The class path without the plugin.
    pub serialization: OsString,
    /// What goes in front of it for version 2 of the state class.
    pub model_two: PathBuf,
    /// The class path with the plugin.
    pub live: Result<OsString, NotResolved>,
}

/// The plugin is in no repository that Maven can reach.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Maven does not find {PLUGIN} {version}: {said}")]
pub struct NotResolved {
    /// Which version.
    version: &'static str,
    /// In Maven's words.
    said: String,
}

/// The application cannot be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// There is no Maven.
    #[error(
        "`mvn` is not there: install Maven 3.8 or later and a JDK of 17 or later (on Debian: \
         apt-get install maven openjdk-17-jdk-headless)"
    )]
    NoMaven,
    /// Maven ran and failed.
    #[error("Maven could not build the Pekko application of profile {profile}:\n{said}")]
    Failed {
        /// Of which profile.
        profile: Profile,
        /// Everything that Maven printed.
        said: String,
    },
    /// Files could not be read or written.
    #[error("the Pekko application could not be built: {0}")]
    Io(#[from] io::Error),
}

/// Builds the application, or takes what was built from the same sources before. Takes up to a minute, more where
/// Maven has to fetch everything first.
///
/// # Errors
/// Where Maven is missing or fails for another reason than a plugin that it does not find.
pub(crate) fn build(profile: Profile) -> Result<Built, BuildError> {
    let target = Path::new(PROJECT).join("target");
    fs::create_dir_all(&target)?;
    // Two runs of the tests at once build one after the other.
    let lock = File::create(target.join("lock"))?;
    lock.lock()?;

    let stamp = target.join(format!("{profile}.built"));
    let sources = fingerprint()?;
    if fs::read_to_string(&stamp).is_ok_and(|built| built == sources)
        && let Ok(built) = built(profile)
        && built.live.is_ok()
    {
        return Ok(built);
    }
    for module in [SERIALIZATION, MODEL_TWO, LIVE] {
        remove_if_there(&classpath_file(profile, module))?;
    }
    remove_if_there(&stamp)?;
    let said = run_maven(profile)?;
    let failed = |said| BuildError::Failed { profile, said };
    let Ok(mut built) = built(profile) else {
        return Err(failed(said));
    };
    if let Err(missing) = &mut built.live {
        let unresolved = said.lines().find(|line| {
            line.contains(PLUGIN) && UNRESOLVED.iter().any(|words| line.contains(words))
        });
        let Some(unresolved) = unresolved else {
            return Err(failed(said));
        };
        unresolved.trim().clone_into(&mut missing.said);
    }
    fs::write(&stamp, sources)?;
    Ok(built)
}

/// What is in the modules' directories. A module that was not built has no class path.
fn built(profile: Profile) -> io::Result<Built> {
    // A module of the model alone needs nothing that is not there already, but must have been built.
    classpath(profile, MODEL_TWO)?;
    Ok(Built {
        serialization: joined(profile, &[SERIALIZATION])?,
        model_two: classes(profile, MODEL_TWO),
        live: joined(profile, &[LIVE, SERIALIZATION]).map_err(|_| NotResolved {
            version: profile.plugin_version(),
            said: String::new(),
        }),
    })
}

/// The classes of these modules, and what the first of them depends on.
fn joined(profile: Profile, modules: &[&str]) -> io::Result<OsString> {
    let mut path: Vec<PathBuf> = modules
        .iter()
        .map(|module| classes(profile, module))
        .collect();
    if let Some(first) = modules.first() {
        path.extend(classpath(profile, first)?);
    }
    std::env::join_paths(path).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
}

/// What a module depends on, all of it there.
fn classpath(profile: Profile, module: &str) -> io::Result<Vec<PathBuf>> {
    let text = fs::read_to_string(classpath_file(profile, module))?;
    let path: Vec<PathBuf> = std::env::split_paths(text.trim()).collect();
    if path.iter().all(|entry| entry.exists()) {
        Ok(path)
    } else {
        Err(io::ErrorKind::NotFound.into())
    }
}

fn classes(profile: Profile, module: &str) -> PathBuf {
    output(profile, module).join("classes")
}

fn classpath_file(profile: Profile, module: &str) -> PathBuf {
    output(profile, module).join("classpath")
}

fn output(profile: Profile, module: &str) -> PathBuf {
    [PROJECT, module, "target", profile.name()].iter().collect()
}

fn run_maven(profile: Profile) -> Result<String, BuildError> {
    eprintln!("building the Pekko application of profile {profile} with Maven");
    let options = std::env::var("MAVEN_OPTS").unwrap_or_default();
    let run = Command::new("mvn")
        .args([
            "--batch-mode",
            "--quiet",
            "--no-transfer-progress",
            "--fail-at-end",
            "-Dstyle.color=never",
        ])
        .args(["--activate-profiles", profile.name(), "compile"])
        .env("MAVEN_OPTS", format!("{MAVEN_OPTS} {options}"))
        .current_dir(PROJECT)
        .stdin(Stdio::null())
        .output();
    let output = match run {
        Ok(output) => output,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(BuildError::NoMaven),
        Err(error) => return Err(error.into()),
    };
    let said = [output.stdout, output.stderr].concat();
    Ok(String::from_utf8_lossy(&said).into_owned())
}

fn remove_if_there(file: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// A number for what the project's sources are.
fn fingerprint() -> io::Result<String> {
    let mut sources = BTreeMap::new();
    collect(Path::new(PROJECT), &mut sources)?;
    let mut hasher = DefaultHasher::new();
    sources.hash(&mut hasher);
    Ok(format!("{:016x}", hasher.finish()))
}

fn collect(directory: &Path, sources: &mut BTreeMap<PathBuf, Vec<u8>>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_file() {
            sources.insert(path.clone(), fs::read(path)?);
        } else if path.file_name().is_some_and(|name| name != "target") {
            collect(&path, sources)?;
        }
    }
    Ok(())
}
