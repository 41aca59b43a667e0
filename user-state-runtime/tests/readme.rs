//! Goal: the project's texts stay true to the project.
//!
//! Method: the texts are read as a reader's browser would. Both languages have to show the same code (which the
//! doc tests compile and run) and the same outline, and every link that stays inside the project has to lead
//! to a file or a heading that is there.

use std::collections::BTreeSet;
use std::error::Error;
use std::fs;
use std::path::PathBuf;

/// The texts at the top of the project, the examples' directory included in their links.
const TEXTS: [&str; 7] = [
    "README.md",
    "README.ko.md",
    "ARCHITECTURE.md",
    "COMPATIBILITY.md",
    "CHANGELOG.md",
    "SECURITY.md",
    "CONTRIBUTING.md",
];

/// A text, with its code set apart.
struct Text {
    /// Fenced blocks: the word behind the fence, and the lines inside.
    blocks: Vec<(String, String)>,
    /// The headings, with how many `#` stand before each.
    headings: Vec<(usize, String)>,
    /// Everything that is neither.
    prose: String,
}

fn project() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn read(name: &str) -> Result<Text, Box<dyn Error>> {
    let source =
        fs::read_to_string(project().join(name)).map_err(|error| format!("{name}: {error}"))?;
    let mut text = Text {
        blocks: Vec::new(),
        headings: Vec::new(),
        prose: String::new(),
    };
    let mut lines = source.lines();
    while let Some(line) = lines.next() {
        if let Some(language) = line.strip_prefix("```") {
            let inside: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            text.blocks.push((language.to_owned(), inside.join("\n")));
        } else if line.starts_with('#') {
            let heading = line.trim_start_matches('#');
            let level = line.len() - heading.len();
            text.headings.push((level, heading.trim().to_owned()));
        } else {
            text.prose.push_str(line);
            text.prose.push('\n');
        }
    }
    Ok(text)
}

/// The anchor that GitHub gives a heading.
fn anchor(heading: &str) -> String {
    heading
        .to_lowercase()
        .chars()
        .filter_map(|character| match character {
            ' ' => Some('-'),
            '-' | '_' => Some(character),
            _ => character.is_alphanumeric().then_some(character),
        })
        .collect()
}

/// The targets of Markdown links.
fn links(prose: &str) -> Vec<&str> {
    prose
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split_once(')'))
        .map(|(target, _)| target)
        .collect()
}

#[test]
fn both_languages_show_the_same_code() -> Result<(), Box<dyn Error>> {
    let code = |text: Text| -> Vec<(String, String)> {
        let blocks = text.blocks.into_iter();
        // Diagrams speak the reader's language.
        blocks
            .filter(|(language, _)| language != "mermaid")
            .collect()
    };
    let english = code(read("README.md")?);
    assert!(
        english
            .iter()
            .filter(|(language, _)| language == "rust")
            .count()
            >= 5
    );
    assert_eq!(english, code(read("README.ko.md")?));
    Ok(())
}

#[test]
fn both_languages_have_the_same_outline() -> Result<(), Box<dyn Error>> {
    let outline = |text: &Text| -> Vec<usize> {
        let headings = text.headings.iter();
        headings.map(|(level, _)| *level).collect()
    };
    let (english, korean) = (read("README.md")?, read("README.ko.md")?);
    assert_eq!(outline(&english), outline(&korean));
    let rows = |text: &Text| {
        text.prose
            .lines()
            .filter(|line| line.starts_with('|'))
            .count()
    };
    assert_eq!(rows(&english), rows(&korean), "the same rows in the tables");
    let diagrams = |text: &Text| {
        text.blocks
            .iter()
            .filter(|(language, _)| language == "mermaid")
            .count()
    };
    assert_eq!(diagrams(&english), diagrams(&korean));
    Ok(())
}

#[test]
fn the_first_commands_of_the_readme_need_nothing_but_rust() -> Result<(), Box<dyn Error>> {
    let readme = read("README.md")?;
    let shell = readme
        .blocks
        .iter()
        .filter(|(language, _)| language == "sh");
    let commands: Vec<&str> = shell.map(|(_, command)| command.as_str()).take(2).collect();
    assert_eq!(
        commands,
        ["cargo run --example replay", "cargo test --workspace"]
    );
    Ok(())
}

#[test]
fn every_link_inside_the_project_leads_somewhere() -> Result<(), Box<dyn Error>> {
    let mut broken = BTreeSet::new();
    for name in TEXTS {
        let text = read(name)?;
        for link in links(&text.prose) {
            if link.starts_with("https://") {
                continue;
            }
            let (file, fragment) = link.split_once('#').unwrap_or((link, ""));
            let file = if file.is_empty() { name } else { file };
            let there = if fragment.is_empty() {
                project().join(file).exists()
            } else {
                let headings = read(file)?.headings;
                headings
                    .iter()
                    .any(|(_, heading)| anchor(heading) == fragment)
            };
            if !there {
                broken.insert(format!("{name}: {link}"));
            }
        }
    }
    assert_eq!(broken, BTreeSet::new());
    Ok(())
}

/// The Rust sources below a directory of the project.
fn sources(directory: &str) -> Result<Vec<String>, Box<dyn Error>> {
    let mut sources = Vec::new();
    let mut directories = vec![project().join(directory)];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                sources.push(fs::read_to_string(path)?);
            }
        }
    }
    Ok(sources)
}

#[test]
fn every_test_that_the_compatibility_page_names_is_there() -> Result<(), Box<dyn Error>> {
    let page = read("COMPATIBILITY.md")?;
    let named: BTreeSet<&str> = page
        .prose
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|code| {
            let is_name = |character: char| character.is_ascii_alphanumeric() || character == '_';
            code.matches('_').count() > 3 && code.chars().all(is_name)
        })
        .collect();
    assert!(named.len() > 40, "{} are named", named.len());
    let mut tests = Vec::new();
    for directory in [
        "user-state-store/tests",
        "user-state-runtime/tests",
        "acceptance/tests",
        "interop/tests",
    ] {
        tests.extend(sources(directory)?);
    }
    let missing: Vec<&str> = named
        .into_iter()
        .filter(|name| {
            let forms = [format!("fn {name}("), format!("\"{name}\"")];
            !tests
                .iter()
                .any(|source| forms.iter().any(|form| source.contains(form)))
        })
        .collect();
    assert_eq!(missing, Vec::<&str>::new());
    Ok(())
}
