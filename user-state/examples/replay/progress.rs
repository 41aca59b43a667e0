//! A progress bar on a terminal; nothing where there is none.

use indicatif::{ProgressBar, ProgressStyle};

/// How far the input has been read.
#[derive(Debug)]
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// Progress through this many bytes, where that is known.
    pub(crate) fn new(bytes: Option<u64>, on_terminal: bool) -> Self {
        if !on_terminal {
            return Self(ProgressBar::hidden());
        }
        let (bar, template) = match bytes {
            Some(bytes) => (
                ProgressBar::new(bytes),
                "{bar:40} {percent:>3} %  {bytes} of {total_bytes}, {eta} left",
            ),
            None => (ProgressBar::new_spinner(), "{spinner} {bytes} read"),
        };
        match ProgressStyle::with_template(template) {
            Ok(style) => Self(bar.with_style(style)),
            Err(_) => Self(bar),
        }
    }

    /// So many bytes were read.
    pub(crate) fn at(&self, bytes: u64) {
        self.0.set_position(bytes);
    }

    /// Tells something on stderr, above the bar.
    pub(crate) fn report(&self, message: &str) {
        self.0.suspend(|| eprintln!("{message}"));
    }

    /// Removes the bar.
    pub(crate) fn end(&self) {
        self.0.finish_and_clear();
    }
}
