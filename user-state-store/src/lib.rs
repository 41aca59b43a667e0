//! Durable state in the exact schema of Apache Pekko Persistence R2DBC, on PostgreSQL and SQLite.

mod changes;
mod connect;
mod error;
mod event_store;
mod jackson;
mod mapping;
mod open_error;
mod payload;
mod persistence_id;
#[cfg(feature = "postgres")]
mod postgres;
mod resolve;
mod revision;
mod slice;
#[cfg(feature = "sqlite")]
mod sqlite;
mod store;
mod tags;

pub use changes::{ChangesPage, ChangesQuery, TimestampOffset};
pub use chrono_tz::Tz;
pub use connect::{
    Access, ConnectOptions, Durability, RemoteTls, StoreSettings, TlsMode, connect, migrate,
};
pub use error::{Cause, DatabaseError, DecodeError, EncodeError, StoreError};
pub use event_store::{DurableStateContext, DurableStateEventStore, NoEventHistory};
pub use mapping::{DeleteForm, SerdeMapping, StateMapping, UserStateMapping};
pub use open_error::OpenError;
pub use payload::{Manifest, Payload, SerializerId};
pub use persistence_id::{InvalidPersistenceId, PersistenceId};
#[cfg(feature = "postgres")]
pub use postgres::PostgresStore;
pub use resolve::{Resolution, UnresolvedWrite, Writers, resolve};
pub use revision::Revision;
pub use slice::{NUMBER_OF_SLICES, Slice, SliceRange};
#[cfg(feature = "sqlite")]
pub use sqlite::{
    Access as SqliteAccess, OpenError as SqliteOpenError, Settings as SqliteSettings,
    Store as SqliteStore,
};
#[cfg(any(test, feature = "conformance"))]
pub use store::conformance;
pub use store::{
    BATCH_BYTES_MAX, BATCH_ROWS_MAX, Change, DurableStateStore, Fence, InvalidBatch, StoredState,
    StoredValue, UnknownOutcome, Write, WriteBatch, WriteOutcome, WriterSession,
};
pub use tags::{TAGS_MAX, Tags};
