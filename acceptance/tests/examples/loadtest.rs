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
            "live_entities_max",
            "recovered",
        ];
        expected.sort_unstable();
        assert_eq!(keys(&json), expected);
        assert_eq!(json["workload"], workload);
        assert_eq!((&json["users"], &json["callers"]), (&json!(50), &json!(20)));
        assert_eq!(json["errors"], 0, "{json}");
        assert!(json["per_second"].as_u64() > Some(0), "{json}");
        assert!(json["p50_us"].as_u64() <= json["p99_us"].as_u64(), "{json}");
        assert!(json["rss_bytes"].as_u64() > Some(1_000_000), "{json}");
        let recovers = workload == "recover";
        assert_eq!(json["recovered"].as_u64() > Some(0), recovers, "{json}");
    }
    Ok(())
}

#[test]
fn a_load_on_more_users_than_fit_into_memory_says_that_it_measures_recovery_too() -> TestResult {
    let place = Place::new()?;
    let url = place.url();
    let load = |more: &[&str]| {
        let arguments = ["--workload", "read", "--store", &url, "--users", "200"];
        let seconds = ["--callers", "4", "--seconds", "1"];
        place.run("loadtest", &[&arguments[..], &seconds, more].concat(), "")
    };

    let all_fit = load(&[])?;
    assert_eq!(all_fit.status, 0, "{}", all_fit.stderr);
    assert!(!all_fit.stdout.contains("recovery"), "{}", all_fit.stdout);

    let few = ["--live-entities-max", "20"];
    let few_fit = load(&few)?;
    assert_eq!(few_fit.status, 0, "{}", few_fit.stderr);
    let said = few_fit.stdout.lines().last().unwrap_or_default();
    assert!(said.contains("measures recovery, too"), "{said}");
    assert!(said.ends_with("live_entities_max is 20"), "{said}");

    let json = load(&[&few[..], &["--json"]].concat())?.json()?;
    assert_eq!(json["live_entities_max"], 20);
    assert!(json["recovered"].as_u64() > Some(0), "{json}");
    assert_eq!(json["errors"], 0, "{json}");
    Ok(())
}
