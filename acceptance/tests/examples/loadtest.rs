//! What `loadtest` tells.

use serde_json::json;

use crate::TestResult;
use crate::child::{Place, keys};

#[test]
fn every_workload_of_a_load_test_runs_without_errors_and_tells_its_figures() -> TestResult {
    let place = Place::new()?;
    let url = place.url();
    for workload in ["write", "hot", "read", "recover"] {
        let arguments = ["--workload", workload, "--store", &url, "--users", "50"];
        let arguments = [
            &arguments[..],
            &["--callers", "20", "--seconds", "1", "--json"],
        ]
        .concat();
        let loaded = place.run("loadtest", &arguments, "")?;
        assert_eq!(loaded.status, 0, "{workload}: {}", loaded.stderr);
        let json = loaded.json()?;
        let mut expected = [
            "workload",
            "per_second",
            "p50_us",
            "p99_us",
            "errors",
            "users",
            "callers",
            "rss_bytes",
        ];
        expected.sort_unstable();
        assert_eq!(keys(&json), expected);
        assert_eq!(json["workload"], workload);
        assert_eq!((&json["users"], &json["callers"]), (&json!(50), &json!(20)));
        assert_eq!(json["errors"], 0, "{json}");
        assert!(json["per_second"].as_u64() > Some(0), "{json}");
        assert!(json["p50_us"].as_u64() <= json["p99_us"].as_u64(), "{json}");
        assert!(json["rss_bytes"].as_u64() > Some(1_000_000), "{json}");
    }
    Ok(())
}
