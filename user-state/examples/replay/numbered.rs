//! Line numbers as an editor shows them.
//!
//! The CSV reader's own number is that of the end of the record before, so it is too low behind blank lines and in files
//! whose lines end as on Windows. Here the lines are counted as they are read.

use std::collections::VecDeque;
use std::io::{self, Read};

/// A source whose lines are numbered, from 1.
pub(crate) struct Numbered<R> {
    source: R,
    offset: u64,
    line: u64,
    at_line_start: bool,
    /// Offset and number of the lines read that are not blank.
    starts: VecDeque<(u64, u64)>,
}

impl<R> Numbered<R> {
    pub(crate) fn new(source: R) -> Self {
        Self {
            source,
            offset: 0,
            line: 1,
            at_line_start: true,
            starts: VecDeque::new(),
        }
    }

    /// The number of the first line at or behind this offset that is not blank. Offsets must not go backwards.
    pub(crate) fn line_at(&mut self, offset: u64) -> Option<u64> {
        while let Some((start, line)) = self.starts.front() {
            if *start >= offset {
                return Some(*line);
            }
            self.starts.pop_front();
        }
        None
    }

    fn count(&mut self, bytes: &[u8]) {
        for byte in bytes {
            match byte {
                b'\n' => {
                    self.line += 1;
                    self.at_line_start = true;
                }
                b'\r' => {}
                _ if self.at_line_start => {
                    self.starts.push_back((self.offset, self.line));
                    self.at_line_start = false;
                }
                _ => {}
            }
            self.offset += 1;
        }
    }
}

impl<R: Read> Read for Numbered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        self.count(buffer.get(..count).unwrap_or_default());
        Ok(count)
    }
}
