//! `inspect` shows the rows: as JSON everything it knows of each, as text the same for people.

use serde_json::{Value, json};
use user_state_domain::{ProductId, UserState};
use user_state_store::PayloadColumn;

use crate::TestResult;
use crate::child::Place;
use crate::doubled::doubled;
use crate::fixture::{Category, Line, RELEASES, Release, Row};
use crate::state::user_state;
use crate::table::Table;

/// What `inspect` said: its status, and one object per id.
struct Inspected {
    status: i32,
    reports: Vec<Value>,
    text: String,
}

/// Inspects these ids in both forms.
fn inspect(table: &Table, ids: &[&str]) -> TestResult<Inspected> {
    let place = Place::new()?;
    let run = |more: &[&str]| -> TestResult<_> {
        let url = ["--store", table.url(), "--zone", "Asia/Seoul"];
        let arguments = [&url[..], more, &["--"], ids].concat();
        let run = place.run("inspect", &arguments, "");
        run.map_err(|error| error.to_string().into())
    };
    let as_json = run(&["--json"])?;
    let as_text = run(&[])?;
    assert_eq!(as_json.status, as_text.status, "{}", as_text.stderr);
    let reports = as_json.stdout.lines().map(serde_json::from_str);
    Ok(Inspected {
        status: as_json.status,
        reports: reports.collect::<Result<_, _>>()?,
        text: as_text.stdout,
    })
}

/// The report of a row whose state is shown in this form.
fn report(row: &Row, deleted: bool, state: &Value) -> Value {
    let at = row.db_timestamp.format("%Y-%m-%dT%H:%M:%S%.6fZ");
    json!({
        "persistence_id": row.persistence_id, "entity_type": row.entity_type, "slice": row.slice,
        "revision": row.revision, "db_timestamp": at.to_string(), "serializer": row.state_ser_id,
        "manifest": row.state_ser_manifest, "tags": row.tags.clone().unwrap_or_default(),
        "deleted": deleted, "state": state,
    })
}

/// A user's state as it is shown: instants in UTC, with as many digits of a second as they need.
fn shown(state: &UserState) -> Value {
    let at = |at: Option<chrono::DateTime<chrono::Utc>>| {
        at.map(|at| {
            let nanoseconds = at.format("%.9f").to_string();
            let fraction = nanoseconds.trim_end_matches('0').trim_end_matches('.');
            format!("{}{fraction}Z", at.format("%Y-%m-%dT%H:%M:%S"))
        })
    };
    let products: Vec<&str> = state
        .recent_products
        .iter()
        .map(ProductId::as_str)
        .collect();
    json!({
        "last_login": at(state.last_login), "last_cart_used": at(state.last_cart_used),
        "last_event_at": at(state.last_event_at), "recent_products": products,
        "marketing_opt_in": state.marketing_opt_in,
    })
}

fn expected(line: &Line) -> Value {
    match line.category() {
        Category::Primitive | Category::JsonbText => line.expected.clone(),
        _ => shown(&user_state(&line.expected, line.zone.0)),
    }
}

async fn assert_shown(release: Release, table: &Table, lines: &[Line]) -> TestResult {
    table.refill(lines.iter().map(Line::row)).await?;
    let ids: Vec<&str> = lines
        .iter()
        .map(|line| line.row().persistence_id.as_str())
        .collect();
    let inspected = inspect(table, &ids)?;
    assert_eq!(inspected.status, 0, "{}", inspected.text);
    assert_eq!(inspected.reports.len(), lines.len());
    for (line, found) in lines.iter().zip(&inspected.reports) {
        let report = report(line.row(), false, &expected(line));
        assert_eq!(*found, report, "{release:?}, {}", line.case);
        // Each report begins with its id, control characters and all.
        let id = &line.row().persistence_id;
        let mut lines = inspected.text.lines();
        assert!(lines.any(|shown| shown == id), "{release:?}, {}", line.case);
    }
    assert_text_names_what_json_does(&inspected);
    Ok(())
}

/// Every revision, serializer, manifest and tag of the JSON form is in the text form, in the same order.
fn assert_text_names_what_json_does(inspected: &Inspected) {
    let mut rest = inspected.text.as_str();
    let mut next = |name: &str, value: &str| {
        let value = if value.is_empty() { "-" } else { value };
        let line = format!("  {name:<15} {value}\n");
        let found = rest
            .find(&line)
            .unwrap_or_else(|| panic!("no {line:?} in {rest}"));
        rest = &rest[found + line.len()..];
    };
    for report in &inspected.reports {
        next("revision", &report["revision"].to_string());
        next("serializer", &report["serializer"].to_string());
        next("manifest", report["manifest"].as_str().unwrap());
        let tags = report["tags"].as_array().unwrap();
        let tags: Vec<&str> = tags.iter().map(|tag| tag.as_str().unwrap()).collect();
        next("tags", &tags.join(", "));
    }
}

#[tokio::test]
async fn inspect_shows_json_cbor_and_primitive_rows_compressed_or_not() -> TestResult {
    let table = Table::new(PayloadColumn::Bytea).await?;
    for release in RELEASES {
        let categories = [Category::Json, Category::Cbor, Category::Primitive];
        let lines = categories
            .map(|category| release.lines_of(category))
            .concat();
        assert_shown(release, &table, &lines).await?;
    }
    Ok(())
}

#[tokio::test]
async fn inspect_shows_rows_of_a_jsonb_column_without_being_told() -> TestResult {
    let release = Release::V2_0_0M1;
    let categories = [Category::Jsonb, Category::JsonbText];
    let lines = categories
        .map(|category| release.lines_of(category))
        .concat();
    let table = Table::new(PayloadColumn::Jsonb).await?;
    assert_shown(release, &table, &lines).await
}

#[tokio::test]
async fn inspect_shows_marks_of_deletion_absent_rows_and_unreadable_ones_by_their_status()
-> TestResult {
    let release = Release::V2_0_0M1;
    let table = Table::new(PayloadColumn::Bytea).await?;
    let jsonb = Table::new(PayloadColumn::Jsonb).await?;
    for (table, case) in [
        (&table, "delete-step-3"),
        (&table, "store-delete-nothing-step-1"),
        (&jsonb, "jsonb-delete-step-1"),
    ] {
        let line = release.line(case);
        table.refill(&line.row).await?;
        let id = line.row().persistence_id.as_str();
        let inspected = inspect(table, &[id])?;
        assert_eq!(inspected.status, 0, "{}", inspected.text);
        assert_eq!(inspected.reports, [report(line.row(), true, &Value::Null)]);
        assert!(
            inspected.text.contains("state           deleted"),
            "{}",
            inspected.text
        );
    }

    let newer = release.line("migration-v2-row");
    table.refill(&newer.row).await?;
    let id = newer.row().persistence_id.as_str();
    let inspected = inspect(&table, &["nobody-1", id])?;
    assert_eq!(inspected.status, 1, "unreadable counts more than absent");
    assert_eq!(inspected.reports[0]["error"], "there is no row");
    assert_eq!(
        inspected.reports[1]["manifest"],
        newer.row().state_ser_manifest
    );
    assert_eq!(inspected.reports[1]["state"], Value::Null);
    assert_eq!(inspect(&table, &["nobody-1", "nobody-2"])?.status, 3);
    Ok(())
}

#[tokio::test]
async fn inspect_shows_both_rows_of_a_doubled_id() -> TestResult {
    let doubled = doubled();
    let table = Table::with(PayloadColumn::Bytea, doubled.iter().flatten()).await?;
    let ids: Vec<&str> = doubled
        .iter()
        .map(|rows| rows[0].persistence_id.as_str())
        .collect();
    let inspected = inspect(&table, &ids)?;
    assert_eq!(inspected.status, 1);
    for (rows, found) in doubled.iter().zip(&inspected.reports) {
        let revisions: Vec<Value> = rows
            .iter()
            .map(|row| json!({ "revision": row.revision }))
            .collect();
        assert_eq!(found["rows"], Value::from(revisions));
        for row in rows {
            let line = format!("row at revision {}\n", row.revision);
            assert!(inspected.text.contains(&line), "{}", inspected.text);
        }
    }
    Ok(())
}
