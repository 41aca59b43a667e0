//! Goal: entities and shards know no mode of persistence, so that another mode copies none of them.
//! Method: the sources of both are searched for the names of durable-state types; a planted one is found.

use std::collections::BTreeSet;
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

/// All sources in a directory.
fn sources(of: &Path, found: &mut Vec<PathBuf>) -> TestResult {
    for entry in std::fs::read_dir(of)? {
        let path = entry?.path();
        if path.is_dir() {
            sources(&path, found)?;
        } else {
            found.push(path);
        }
    }
    Ok(())
}

/// The modules that a source declares for tests only.
fn test_modules(source: &str) -> impl Iterator<Item = &str> {
    source.split("#[cfg(test)]\n").skip(1).filter_map(|rest| {
        let (declared, _) = rest.split_once(';')?;
        declared.rsplit_once("mod ").map(|(_, name)| name)
    })
}

#[test]
fn entities_and_shards_name_no_type_of_the_durable_state_mode() -> TestResult {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = vec![source.join("entity.rs"), source.join("shard.rs")];
    sources(&source.join("entity"), &mut files)?;
    sources(&source.join("shard"), &mut files)?;
    let texts: Vec<(PathBuf, String)> = files
        .into_iter()
        .map(|file| std::fs::read_to_string(&file).map(|text| (file, text)))
        .collect::<Result<_, _>>()?;
    let for_tests: BTreeSet<&str> = texts
        .iter()
        .flat_map(|(_, text)| test_modules(text))
        .collect();
    let is_for_tests = |file: &Path| {
        let names = file.with_extension("");
        let mut names = names.iter().filter_map(|name| name.to_str());
        names.any(|name| for_tests.contains(name))
    };
    let production = texts.iter().filter(|(file, _)| !is_for_tests(file));
    let mut checked = 0;
    for (file, text) in production {
        let production = text.split("#[cfg(test)]\nmod tests {").next();
        let names = foreign_names(production.unwrap_or_default());
        assert_eq!(names, [""; 0], "{}", file.display());
        checked += 1;
    }
    assert!(checked >= 15, "only {checked} files");
    Ok(())
}

#[test]
fn modules_for_tests_are_told_from_the_others() {
    let source = "mod core;\n#[cfg(test)]\npub(crate) mod scene;\n#[cfg(test)]\nmod tests;\n";
    assert_eq!(test_modules(source).collect::<Vec<_>>(), ["scene", "tests"]);
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
