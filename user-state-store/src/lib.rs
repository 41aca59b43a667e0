//! The last state of every entity, durable in the tables of Apache Pekko Persistence R2DBC.
//!
//! A *durable state* is one row per entity: its persistence id, a revision that counts the commands it reflects, and
//! the serialized state. Writing replaces the row where its revision is the expected one, and only there. This crate
//! writes such rows on PostgreSQL, in exactly the form that a Pekko application (`DurableStateBehavior`) reads, writes
//! and recovers from too, and on SQLite for programs that want no server. It does not hold entities in memory, serialize
//! their commands or batch their writes: that is the runtime, `user-state-runtime`.
//!
//! # Example
//!
//! A user's state is stored, read back and changed. The same code runs on PostgreSQL with another URL, once
//! [`migrate`] or Pekko has made its tables.
//!
//! ```
//! use chrono::DateTime;
//! use user_state_domain::{UserKey, UserState};
//! use user_state_store::{
//!     ConnectOptions, PersistenceId, Revision, StateMapping, StoredValue, UserStateMapping, Write,
//!     WriteBatch, WriteOutcome, connect,
//! };
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let directory = tempfile::tempdir()?;
//! # let path = directory.path().join("user-state.db");
//! # let url = format!("sqlite:{}", path.display());
//! // `url` is "sqlite:user-state.db" or "postgres://user:password@host/database".
//! let store = connect(&ConnectOptions::parse(&url)?).await?;
//! let mapping = UserStateMapping::new();
//! let user = PersistenceId::from(&"mall-user".parse::<UserKey>()?);
//!
//! let login = UserState {
//!     last_login: DateTime::from_timestamp(1_700_000_000, 0),
//!     ..UserState::default()
//! };
//! let create = Write::create(user.clone(), mapping.encode(&user, &login)?)
//!     .tags(StateMapping::<UserState>::tags(&mapping));
//! let outcomes = store.states().write(&WriteBatch::new(vec![create.clone()])?).await;
//! assert!(matches!(outcomes[..], [WriteOutcome::Applied(_)]));
//!
//! // Whoever decided on the same revision was too late, and is told so.
//! let outcomes = store.states().write(&WriteBatch::new(vec![create])?).await;
//! assert_eq!(outcomes, [WriteOutcome::Conflict]);
//!
//! let row = store.states().load_one(&user).await?.ok_or("it was just written")?;
//! assert_eq!(row.revision, Revision::FIRST);
//! let StoredValue::State(payload) = row.value else {
//!     return Err("it was not deleted".into());
//! };
//! let state: UserState = mapping.decode(&user, &payload)?;
//! assert_eq!(state, login);
//! # store.close().await;
//! # Ok(())
//! # }
//! ```
//!
//! # What is where
//!
//! | for | see |
//! |---|---|
//! | opening a database | [`connect`], [`ConnectOptions`], [`migrate`]; the handle is a [`Store`]; by type: `PostgresStore`, `SqliteStore` |
//! | loading and writing states | [`DurableStateStore`]: [`Write`] and [`WriteOutcome`], [`StoredState`], [`StoreError`] |
//! | ids and slices | [`PersistenceId`], [`Slice`], [`SliceRange`] |
//! | the stored form of a state | [`StateMapping`]: `UserStateMapping`, [`SerdeMapping`], [`PrimitiveMapping`]; [`Payload`] |
//! | format, compression and versions of it | [`PayloadFormat`], [`Compression`], [`JacksonMigration`] |
//! | rows of other tables that commit with a write | [`Companion`], [`CompanionKind`] |
//! | the right to write, of several programs | [`Guard`], [`GuardKind`], [`WriteOutcome::Fenced`] |
//! | a write whose answer was lost | [`UnresolvedWrite`], [`resolve`], [`Resolution`] |
//! | following changes | [`Store::changes_by_slices`] with [`FeedSettings`]; [`Store::current_changes_by_slices`], [`Store::current_persistence_ids`]; decoded: [`typed_changes`] |
//! | cqrs-es without the runtime | [`DurableStateEventStore`] |
//! | a backend of your own | [`Backend`], [`DurableStateStore`], [`StateFeeds`]; its tests are the module `conformance` |
//!
//! # Guarantees
//!
//! - **One outcome per write.** Applied, surely not applied, or unknown. A lost answer is never reported as a failure,
//!   and one write's conflict or refusal leaves its neighbours in the batch alone.
//! - **No lost update.** A write applies only at the revision it expects. Revisions are never reused, except across
//!   [`Change::Erase`], which forgets them; a write that also names the time of the row it knows
//!   ([`Write::expected_at`]) is refused then.
//! - **One row per id.** A creation never leaves a second row, whoever writes at the same time. Two rows that
//!   somebody else left are an error that names both, never a guess.
//! - **Acknowledged is durable.** The write-ahead log is flushed before a write is reported applied; a server that is set up
//!   to lose commits is refused, unless explicitly allowed.
//! - **Unreadable is untouched.** A row that cannot be read is a typed error for its id alone, and is never overwritten
//!   by a write that did not see its revision.
//! - **No change is missed.** A live feed tells every entity's latest state at least once, writes of its own store at
//!   once, also where a transaction commits after others that began later.
//! - **Dropped is harmless.** Any future may be dropped at any point: a connection with an unfinished call is closed and
//!   never used again.
//! - **Nothing secret is shown.** Errors, `Debug` forms and log events hold no password, no payload and no text of the
//!   database that could quote a row.
//!
//! # Features
//!
//! - `postgres` (default): `PostgresStore`, on PostgreSQL 12 and later.
//! - `sqlite` (default): `SqliteStore`, in one file and with SQLite compiled in.
//! - `users` (default): `UserStateMapping`, the stored form of `user-state-domain`'s states, and ids of its keys.
//! - `views`: `PostgresStore::view_repository`, views of cqrs-es kept by postgres-es on the store's pool.
//! - `conformance`: the contract as a suite of tests, for authors of backends.

mod changes;
mod connect;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod cuts;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod deadline;
mod error;
mod event_store;
#[cfg_attr(
    not(feature = "users"),
    allow(
        dead_code,
        unused_imports,
        reason = "what the stored form of users alone needs stands beside what it shares"
    )
)]
mod jackson;
mod mapping;
mod open_error;
mod parts;
mod payload;
mod persistence_id;
#[cfg(feature = "postgres")]
mod postgres;
mod resolve;
mod revision;
mod settings;
mod slice;
#[cfg(feature = "sqlite")]
mod sqlite;
mod store;
mod tags;
#[cfg(feature = "views")]
mod views;

pub use changes::{
    ChangesPage, ChangesQuery, FeedSettings, PAGE_BYTES_MAX, PageEnd, RowKey, Seen, StateChange,
    TimestampOffset, TypedChange, TypedValue, UnreadableChange, UnreadableRow, changes_by_slices,
    current_changes_by_slices, current_persistence_ids, typed_changes,
};
#[cfg(feature = "users")]
pub use chrono_tz::Tz;
pub use connect::{
    Access, ConnectOptions, Durability, PayloadColumn, RemoteTls, RowSecurity, StoreSettings,
    TlsMode, connect, migrate,
};
pub use error::{Cause, DatabaseError, DecodeError, EncodeError, StoreError};
pub use event_store::{DurableStateContext, DurableStateEventStore, NoEventHistory};
pub use jackson::{Compression, JacksonMigration, PayloadFormat};
#[cfg(feature = "users")]
pub use mapping::UserStateMapping;
pub use mapping::{DeleteForm, Primitive, PrimitiveMapping, SerdeMapping, StateMapping};
pub use open_error::OpenError;
pub use parts::load_in_parts;
pub use payload::{Manifest, Payload, SerializerId};
pub use persistence_id::{InvalidPersistenceId, PersistenceId};
#[cfg(feature = "postgres")]
pub use postgres::PostgresStore;
pub use resolve::{Resolution, UnresolvedWrite, Writers, resolve};
pub use revision::Revision;
pub use settings::InvalidSetting;
pub use slice::{NUMBER_OF_SLICES, Slice, SliceRange};
#[cfg(feature = "sqlite")]
pub use sqlite::Store as SqliteStore;
#[cfg(any(test, feature = "conformance"))]
pub use store::conformance;
pub use store::{
    BATCH_BYTES_MAX, BATCH_ROWS_MAX, Backend, Change, Companion, CompanionColumn, CompanionKind,
    CompanionSql, CompanionType, CompanionValue, Companions, DurableStateStore, Early, Fence,
    Guard, GuardKind, Guards, InvalidBatch, InvalidCompanion, LOAD_BYTES_MAX, LoadedRow, Settled,
    StateFeeds, Store, StoredState, StoredValue, UnknownOutcome, Write, WriteBatch, WriteOutcome,
    WriteSignal, WriterSession,
};
pub use tags::{TAGS_MAX, Tags};
#[cfg(feature = "views")]
pub use views::InvalidTableName;
