//! The process between a test process and its server: it ends the server when the test process ends.
//!
//! It is a small shell script of ours, since only another process can act after a `kill -9`. It learns of the end
//! by the end of its standard input.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// A running supervisor. Dropping it makes it end the server, and returns when that is done.
#[derive(Debug)]
pub(crate) struct Supervisor {
    process: Child,
    /// `None` once the supervisor was told to end.
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Supervisor {
    /// Starts a script that answers each order on standard input by one line on standard output.
    pub(crate) fn start(script: &mut Command, stderr: Stdio) -> io::Result<Self> {
        let mut process = script
            // An interrupt from the terminal is for the test process.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()?;
        let orders = process.stdin.take();
        let answers = process
            .stdout
            .take()
            .map(BufReader::new)
            .ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(Self {
            process,
            orders,
            answers,
        })
    }

    /// Gives an order and waits for its answer.
    pub(crate) fn order(&mut self, order: &str) -> io::Result<String> {
        let orders = self.orders.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        writeln!(orders, "{order}")?;
        let mut answer = String::new();
        if self.answers.read_line(&mut answer)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        answer.truncate(answer.trim_end().len());
        Ok(answer)
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        drop(self.orders.take());
        // There is nobody left to tell, and the next run removes what this one could not.
        drop(self.process.wait());
    }
}
