//! Goal: the figures of Pekko under load are of work that was done: what counts as durable is in the rows.
//! Method: the program that the benchmark talks to is asked for each work on a small database; then the rows are counted.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use user_state_interop::{AnyError, Case, Live, TestResult, load_command};

/// How many users there are.
const USERS: u32 = 40;

/// How long each load takes.
const SECONDS: f64 = 0.3;

/// How many reads begin each second in the work that has a rate.
const RATE: u32 = 2_000;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::live(
            "every_command_that_a_load_counts_is_a_revision_in_the_rows",
            commands_are_in_the_rows,
        ),
        Case::live(
            "a_load_of_reads_writes_nothing_and_recovers_every_user_once",
            reads_write_nothing,
        ),
        Case::live(
            "work_that_is_not_done_is_refused_with_a_reason_and_the_next_is_done",
            refuses_and_goes_on,
        ),
    ]
}

/// The program, asked line by line. It ends with its standard input.
struct Load {
    process: Child,
    url: String,
    contender: &'static str,
}

impl Load {
    fn start(live: &Live, contender: &'static str) -> Result<Self, AnyError> {
        let command = load_command(live.profile())?;
        let process = Command::new(&command[0])
            .args(&command[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        Ok(Self {
            process,
            url: live.database.url()?.into(),
            contender,
        })
    }

    fn ask(&mut self, work: &str, percent: u32) -> Result<Value, AnyError> {
        let question = json!({
            "work": work,
            "contender": self.contender,
            "url": self.url,
            "callers": 8,
            "users": USERS,
            "population": USERS,
            "percent": percent,
            "rate": RATE,
            "warm_up_seconds": 0,
            "seconds": SECONDS,
        });
        let stdin = self.process.stdin.as_mut().ok_or("no standard input")?;
        writeln!(stdin, "{question}")?;
        let stdout = self.process.stdout.as_mut().ok_or("no standard output")?;
        let mut line = String::new();
        // An answer is one line, and nothing follows until the next question.
        BufReader::new(stdout).read_line(&mut line)?;
        Ok(serde_json::from_str(&line)?)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// How many commands the rows have seen: each is one revision.
async fn commands(live: &Live) -> Result<i64, AnyError> {
    let mut commands = 0;
    for user in 0..USERS {
        let id = format!("load-user-{user}");
        let rows = live.database.rows(&id).await?;
        assert!(rows.len() <= 1, "{rows:?}");
        for row in rows {
            assert_eq!(row.tags, Some(vec!["user-state".to_owned()]));
            commands += row.revision;
        }
    }
    Ok(commands)
}

#[expect(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    reason = "a number of commands"
)]
fn counted(answer: &Value) -> i64 {
    let rate = answer["per_second"].as_f64().unwrap();
    assert!(rate > 0.0, "{answer}");
    assert_eq!(answer["errors"], 0, "{answer}");
    assert!(answer["p50_us"].as_f64() <= answer["p99_us"].as_f64());
    assert!(answer["p99_us"].as_f64() <= answer["p999_us"].as_f64());
    (rate * SECONDS) as i64
}

async fn commands_are_in_the_rows(live: Live) -> TestResult {
    for contender in ["pekko", "pekko-tuned"] {
        let mut load = Load::start(&live, contender)?;
        for (work, percent) in [("write", 0), ("mix", 75), ("latency", 50)] {
            let before = commands(&live).await?;
            let answer = load.ask(work, percent)?;
            let written = commands(&live).await? - before;
            // A load also writes before and after the time in which answers count.
            let least = match work {
                "mix" => 1,
                _ => counted(&answer),
            };
            assert!(written >= least, "{work}: {written} of {least}, {answer}");
        }
    }
    Ok(())
}

async fn reads_write_nothing(live: Live) -> TestResult {
    let mut load = Load::start(&live, "pekko")?;
    assert_eq!(load.ask("start-up", 0)?, json!({}));
    assert_eq!(commands(&live).await?, 1);
    // The first load warms the machine up, which writes.
    load.ask("read", 100)?;
    let before = commands(&live).await?;
    let at_a_rate = load.ask("read-rate", 100)?;
    assert_eq!(at_a_rate["extras"]["rate"], f64::from(RATE));
    // Each read that was due is in the figures, also one that a busy machine does not answer in time.
    assert!(at_a_rate["extras"]["given_up"].is_number(), "{at_a_rate}");
    assert!(at_a_rate["p999_us"].is_number(), "{at_a_rate}");
    for work in ["read", "recover"] {
        assert!(counted(&load.ask(work, 100)?) > 0);
    }
    assert_eq!(commands(&live).await?, before);
    Ok(())
}

async fn refuses_and_goes_on(live: Live) -> TestResult {
    let mut load = Load::start(&live, "pekko")?;
    let refused = load.ask("memory", 0)?;
    assert!(refused["not_run"].as_str().is_some(), "{refused}");
    assert!(counted(&load.ask("write", 0)?) > 0);
    Ok(())
}
