//! cqrs-es's framework runs on durable states: conflicts, lost answers and deletions are told as what they are.
//!
//! Method: `CqrsFramework<UserState>` on SQLite, two of them racing on one user, and a store that loses answers.

#![cfg(all(feature = "sqlite", feature = "users"))]

use std::collections::HashMap;
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use cqrs_es::{AggregateContext, AggregateError, CqrsFramework, EventEnvelope, EventStore, Query};
use tempfile::TempDir;
use user_state_domain::{ProductId, UserCommand, UserError, UserEvent, UserState};
use user_state_store::{
    Backend as _, DurableStateEventStore, DurableStateStore, Fence, Manifest, NoEventHistory,
    Payload, PersistenceId, Revision, SerializerId, SqliteStore, StoreError, StoreSettings,
    StoredValue, Tags, UserStateMapping, Write, WriteBatch, WriteOutcome, Writers,
};

#[path = "lossy/store.rs"]
mod lossy;

use lossy::{Fault, LossyStore};

type TestResult<T = ()> = Result<T, Box<dyn Error>>;
type Framework = CqrsFramework<UserState, DurableStateEventStore<UserState>>;

const USER: &str = "mall-user";

/// Remembers what queries are told: aggregate id, sequence, event.
#[derive(Debug, Clone, Default)]
struct Told(Arc<Mutex<Vec<(String, usize, UserEvent)>>>);

#[async_trait]
impl Query<UserState> for Told {
    async fn dispatch(&self, aggregate_id: &str, events: &[EventEnvelope<UserState>]) {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for event in events {
            assert_eq!(event.aggregate_id, aggregate_id);
            told.push((
                aggregate_id.to_owned(),
                event.sequence,
                event.payload.clone(),
            ));
        }
    }
}

async fn open() -> TestResult<(TempDir, Arc<LossyStore>)> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("store.db");
    let store = SqliteStore::open(&path, &StoreSettings::default()).await?;
    Ok((directory, Arc::new(LossyStore::new(store))))
}

fn event_store(store: &Arc<LossyStore>) -> DurableStateEventStore<UserState> {
    let store: Arc<LossyStore> = Arc::clone(store);
    DurableStateEventStore::new(store, UserStateMapping::new())
}

fn framework(store: &Arc<LossyStore>) -> Framework {
    CqrsFramework::new(event_store(store), Vec::new(), ())
}

fn at(second: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(second, 0).unwrap_or_default()
}

fn view(product: &str, second: i64) -> UserCommand {
    UserCommand::ViewProduct {
        product_id: ProductId::new(product),
        at: at(second),
    }
}

async fn loaded(store: &Arc<LossyStore>) -> TestResult<(i64, UserState)> {
    let mut context = event_store(store).load_aggregate(USER).await?;
    let revision = context.revision().get();
    Ok((revision, context.aggregate().clone()))
}

/// The store's error inside cqrs-es's.
fn store_error(error: &AggregateError<UserError>) -> Option<&StoreError> {
    match error {
        AggregateError::DatabaseConnectionError(error)
        | AggregateError::DeserializationError(error)
        | AggregateError::UnexpectedError(error) => error.downcast_ref(),
        AggregateError::UserError(_) | AggregateError::AggregateConflict => None,
    }
}

#[tokio::test]
async fn each_commit_is_one_revision_and_its_events_carry_it() -> TestResult {
    let (_directory, store) = open().await?;
    let told = Told::default();
    let framework = CqrsFramework::new(event_store(&store), vec![Box::new(told.clone())], ());
    framework
        .execute(USER, UserCommand::Login { at: at(1) })
        .await?;
    framework.execute(USER, view("apple", 2)).await?;
    framework.execute(USER, view("pear", 3)).await?;

    let (revision, state) = loaded(&store).await?;
    assert_eq!(revision, 3);
    assert_eq!(state.last_login, Some(at(1)));
    assert_eq!(state.last_event_at, Some(at(3)));
    let told = told.0.lock().unwrap().clone();
    let sequences: Vec<usize> = told.iter().map(|(_, sequence, _)| *sequence).collect();
    assert_eq!(sequences, [1, 2, 3]);
    let row = store.load_one(&PersistenceId::unique(USER)?).await?;
    assert_eq!(row.map(|row| row.tags), Some(Tags::one("user-state")));
    Ok(())
}

#[tokio::test]
async fn several_events_of_one_commit_share_its_revision() -> TestResult {
    let (_directory, store) = open().await?;
    let event_store = event_store(&store);
    let mut context = event_store.load_aggregate(USER).await?;
    let events = vec![
        UserEvent::LoggedIn { at: at(1) },
        UserEvent::CartUsed { at: at(2) },
    ];
    for event in events.clone() {
        cqrs_es::Aggregate::apply(context.aggregate(), event);
    }
    let metadata = HashMap::from([("request".to_owned(), "7".to_owned())]);
    let envelopes = event_store
        .commit(events, context, metadata.clone())
        .await?;
    assert_eq!(envelopes.len(), 2);
    assert!(envelopes.iter().all(|envelope| envelope.sequence == 1));
    assert!(
        envelopes
            .iter()
            .all(|envelope| envelope.metadata == metadata)
    );
    assert_eq!(loaded(&store).await?.0, 1);
    Ok(())
}

#[tokio::test]
async fn a_commit_without_events_writes_nothing() -> TestResult {
    let (_directory, store) = open().await?;
    let event_store = event_store(&store);
    let context = event_store.load_aggregate(USER).await?;
    let envelopes = event_store
        .commit(Vec::new(), context, HashMap::new())
        .await?;
    assert!(envelopes.is_empty());
    assert_eq!(store.writes(), 0);
    assert_eq!(loaded(&store).await?, (0, UserState::default()));
    Ok(())
}

#[tokio::test]
async fn of_two_commits_on_one_revision_the_second_conflicts() -> TestResult {
    let (_directory, store) = open().await?;
    let event_store = event_store(&store);
    for revision in [1, 2] {
        let first = event_store.load_aggregate(USER).await?;
        let second = event_store.load_aggregate(USER).await?;
        let events = vec![UserEvent::LoggedIn { at: at(revision) }];
        event_store
            .commit(events.clone(), first, HashMap::new())
            .await?;
        let refused = event_store.commit(events, second, HashMap::new()).await;
        assert!(matches!(refused, Err(AggregateError::AggregateConflict)));
        assert_eq!(loaded(&store).await?.0, revision);
    }
    Ok(())
}

#[tokio::test]
async fn a_commit_on_a_row_that_was_removed_and_made_again_conflicts() -> TestResult {
    let (_directory, store) = open().await?;
    let event_store = event_store(&store);
    let framework = framework(&store);
    framework.execute(USER, view("old", 1)).await?;
    let stale = event_store.load_aggregate(USER).await?;
    let erase = Write::erase(PersistenceId::unique(USER)?, Revision::FIRST);
    let outcomes = store.write(&WriteBatch::new(vec![erase])?).await;
    assert_eq!(outcomes, [WriteOutcome::Applied(None)]);
    framework.execute(USER, view("new", 2)).await?;
    let again = loaded(&store).await?;
    assert_eq!(again.0, 1);

    let events = vec![UserEvent::LoggedIn { at: at(3) }];
    let refused = event_store.commit(events, stale, HashMap::new()).await;
    assert!(matches!(refused, Err(AggregateError::AggregateConflict)));
    assert_eq!(loaded(&store).await?, again);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_racing_frameworks_lose_no_command() -> TestResult {
    let (directory, store) = open().await?;
    let path = directory.path().join("store.db");
    let other = SqliteStore::open(&path, &StoreSettings::default()).await?;
    let other = Arc::new(LossyStore::new(other));
    let race = async |framework: Framework, name: &str| -> TestResult<i64> {
        let mut applied = 0;
        for round in 0..25 {
            let command = view(&format!("{name}-{round}"), round);
            loop {
                match framework.execute(USER, command.clone()).await {
                    Ok(()) => break,
                    Err(AggregateError::AggregateConflict) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            applied += 1;
        }
        Ok(applied)
    };
    let (first, second) = futures_util::future::join(
        race(framework(&store), "first"),
        race(framework(&other), "second"),
    )
    .await;
    assert_eq!(loaded(&store).await?.0, first? + second?);
    Ok(())
}

#[tokio::test]
async fn a_lost_answer_is_resolved_where_that_is_possible() -> TestResult {
    let (_directory, store) = open().await?;
    store.plan([Fault::LostBefore]);
    framework(&store)
        .execute(USER, UserCommand::Login { at: at(1) })
        .await?;
    let sole = event_store(&store).with_writers(Writers::Sole);
    store.plan([Fault::LostAfter]);
    let sole: Framework = CqrsFramework::new(sole, Vec::new(), ());
    sole.execute(USER, UserCommand::Login { at: at(2) }).await?;
    assert_eq!(loaded(&store).await?.0, 2);
    Ok(())
}

#[tokio::test]
async fn a_lost_answer_that_cannot_be_resolved_is_told_as_unknown() -> TestResult {
    let (_directory, store) = open().await?;
    let framework = framework(&store);
    // Applied, but others write too: what is found may be theirs.
    store.plan([Fault::LostAfter]);
    let command = UserCommand::Login { at: at(1) };
    let error = framework
        .execute(USER, command.clone())
        .await
        .err()
        .ok_or("told as done")?;
    assert!(
        matches!(store_error(&error), Some(StoreError::OutcomeUnknown(_))),
        "{error:?}"
    );
    assert_eq!(loaded(&store).await?.0, 1);
    assert_eq!(store.fenced().len(), 1, "the old session is fenced first");
    // No answer at all, however often it is asked.
    store.answer_fences(Fence::Open);
    store.plan([Fault::LostBefore; 3]);
    let error = framework
        .execute(USER, command)
        .await
        .err()
        .ok_or("told as done")?;
    assert!(
        matches!(store_error(&error), Some(StoreError::OutcomeUnknown(_))),
        "{error:?}"
    );
    Ok(())
}

#[tokio::test]
async fn a_store_error_stays_downcastable() -> TestResult {
    let (_directory, store) = open().await?;
    let framework = framework(&store);
    store.plan([Fault::Unavailable]);
    let command = UserCommand::Login { at: at(1) };
    let error = framework
        .execute(USER, command.clone())
        .await
        .err()
        .ok_or("told as done")?;
    assert!(
        matches!(error, AggregateError::DatabaseConnectionError(_)),
        "{error:?}"
    );
    assert!(
        matches!(store_error(&error), Some(StoreError::Unavailable(_))),
        "{error:?}"
    );
    store.close().await;
    let error = framework
        .execute(USER, command)
        .await
        .err()
        .ok_or("told as done")?;
    assert_eq!(store_error(&error), Some(&StoreError::Closed));
    Ok(())
}

#[tokio::test]
async fn a_row_that_cannot_be_read_is_told_and_left_as_it_is() -> TestResult {
    let (_directory, store) = open().await?;
    let persistence_id = PersistenceId::unique(USER)?;
    let payload = Payload {
        serializer_id: SerializerId::JACKSON_JSON,
        manifest: Manifest::new("com.example.persistdurable.model.UserState"),
        bytes: b"a secret, not a state".to_vec(),
    };
    let write = Write::create(persistence_id.clone(), payload.clone());
    store.write(&WriteBatch::new(vec![write])?).await;
    let command = UserCommand::Login { at: at(1) };
    let error = framework(&store)
        .execute(USER, command)
        .await
        .err()
        .ok_or("told as done")?;
    assert!(
        matches!(error, AggregateError::DeserializationError(_)),
        "{error:?}"
    );
    assert!(
        matches!(store_error(&error), Some(StoreError::Corrupt { .. })),
        "{error:?}"
    );
    assert!(!format!("{error} {error:?}").contains("secret"));
    let row = store.load_one(&persistence_id).await?;
    assert_eq!(row.map(|row| row.value), Some(StoredValue::State(payload)));
    Ok(())
}

#[tokio::test]
async fn a_deleted_state_loads_as_the_default_one_at_its_revision() -> TestResult {
    let (_directory, store) = open().await?;
    let framework = framework(&store);
    framework
        .execute(USER, UserCommand::Login { at: at(1) })
        .await?;
    let mark = Write::mark(PersistenceId::unique(USER)?, Revision::FIRST);
    let outcomes = store.write(&WriteBatch::new(vec![mark])?).await;
    assert!(matches!(outcomes[..], [WriteOutcome::Applied(_)]));
    assert_eq!(loaded(&store).await?, (2, UserState::default()));
    framework
        .execute(USER, UserCommand::UseCart { at: at(2) })
        .await?;
    let (revision, state) = loaded(&store).await?;
    assert_eq!((revision, state.last_login), (3, None));
    Ok(())
}

#[tokio::test]
async fn loading_events_is_an_error_and_never_an_empty_history() -> TestResult {
    let (_directory, store) = open().await?;
    let result = event_store(&store).load_events(USER).await;
    let Err(AggregateError::UnexpectedError(error)) = result else {
        return Err("events were loaded".into());
    };
    assert_eq!(error.downcast_ref(), Some(&NoEventHistory));
    Ok(())
}

#[tokio::test]
async fn an_id_that_no_row_can_have_is_refused() -> TestResult {
    let (_directory, store) = open().await?;
    let result = event_store(&store).load_aggregate(" ").await;
    let Err(AggregateError::UnexpectedError(error)) = result else {
        return Err("the blank id was taken".into());
    };
    assert!(error.is::<user_state_store::InvalidPersistenceId>());
    Ok(())
}
