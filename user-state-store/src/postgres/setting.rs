//! Settings of a session: what the user asked for, and how it is read.
//!
//! **Problem.** A pooler refuses start-up parameters, or drops them without a word. **How.** None is sent: what the URL
//! gives as `options` is taken apart here, and set by statement like the store's own settings. What only a proxy in front
//! of the server understands is sent at start-up, since the proxy takes it out.

use crate::open_error::OpenError;

/// What hosted proxies read from `options` to find the server: Neon's and Supabase's names.
const FOR_PROXIES: [&str; 3] = ["endpoint=", "project=", "reference="];

/// One setting of a session.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) name: String,
    pub(super) value: String,
}

impl Setting {
    pub(super) fn new(name: &str, value: impl Into<String>) -> Self {
        Self {
            name: name.to_owned(),
            value: value.into(),
        }
    }
}

/// Adds a setting; of two with one name the later one counts, as on the server.
pub(super) fn put(settings: &mut Vec<Setting>, setting: Setting) {
    settings.retain(|other| !other.name.eq_ignore_ascii_case(&setting.name));
    settings.push(setting);
}

/// The part of `options` that a proxy in front of the server takes out, as it is sent at start-up.
pub(super) fn for_proxies(options: &str) -> String {
    let words = words(options).into_iter();
    let kept: Vec<String> = words.filter(|word| is_for_proxies(word)).collect();
    kept.join(" ")
}

fn is_for_proxies(word: &str) -> bool {
    FOR_PROXIES.iter().any(|name| word.starts_with(name))
}

/// The settings in a text such as `-c search_path=app -c work_mem=64MB`, as the server reads it at start-up.
pub(super) fn parse(options: &str) -> Result<Vec<Setting>, OpenError> {
    let mut settings = Vec::new();
    let mut words = words(options).into_iter();
    while let Some(word) = words.next() {
        if is_for_proxies(&word) {
            continue;
        }
        let pair = match (word.strip_prefix("-c"), word.strip_prefix("--")) {
            (Some(""), _) => words.next(),
            (Some(pair), _) | (None, Some(pair)) => Some(pair.to_owned()),
            (None, None) => None,
        };
        let setting = pair
            .as_deref()
            .and_then(setting)
            .ok_or(OpenError::InvalidOption {
                option: "options",
                problem: "only `-c name=value` and `--name=value` are understood",
            })?;
        put(&mut settings, setting);
    }
    Ok(settings)
}

fn setting(pair: &str) -> Option<Setting> {
    let (name, value) = pair.split_once('=')?;
    let name = name.replace('-', "_");
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '.');
    (!name.is_empty() && name.chars().all(is_plain)).then(|| Setting::new(&name, value))
}

/// The words between spaces; a backslash takes the next character as it is.
fn words(options: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = None::<String>;
    let mut letters = options.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => word.get_or_insert_default().extend(letters.next()),
            space if space.is_ascii_whitespace() => words.extend(word.take()),
            letter => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(options: &str) -> Vec<(String, String)> {
        let settings = parse(options).unwrap();
        settings.into_iter().map(|it| (it.name, it.value)).collect()
    }

    #[test]
    fn options_are_read_as_the_server_reads_them() {
        let cases: [(&str, &[(&str, &str)]); 9] = [
            ("", &[]),
            ("  ", &[]),
            (
                "-c search_path=app,public",
                &[("search_path", "app,public")],
            ),
            ("-csearch_path=app", &[("search_path", "app")]),
            ("--search-path=app", &[("search_path", "app")]),
            (
                r"-c search_path=app,\ public  --work_mem=1MB",
                &[("search_path", "app, public"), ("work_mem", "1MB")],
            ),
            (r"-c app.path=a\\b=c", &[("app.path", r"a\b=c")]),
            ("-c geqo=", &[("geqo", "")]),
            ("-c geqo=on -c GEQO=off", &[("GEQO", "off")]),
        ];
        for (options, expected) in cases {
            let expected: Vec<_> = expected
                .iter()
                .map(|&(name, value)| (name.to_owned(), value.to_owned()))
                .collect();
            assert_eq!(parsed(options), expected, "{options}");
        }
    }

    #[test]
    fn what_leads_a_proxy_to_the_server_is_no_setting_and_is_sent() {
        for (options, sent, settings) in [
            ("endpoint=ep-cool-1", "endpoint=ep-cool-1", 0),
            ("project=abc -c geqo=off", "project=abc", 1),
            ("-c geqo=off", "", 1),
        ] {
            assert_eq!(for_proxies(options), sent, "{options}");
            assert_eq!(parsed(options).len(), settings, "{options}");
        }
    }

    #[test]
    fn what_cannot_be_set_by_statement_is_refused() {
        for options in [
            "-c", "-c geqo", "-e", "geqo=off", "-B 8", "-c =x", "-c a;b=c", "--",
        ] {
            assert!(
                matches!(
                    parse(options),
                    Err(OpenError::InvalidOption {
                        option: "options",
                        ..
                    })
                ),
                "{options}"
            );
        }
    }
}
