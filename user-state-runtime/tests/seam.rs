//! Goal: entities and shards know no mode of persistence, so that another mode copies none of them.
//! Method: the sources of both are searched for the names of durable-state types; a planted one is found.

use std::error::Error;
use std::path::{Path, PathBuf};

type TestResult<T = ()> = Result<T, Box<dyn Error>>;

/// What entities and shards may take from the store's crate: what every mode has.
const SHARED: [&str; 2] = ["PersistenceId", "Revision"];

/// Names of the durable-state mode.
const DURABLE_STATE: [&str; 13] = [
    "Change",
    "DeleteForm",
    "DurableState",
    "DurableStateStore",
    "Row",
    "StateMapping",
    "StoredState",
    "StoredValue",
    "Tags",
    "UnresolvedWrite",
    "WriteBatch",
    "WriteOutcome",
    "Writers",
];

/// The names in a source that it should not know.
fn foreign_names(source: &str) -> Vec<String> {
    let words = |text: &str| -> Vec<String> {
        let word = |word: &str| word.to_owned();
        text.split(|letter: char| !(letter.is_alphanumeric() || letter == '_'))
            .filter(|word| !word.is_empty())
            .map(word)
            .collect()
    };
    let imports = source
        .split("user_state_store::")
        .skip(1)
        .flat_map(|rest| match rest.strip_prefix('{') {
            Some(list) => words(list.split('}').next().unwrap_or_default()),
            None => words(rest).into_iter().take(1).collect(),
        })
        .filter(|name| !SHARED.contains(&name.as_str()));
    let named = words(source)
        .into_iter()
        .filter(|name| DURABLE_STATE.contains(&name.as_str()));
    imports.chain(named).collect()
}

/// The sources of entities and shards, without those of their tests.
fn sources(of: &Path, found: &mut Vec<PathBuf>) -> TestResult {
    for entry in std::fs::read_dir(of)? {
        let path = entry?.path();
        if path.ends_with("simulation") || path.ends_with("simulation.rs") {
            continue;
        }
        if path.is_dir() {
            sources(&path, found)?;
        } else {
            found.push(path);
        }
    }
    Ok(())
}

#[test]
fn entities_and_shards_name_no_type_of_the_durable_state_mode() -> TestResult {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = vec![source.join("entity.rs"), source.join("shard.rs")];
    sources(&source.join("entity"), &mut files)?;
    sources(&source.join("shard"), &mut files)?;
    assert!(files.len() >= 10, "only {files:?}");
    for file in files {
        let text = std::fs::read_to_string(&file)?;
        let production = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
        assert_eq!(foreign_names(production), [""; 0], "{}", file.display());
    }
    Ok(())
}

#[test]
fn a_name_of_the_durable_state_mode_is_found_wherever_it_stands() {
    assert_eq!(
        foreign_names("use user_state_store::{PersistenceId, Payload};"),
        ["Payload"]
    );
    assert_eq!(
        foreign_names("use user_state_store::Slice;\nfn a() {}"),
        ["Slice"]
    );
    assert_eq!(foreign_names("user_state_store::resolve(1)"), ["resolve"]);
    assert_eq!(
        foreign_names("fn cut(row: Row) -> Tags {}"),
        ["Row", "Tags"]
    );
    assert_eq!(foreign_names("/// A [`WriteBatch`]."), ["WriteBatch"]);
    let clean = "use user_state_store::{PersistenceId, Revision};\nstruct Rows(Arrow);";
    assert_eq!(foreign_names(clean), [""; 0]);
}
