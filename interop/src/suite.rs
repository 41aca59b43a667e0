//! Running the cases of all profiles, and telling what did not run.

use std::collections::HashMap;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use libtest_mimic::{Arguments, Failed, Trial};
use tokio::runtime::Runtime;

use crate::case::{AnyError, Body, Case, Live, Serialization, TestResult};
use crate::database::Database;
use crate::maven::{self, BuildError, Built};
use crate::peer::{Peer, PeerOptions, StateClass};
use crate::profile::Profile;

/// Makes a live case that cannot run a failure.
const REQUIRE_LIVE: &str = "REQUIRE_LIVE";

/// The Java virtual machines of a profile, shared by its cases.
#[derive(Debug)]
pub(crate) struct Machines {
    profile: Profile,
    built: Built,
    serialization: Mutex<HashMap<StateClass, Arc<Peer>>>,
    live: Mutex<Option<Arc<Peer>>>,
}

impl Machines {
    fn new(profile: Profile, built: Built) -> Self {
        Self {
            profile,
            built,
            serialization: Mutex::default(),
            live: Mutex::default(),
        }
    }

    pub(crate) fn profile(&self) -> Profile {
        self.profile
    }

    pub(crate) fn serialization(&self, class: StateClass) -> Result<Arc<Peer>, AnyError> {
        let mut started = self
            .serialization
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(peer) = started.get(&class) {
            return Ok(Arc::clone(peer));
        }
        let options = PeerOptions {
            class,
            ..PeerOptions::default()
        };
        let peer = Arc::new(Peer::serialization(&self.built, &options)?);
        started.insert(class, Arc::clone(&peer));
        Ok(peer)
    }

    pub(crate) fn live(&self) -> Result<Arc<Peer>, AnyError> {
        let mut started = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(peer) = started.as_ref() {
            return Ok(Arc::clone(peer));
        }
        let peer = self.own_live(&PeerOptions::default())?;
        *started = Some(Arc::clone(&peer));
        Ok(peer)
    }

    pub(crate) fn own_live(&self, options: &PeerOptions) -> Result<Arc<Peer>, AnyError> {
        let live = self.built.live.as_ref().map_err(Clone::clone)?;
        Ok(Arc::new(Peer::live(&self.built, live, options)?))
    }
}

/// Runs these groups of cases, each group under its name, for every profile, as the arguments of this process say (those
/// of `cargo test`).
pub fn run(groups: Vec<(&'static str, Vec<Case>)>) -> ExitCode {
    let arguments = Arguments::from_args();
    let runtime = match Runtime::new() {
        Ok(runtime) => Arc::new(runtime),
        Err(error) => {
            eprintln!("no runtime to run the cases on: {error}");
            return ExitCode::FAILURE;
        }
    };
    let cases: Vec<(String, Arc<Case>)> = groups
        .into_iter()
        .flat_map(|(group, cases)| cases.into_iter().map(move |case| (group, case)))
        .map(|(group, case)| (format!("{group}::{}", case.name), Arc::new(case)))
        .collect();
    let mut trials = Vec::new();
    let mut not_run = Vec::new();
    for profile in Profile::ALL {
        // A list of the names needs no Maven.
        let prepared = (!arguments.list).then(|| prepare(profile));
        let mut ignored = Vec::new();
        for (name, case) in &cases {
            let name = format!("{profile}::{name}");
            let trial = trial(&name, case, prepared.as_ref(), &runtime);
            if trial.has_ignored_flag() {
                ignored.push(name);
            }
            trials.push(trial);
        }
        if let Some(reason) = prepared.as_ref().and_then(unresolved)
            && !ignored.is_empty()
        {
            not_run.push((reason, ignored));
        }
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    for (reason, cases) in not_run {
        eprintln!("NOT RUN ({REQUIRE_LIVE}=1 makes that a failure): {reason}");
        for case in cases {
            eprintln!("    {case}");
        }
    }
    conclusion.exit_code()
}

type Prepared = Result<Arc<Machines>, Arc<BuildError>>;

fn prepare(profile: Profile) -> Prepared {
    let built = maven::build(profile).map_err(Arc::new)?;
    Ok(Arc::new(Machines::new(profile, built)))
}

/// Why live cases cannot run, where they cannot.
fn unresolved(prepared: &Prepared) -> Option<String> {
    let machines = prepared.as_ref().ok()?;
    let missing = machines.built.live.as_ref().err()?;
    Some(missing.to_string())
}

fn trial(
    name: &str,
    case: &Arc<Case>,
    prepared: Option<&Prepared>,
    runtime: &Arc<Runtime>,
) -> Trial {
    let machines = match prepared {
        None => return Trial::test(name, || Ok(())),
        Some(Ok(machines)) => Arc::clone(machines),
        Some(Err(error)) => {
            let error = Arc::clone(error);
            return Trial::test(name, move || Err(Failed::from(error)));
        }
    };
    if matches!(case.body, Body::Live(_))
        && let Err(missing) = &machines.built.live
    {
        let required = std::env::var(REQUIRE_LIVE).is_ok_and(|value| value == "1");
        let missing = missing.clone();
        return Trial::test(name, move || Err(Failed::from(missing))).with_ignored_flag(!required);
    }
    let (case, runtime) = (Arc::clone(case), Arc::clone(runtime));
    Trial::test(name, move || {
        runtime
            .block_on(run_case(&case, machines))
            .map_err(|error| Failed::from(with_sources(&*error)))
    })
}

async fn run_case(case: &Case, machines: Arc<Machines>) -> TestResult {
    match &case.body {
        Body::Serialization(body) => body(Serialization { machines }).await,
        Body::Live(body) => {
            let database = Box::pin(Database::create()).await?;
            body(Live { machines, database }).await
        }
    }
}

fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
