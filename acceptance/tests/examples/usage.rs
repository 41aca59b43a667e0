//! Wrong usage, and what cannot be used.

use crate::TestResult;
use crate::child::Place;

#[test]
fn wrong_usage_and_unusable_input_have_exit_statuses_of_their_own() -> TestResult {
    let place = Place::new()?;
    let missing = place.path("missing/test.db").display().to_string();
    let missing_store = format!("sqlite:{missing}");
    let secret = "mysql://user:marker-secret@host/database";
    let cases: [(&str, &[&str], i32); 14] = [
        ("replay", &["--frobnicate"], 64),
        ("replay", &["--mall", "a-b"], 64),
        ("replay", &["--idle-timeout", "0s"], 64),
        ("replay", &["--zone", "Nowhere"], 64),
        ("replay", &["--store", secret], 64),
        ("replay", &["no-such-file.csv"], 66),
        ("replay", &["-"], 65),
        ("replay", &["--store", &missing_store], 69),
        ("loadtest", &[], 64),
        ("loadtest", &["--workload", "dance"], 64),
        ("loadtest", &["--workload", "read", "--users", "0"], 64),
        ("inspect", &["demo-1"], 64),
        ("inspect", &["--store", secret, "demo-1"], 64),
        ("inspect", &["--store", &missing_store, "demo-1"], 69),
    ];
    for (example, arguments, status) in cases {
        let ended = place.run(example, arguments, "no,such,header\n")?;
        assert_eq!(
            ended.status, status,
            "{example} {arguments:?}: {}",
            ended.stderr
        );
        assert!(!ended.stderr.is_empty(), "{example} {arguments:?}");
        assert!(!ended.stderr.contains("marker-secret"), "{}", ended.stderr);
    }
    Ok(())
}
