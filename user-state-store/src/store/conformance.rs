//! The contract of a durable state store in executable form: what every backend has to pass.
//!
//! **Problem.** Two backends behind one trait agree only as far as something checks it.
//!
//! **How.** Each function of the submodules is one promise, checked on a fresh, empty store. The macro
//! [`conformance_tests!`](crate::conformance_tests) stamps one named test per promise, given an async function that
//! opens such a store. A backend's test file is ten lines:
//!
//! ```
//! use user_state_store::conformance::{Database, Fixture, TestResult};
//! use user_state_store::{SqliteStore, StoreSettings};
//!
//! async fn open() -> TestResult<Fixture> {
//!     let directory = tempfile::tempdir()?;
//!     let settings = StoreSettings::default();
//!     let path = directory.path().join("conformance.db");
//!     let store = SqliteStore::open(&path, &settings).await?;
//!     let fixture = Fixture::new(store, settings.payload_bytes_max);
//!     Ok(fixture.on(Database::Sqlite(path)).keeping(directory))
//! }
//!
//! user_state_store::conformance_tests!(open);
//! # fn main() {}
//! ```
//!
//! **Not here.** What only one backend can show: its errors, its connections, its deadlines.

#![expect(
    clippy::missing_panics_doc,
    clippy::missing_errors_doc,
    reason = "a promise that is not kept fails its test, by an assertion or an error: that is what it is for"
)]

use std::any::Any;
use std::error::Error;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};

use crate::error::StoreError;
use crate::payload::Payload;
use crate::persistence_id::PersistenceId;
use crate::store::{DurableStateStore, Settled, StoredState, Write, WriteBatch, WriteOutcome};

pub mod cancellation;
pub mod carried_model;
pub mod companions;
pub mod concurrency;
pub mod creation;
pub mod deletion;
pub mod feeds;
pub mod guards;
pub mod live_feeds;
pub mod model;
pub mod reading;
pub mod stored_form;
pub mod writing;

mod sample;
mod seeded;
mod tables;

use seeded::Seeded;
pub use tables::Database;

/// What a test returns: any error fails it.
pub type TestResult<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

/// A fresh, empty store, and whatever has to live as long as it.
///
/// See the [module's example](self).
pub struct Fixture {
    store: Arc<dyn DurableStateStore>,
    payload_bytes_max: usize,
    payloads: Payloads,
    database: Option<Database>,
    kept: Vec<Box<dyn Any + Send + Sync>>,
}

/// What a store takes for a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Payloads {
    /// Bytes of any serializer, which come back as they are.
    Bytes,
    /// Uncompressed JSON of serializers 31 and 32, whose value comes back; anything else is refused alone.
    Json,
}

impl Fixture {
    /// A fixture of this store, which writes and reads payloads of at most this many bytes.
    pub fn new(store: impl DurableStateStore, payload_bytes_max: usize) -> Self {
        Self {
            store: Arc::new(store),
            payload_bytes_max,
            payloads: Payloads::Bytes,
            database: None,
            kept: Vec::new(),
        }
    }

    /// The same for a store that takes these payloads; without it any bytes.
    #[must_use]
    pub fn taking(mut self, payloads: Payloads) -> Self {
        self.payloads = payloads;
        self
    }

    /// The same for a store on this database. The promises of companions and guards make tables of their own in it.
    #[must_use]
    pub fn on(mut self, database: Database) -> Self {
        self.database = Some(database);
        self
    }

    /// Keeps something alive until the test is over: a directory, a server.
    #[must_use]
    pub fn keeping(mut self, kept: impl Any + Send + Sync) -> Self {
        self.kept.push(Box::new(kept));
        self
    }

    /// The store.
    pub fn store(&self) -> &dyn DurableStateStore {
        self.store.as_ref()
    }

    fn database(&self) -> TestResult<&Database> {
        let database = self.database.as_ref();
        Ok(database.ok_or("a fixture says by `on` which database its store is on")?)
    }

    /// Makes the tables of companions and guards.
    async fn make_tables(&self) -> TestResult {
        self.database()?.make_tables().await
    }

    /// A payload of so many bytes that this store takes, and gives back byte by byte; the smallest JSON text has two.
    fn payload(&self, random: &mut Seeded, length: usize) -> Payload {
        sample::bytes(match self.payloads {
            Payloads::Bytes => random.bytes(length),
            Payloads::Json => {
                let letters = random.bytes(length.saturating_sub(2));
                let letters = letters.into_iter().map(|byte| b'a' + byte % 26);
                [b'"'].into_iter().chain(letters).chain([b'"']).collect()
            }
        })
    }

    /// Writes a payload that this store does not take, beside one that it does.
    async fn refuse(&self, id: &PersistenceId, payload: Payload) -> TestResult {
        let neighbour = sample::id(&format!("{id}, its neighbour"))?;
        let writes = vec![
            sample::put_payload(id, 0, 1, payload),
            sample::create(&neighbour),
        ];
        let outcomes = self.write(writes).await?;
        assert!(
            matches!(
                outcomes.as_slice(),
                [
                    WriteOutcome::NotApplied(
                        StoreError::Unencodable { .. } | StoreError::Refused(_)
                    ),
                    WriteOutcome::Applied(_)
                ]
            ),
            "{id}: {outcomes:?}"
        );
        assert_eq!(self.row(id).await?, None);
        Ok(())
    }

    /// Writes one batch. Each of its writes has to be reported exactly once, early or at last.
    async fn write(&self, writes: Vec<Write>) -> TestResult<Vec<WriteOutcome>> {
        self.write_batch(&WriteBatch::new(writes)?).await
    }

    /// The same of a batch that is made already.
    async fn write_batch(&self, batch: &WriteBatch) -> TestResult<Vec<WriteOutcome>> {
        let early = Mutex::new(Vec::new());
        let collecting = |settled| lock(&early).extend(settled);
        let last = self.store.write_early(batch, &collecting).await;
        let mut settled = std::mem::take(&mut *lock(&early));
        settled.extend(last);
        settled.sort_by_key(|settled| settled.index);
        let indices: Vec<usize> = settled.iter().map(|settled| settled.index).collect();
        let writes = batch.writes().len();
        assert!(
            indices.iter().copied().eq(0..writes),
            "{writes} writes: {indices:?}"
        );
        Ok(Settled::collect(writes, settled))
    }

    /// Writes one write and expects it to be applied.
    async fn apply(&self, write: Write) -> TestResult {
        let outcomes = self.write(vec![write]).await?;
        assert!(
            matches!(outcomes.as_slice(), [WriteOutcome::Applied(_)]),
            "not applied: {outcomes:?}"
        );
        Ok(())
    }

    /// Writes one write, expects it to be applied, and gives the time of the row.
    async fn apply_at(&self, write: Write) -> TestResult<DateTime<Utc>> {
        let outcomes = self.write(vec![write]).await?;
        match outcomes.as_slice() {
            [WriteOutcome::Applied(Some(at))] => Ok(*at),
            other => Err(format!("not applied, or without a time: {other:?}").into()),
        }
    }

    /// Writes one write and expects a conflict.
    async fn conflict(&self, write: Write) -> TestResult {
        let outcomes = self.write(vec![write]).await?;
        assert_eq!(outcomes, [WriteOutcome::Conflict]);
        Ok(())
    }

    /// Loads one row.
    async fn row(&self, id: &PersistenceId) -> TestResult<Option<StoredState>> {
        Ok(self.store.load_one(id).await?)
    }

    /// Loads one row that must be there.
    async fn present(&self, id: &PersistenceId) -> TestResult<StoredState> {
        Ok(self
            .row(id)
            .await?
            .ok_or_else(|| format!("no row of {id}"))?)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Fixture {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Fixture")
            .field("store", &self.store)
            .field("payload_bytes_max", &self.payload_bytes_max)
            .field("payloads", &self.payloads)
            .field("kept", &self.kept.len())
            .finish_non_exhaustive()
    }
}

/// A closed store answers every call with [`StoreError::Closed`], and may be closed again.
pub async fn a_closed_store_answers_closed(fixture: &Fixture) -> TestResult {
    let id = sample::id("closed")?;
    fixture.apply(sample::create(&id)).await?;
    fixture.store.close().await;
    fixture.store.close().await;
    let loaded = fixture.store.load_one(&id).await;
    assert_eq!(loaded, Err(StoreError::Closed));
    let written = fixture.write(vec![sample::put(&id, 1, 2)]).await?;
    assert_eq!(written, [WriteOutcome::NotApplied(StoreError::Closed)]);
    let changes = fixture.store.changes(&sample::all_changes("")).await;
    assert_eq!(changes.err(), Some(StoreError::Closed));
    let ids = fixture.store.persistence_ids(None, sample::LIMIT).await;
    assert_eq!(ids.err(), Some(StoreError::Closed));
    Ok(())
}

/// Stamps one `#[tokio::test]` per promise of the contract; see [`conformance`](crate::conformance).
///
/// The argument is an `async fn() -> TestResult<Fixture>` that opens a fresh, empty store. The calling crate needs
/// `tokio` with its features `macros` and `rt-multi-thread`.
#[macro_export]
macro_rules! conformance_tests {
    ($open:path) => {
        $crate::conformance_tests! { @stamp $open;
            a_closed_store_answers_closed;
            reading::a_load_answers_each_id_in_the_order_asked;
            reading::a_load_of_no_ids_has_no_answers;
            reading::a_load_of_too_many_ids_is_refused;
            reading::a_load_withholds_payloads_beyond_their_share;
            writing::a_row_reads_back_as_it_was_written;
            writing::an_update_applies_only_at_the_expected_revision;
            writing::an_update_of_an_absent_entity_conflicts;
            writing::one_conflict_harms_no_neighbour;
            writing::a_batch_of_the_largest_number_of_rows_is_written;
            writing::a_batch_without_writes_has_no_outcomes;
            writing::a_caller_that_waits_for_all_gets_the_outcomes_in_the_order_of_the_batch;
            writing::a_revision_may_advance_by_more_than_one;
            writing::the_highest_revision_is_stored;
            writing::db_timestamps_strictly_increase_per_entity;
            writing::a_payload_at_the_limit_is_written_and_one_byte_more_is_refused;
            creation::a_creation_beside_a_row_at_any_revision_conflicts;
            creation::of_many_concurrent_creators_exactly_one_wins;
            creation::a_creation_that_races_with_updates_leaves_one_row;
            creation::overlapping_batches_of_creations_create_each_entity_once;
            deletion::a_mark_follows_the_state_and_keeps_its_tags;
            deletion::a_mark_of_an_absent_entity_is_its_first_revision;
            deletion::an_entity_goes_on_counting_after_a_mark;
            deletion::a_marked_entity_cannot_be_created_again;
            deletion::an_erased_entity_counts_from_one_again;
            deletion::a_stale_mark_or_erasure_conflicts;
            deletion::a_row_made_again_at_the_same_revision_conflicts_with_whoever_knew_the_old_one;
            writing::the_time_of_the_known_row_is_told_exactly_by_loads_and_writes;
            deletion::all_forms_of_change_share_a_batch;
            deletion::a_reset_is_an_ordinary_state_at_the_next_revision;
            stored_form::slice_and_entity_type_follow_from_the_id;
            stored_form::tags_read_back_whatever_their_characters;
            stored_form::an_update_replaces_the_tags;
            stored_form::ids_of_any_script_are_told_apart;
            stored_form::payload_bytes_come_back_or_are_refused;
            stored_form::json_comes_back_as_the_same_value;
            stored_form::an_empty_payload_of_a_real_serializer_is_a_state;
            stored_form::serializers_and_manifests_are_kept_as_they_are;
            feeds::changes_come_in_the_order_they_were_written;
            feeds::changes_hold_only_the_latest_revision_of_each_entity;
            feeds::changes_are_those_of_the_entity_type_and_slices_asked_for;
            feeds::a_page_of_changes_begins_at_from_and_ends_before_until;
            feeds::following_the_pages_of_changes_reaches_every_row;
            feeds::pages_go_on_inside_an_instant;
            feeds::a_bounded_page_says_how_far_it_reaches;
            feeds::marks_are_changes_and_erased_rows_are_none;
            feeds::following_the_pages_of_ids_reaches_each_id_once;
            feeds::marked_entities_keep_their_id_and_erased_ones_do_not;
            live_feeds::a_live_feed_tells_what_is_there_and_then_each_write_at_once;
            live_feeds::a_live_feed_goes_on_from_the_offset_of_any_change;
            live_feeds::live_feeds_of_disjoint_slices_share_the_entities;
            live_feeds::marks_and_rows_made_again_are_told_live;
            live_feeds::a_live_feed_loses_nothing_where_waiting_is_given_up;
            live_feeds::a_live_feed_ends_when_its_store_is_closed;
            live_feeds::a_live_feed_beside_many_writers_tells_every_final_revision;
            concurrency::concurrent_writers_lose_no_update;
            concurrency::batches_over_the_same_entities_all_get_an_answer;
            concurrency::readers_see_whole_rows_while_others_write;
            companions::a_companion_reads_back_as_it_was_given;
            companions::companions_are_stored_with_every_form_of_change;
            companions::a_conflict_stores_no_companion;
            companions::a_refused_companion_refuses_its_write_and_no_other;
            companions::a_companion_that_is_there_already_is_refused_and_no_conflict;
            companions::a_companion_may_require_what_it_removes;
            companions::a_full_batch_carries_companions;
            companions::a_repetition_carries_the_companions_of_its_write;
            companions::a_repetition_whose_token_is_gone_is_not_applied;
            companions::companions_count_for_the_size_of_a_batch;
            guards::a_batch_whose_guards_hold_is_written;
            guards::writes_of_lost_ranges_are_fenced_and_the_others_are_written;
            guards::a_batch_whose_guards_are_all_lost_is_fenced;
            guards::a_full_batch_over_all_ranges_loses_some;
            guards::a_fenced_repetition_leaves_the_answer_to_the_row;
            guards::a_batch_has_one_guard_for_each_write;
            cancellation::a_dropped_write_leaves_the_store_usable;
            cancellation::a_dropped_load_leaves_the_store_usable;
            model::random_histories_agree_with_a_model;
            carried_model::random_histories_of_what_writes_carry_agree_with_a_model;
        }
    };
    (@stamp $open:path; $($($segment:ident)::+;)+) => {
        $($crate::conformance_tests! { @test $open; [$($segment)::+] $($segment)::+ })+
    };
    (@test $open:path; [$($path:ident)::+] $module:ident::$name:ident) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() -> $crate::conformance::TestResult {
            let fixture = $open().await?;
            $crate::conformance::$($path)::+(&fixture).await
        }
    };
    (@test $open:path; [$($path:ident)::+] $name:ident) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() -> $crate::conformance::TestResult {
            let fixture = $open().await?;
            $crate::conformance::$($path)::+(&fixture).await
        }
    };
}

#[cfg(test)]
mod tests {
    /// A promise that the macro does not name would be checked on no backend.
    #[test]
    fn the_macro_names_every_promise() {
        let macro_text = include_str!("conformance.rs");
        let modules = [
            ("cancellation", include_str!("conformance/cancellation.rs")),
            (
                "carried_model",
                include_str!("conformance/carried_model.rs"),
            ),
            ("companions", include_str!("conformance/companions.rs")),
            ("concurrency", include_str!("conformance/concurrency.rs")),
            ("creation", include_str!("conformance/creation.rs")),
            ("deletion", include_str!("conformance/deletion.rs")),
            ("feeds", include_str!("conformance/feeds.rs")),
            ("guards", include_str!("conformance/guards.rs")),
            ("live_feeds", include_str!("conformance/live_feeds.rs")),
            ("model", include_str!("conformance/model.rs")),
            ("reading", include_str!("conformance/reading.rs")),
            ("stored_form", include_str!("conformance/stored_form.rs")),
            ("writing", include_str!("conformance/writing.rs")),
        ];
        let mut promises = 0;
        for (module, text) in modules {
            for line in text.lines() {
                let Some(rest) = line.strip_prefix("pub async fn ") else {
                    continue;
                };
                let name = rest.split_once('(').unwrap().0;
                promises += 1;
                assert!(
                    macro_text.contains(&format!(" {module}::{name};")),
                    "{module}::{name}"
                );
            }
        }
        assert!(promises >= 40, "only {promises} promises found");
    }
}
