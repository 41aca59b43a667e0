//! How an example ends: an exit status of BSD's `sysexits.h`, and what went wrong on one line.

use std::error::Error;
use std::fmt;
use std::process::ExitCode;

use clap::Parser;
use user_state_store::OpenError;

/// The command was used wrongly (`EX_USAGE`).
pub(crate) const USAGE: u8 = 64;

/// The store cannot be reached or used (`EX_UNAVAILABLE`).
pub(crate) const UNAVAILABLE: u8 = 69;

/// Why an example did not do its work.
#[derive(Debug)]
pub(crate) struct Failure {
    status: u8,
    message: String,
}

impl Failure {
    /// The example ends with this status.
    pub(crate) fn new(status: u8, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
        }
    }

    /// The command was used wrongly.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(USAGE, message)
    }

    /// The store cannot be reached or used.
    pub(crate) fn unavailable(error: &dyn Error) -> Self {
        Self::new(UNAVAILABLE, with_causes(error))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::InvalidUrl { .. }
            | OpenError::UnknownScheme { .. }
            | OpenError::InvalidSetting(_)
            | OpenError::InvalidOption { .. } => Self::usage(with_causes(&error)),
            _ => Self::unavailable(&error),
        }
    }
}

/// The arguments of the command line, or the status to end with: they are wrong, or only help was asked for.
pub(crate) fn arguments<A: Parser>() -> Result<A, ExitCode> {
    A::try_parse().map_err(|error| {
        // There is nobody left to tell where the terminal is gone.
        drop(error.print());
        ExitCode::from(if error.use_stderr() { USAGE } else { 0 })
    })
}

/// The exit status of a result; a failure is told on stderr.
pub(crate) fn status(result: Result<ExitCode, Failure>) -> ExitCode {
    result.unwrap_or_else(|failure| {
        eprintln!("error: {failure}");
        ExitCode::from(failure.status)
    })
}

/// An error and its causes on one line.
pub(crate) fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
