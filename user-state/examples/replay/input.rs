//! Where the records come from, read on a thread of their own: reading a file or a pipe blocks.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;
use user_state_domain::MallId;

use crate::exit::Failure;
use crate::records::{Line, Records};

/// The records that ship with the example.
const SAMPLE: &str = include_str!("sample.csv");

/// The input cannot be read (`EX_NOINPUT`).
const NO_INPUT: u8 = 66;

/// The input is not of the expected form (`EX_DATAERR`).
const DATA_ERROR: u8 = 65;

/// How many lines are read ahead: enough that reading never holds up playing.
const LINES_AHEAD_MAX: usize = 1_024;

/// The records to play.
#[derive(Debug)]
pub(crate) enum Input {
    Sample,
    Stdin,
    File { path: PathBuf, file: File },
}

/// Lines as they are read.
#[derive(Debug)]
pub(crate) struct Lines {
    lines: mpsc::Receiver<Result<Line, Failure>>,
    bytes_read: Arc<AtomicU64>,
}

/// Counts what passes through.
struct Counted<R> {
    inner: R,
    bytes: Arc<AtomicU64>,
}

impl Input {
    /// The sample without a path, stdin at `-`, else a file.
    pub(crate) fn open(path: Option<&Path>) -> Result<Self, Failure> {
        let Some(path) = path else {
            return Ok(Self::Sample);
        };
        if path == Path::new("-") {
            return Ok(Self::Stdin);
        }
        let file = File::open(path).map_err(|error| {
            Failure::new(NO_INPUT, format!("cannot open {}: {error}", path.display()))
        })?;
        Ok(Self::File {
            path: path.to_owned(),
            file,
        })
    }

    /// The name for the reader of a summary.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Sample => "the sample".to_owned(),
            Self::Stdin => "stdin".to_owned(),
            Self::File { path, .. } => path.display().to_string(),
        }
    }

    /// How long it is, where that is known.
    pub(crate) fn bytes(&self) -> Option<u64> {
        match self {
            Self::Sample => u64::try_from(SAMPLE.len()).ok(),
            Self::Stdin => None,
            Self::File { file, .. } => file
                .metadata()
                .ok()
                .filter(std::fs::Metadata::is_file)
                .map(|metadata| metadata.len()),
        }
    }

    /// Begins to read.
    pub(crate) fn read(self, mall_id: MallId) -> Result<Lines, Failure> {
        let bytes_read = Arc::new(AtomicU64::new(0));
        let source: Box<dyn Read + Send> = match self {
            Self::Sample => Box::new(SAMPLE.as_bytes()),
            Self::Stdin => Box::new(io::stdin()),
            Self::File { file, .. } => Box::new(file),
        };
        let counted = Counted {
            inner: source,
            bytes: Arc::clone(&bytes_read),
        };
        let (sender, lines) = mpsc::channel(LINES_AHEAD_MAX);
        // The thread ends with the input or with the program.
        std::thread::Builder::new()
            .name("records".to_owned())
            .spawn(move || read_lines(counted, mall_id, &sender))
            .map_err(|error| Failure::new(1, format!("cannot start a thread: {error}")))?;
        Ok(Lines { lines, bytes_read })
    }
}

impl Lines {
    /// The next line; `None` at the end.
    pub(crate) async fn recv(&mut self) -> Option<Result<Line, Failure>> {
        self.lines.recv().await
    }

    /// How much of the input was read.
    pub(crate) fn bytes_read(&self) -> u64 {
        self.bytes_read.load(Ordering::Relaxed)
    }
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.bytes
            .fetch_add(u64::try_from(count).unwrap_or(u64::MAX), Ordering::Relaxed);
        Ok(count)
    }
}

fn read_lines(source: impl Read, mall_id: MallId, lines: &mpsc::Sender<Result<Line, Failure>>) {
    let records = match Records::new(source, mall_id) {
        Ok(records) => records,
        Err(error) => {
            drop(lines.blocking_send(Err(Failure::new(DATA_ERROR, error.to_string()))));
            return;
        }
    };
    for line in records {
        let line = line.map_err(|error| Failure::new(NO_INPUT, format!("cannot read on: {error}")));
        let last = line.is_err();
        if lines.blocking_send(line).is_err() || last {
            return;
        }
    }
}
