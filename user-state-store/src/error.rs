//! What can go wrong with a stored state, sorted by what the caller can do next.

use std::borrow::Cow;
use std::fmt;

use crate::changes::UnreadableChange;
use crate::open_error::OpenError;
use crate::payload::{Manifest, SerializerId};
use crate::persistence_id::PersistenceId;
use crate::revision::Revision;

/// A store operation that did not succeed.
///
/// Cloning is cheap, since one failed batch answers many callers. No variant holds a payload, and what a
/// database said is reduced to a [`DatabaseError`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The database could not be used just now and nothing was applied; try again later.
    #[error("the database is unavailable, nothing was applied")]
    Unavailable(#[source] Cause),
    /// The write was sent and its answer lost: it may or may not have been applied. Read the row to find out.
    #[error("the outcome of a write is unknown: its answer was lost")]
    OutcomeUnknown(#[source] Cause),
    /// The database refuses this value, an id or what was to be written; nothing was applied, and sending it again will
    /// not help.
    #[error("the database refused the value, nothing was applied")]
    Refused(#[source] DatabaseError),
    /// The stored row cannot be read. It stays as it is; mend the row or the mapping.
    #[error(
        "the row of {persistence_id} cannot be read (serializer {serializer_id}, manifest {manifest:?})"
    )]
    Corrupt {
        /// The entity.
        persistence_id: PersistenceId,
        /// The stored serializer id.
        serializer_id: SerializerId,
        /// The stored manifest.
        manifest: Manifest,
        /// What is wrong with it.
        #[source]
        reason: DecodeError,
    },
    /// The database itself cannot give the stored row: it is damaged, or what it holds is no text. It stays as it is; repair
    /// it in the database.
    #[error("the database cannot give the row of {persistence_id}")]
    Unreadable {
        /// The entity.
        persistence_id: PersistenceId,
        /// What the database says.
        #[source]
        reason: DatabaseError,
    },
    /// A change feed met a row that it cannot read; the changes before it were told. The feed cannot get past the row
    /// until it is fixed; to leave it out, begin a feed at [`UnreadableChange::behind`]. A feed of decoded states
    /// ([`typed_changes`](crate::typed_changes)) goes on behind a row that only its mapping cannot read.
    #[error(
        "the change of {} in slice {} at {} cannot be read",
        .0.row.persistence_id,
        .0.row.slice.get(),
        .0.row.db_timestamp.format("%Y-%m-%dT%H:%M:%S%.6fZ")
    )]
    UnreadableChange(Box<UnreadableChange>),
    /// Two rows are stored for one id, which no writer may leave behind. Remove the wrong one by hand.
    #[error(
        "{persistence_id} has two rows, at revisions {lower} and {higher}; remove the wrong one"
    )]
    DuplicateRows {
        /// The entity.
        persistence_id: PersistenceId,
        /// The lower of the two revisions.
        lower: Revision,
        /// The higher of the two revisions (the highest, should there be more than two).
        higher: Revision,
    },
    /// The state has no stored form; nothing was applied.
    #[error("the state of {persistence_id} cannot be encoded")]
    Unencodable {
        /// The entity.
        persistence_id: PersistenceId,
        /// Why.
        #[source]
        reason: EncodeError,
    },
    /// A limit of the store does not allow this write; nothing was applied.
    #[error("{what} is {actual}, the limit is {limit}")]
    TooLarge {
        /// What is too large, with its unit.
        what: Cow<'static, str>,
        /// How large it is.
        actual: usize,
        /// How large it may be.
        limit: usize,
    },
    /// The database is not set up for this: a missing table, a read-only database, a missing privilege.
    #[error("the database is not set up for this operation")]
    Misconfigured(#[source] Cause),
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

/// Why an operation failed, reduced to what may be shown: no host, no secret, no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Cause {
    /// The database answered with an error.
    #[error(transparent)]
    Database(DatabaseError),
    /// The connection failed.
    #[error("i/o error: {0}")]
    Io(std::io::ErrorKind),
    /// A deadline of this side passed.
    #[error("no answer within the deadline")]
    Deadline,
    /// No connection became free in time.
    #[error("no connection became free in time")]
    PoolTimeout,
    /// TLS could not be set up.
    #[error("the TLS session could not be set up")]
    Tls,
    /// The file of the store was removed, emptied or replaced while it was open. Open the store again.
    #[error("the database file was removed or replaced while it was open; open the store again")]
    FileReplaced,
    /// This program lost the right to write the entity; see [`WriteOutcome::Fenced`](crate::WriteOutcome::Fenced).
    #[error("another program has the right to write this entity")]
    Fenced,
    /// The server did not speak the protocol as expected.
    #[error("the server broke the protocol")]
    Protocol,
    /// A new session lacks what opening the store checked: the server became read-only, would lose commits in a
    /// crash, or finds another table.
    #[error(transparent)]
    Session(Box<OpenError>),
    /// The store was told to fail (fault injection), or the reason has no better name.
    #[error("{0}")]
    Other(Cow<'static, str>),
}

/// What a database error is reduced to. Its message and detail are dropped: they can hold the row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseError {
    /// The SQLSTATE, or for SQLite the extended result code in decimal.
    pub code: Box<str>,
    /// `ERROR`, `FATAL` or `PANIC`; empty for SQLite.
    pub severity: Cow<'static, str>,
    /// The name of the violated constraint, where there is one.
    pub constraint: Option<Box<str>>,
}

impl Cause {
    /// A reason without a better name.
    pub const fn other(reason: &'static str) -> Self {
        Self::Other(Cow::Borrowed(reason))
    }
}

impl fmt::Display for DatabaseError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "database error {}", self.code)?;
        if !self.severity.is_empty() {
            write!(formatter, " ({})", self.severity)?;
        }
        if let Some(constraint) = &self.constraint {
            write!(formatter, ", constraint {constraint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for DatabaseError {}

/// Why a payload has no state in it that we can read. Never holds a part of the payload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// No serializer with this id is known for this mapping.
    #[error("no serializer for id {0}")]
    UnknownSerializer(SerializerId),
    /// The manifest names another class than the mapping's.
    #[error("the manifest is not the configured one, {expected:?}")]
    WrongManifest {
        /// The manifest the mapping expects, without a version.
        expected: Box<str>,
    },
    /// The manifest's version is newer than this mapping reads. Give its migration a step from that version, or let the
    /// newer release of the application read the row.
    #[error("version {found} is newer than the newest readable one, {newest}")]
    NewerVersion {
        /// The version in the manifest.
        found: u32,
        /// The newest one this mapping reads.
        newest: u32,
    },
    /// The manifest's version is older than this mapping reads. Give its migration steps from that version on.
    #[error("version {found} is older than the oldest readable one, {oldest}")]
    OlderVersion {
        /// The version in the manifest.
        found: u32,
        /// The oldest one this mapping reads.
        oldest: u32,
    },
    /// A step of the migration could not change the document of a version.
    #[error("the migration cannot change a document of version {from}: {problem}")]
    Migration {
        /// The version of the document that the step was given.
        from: u32,
        /// What the step says.
        problem: Cow<'static, str>,
    },
    /// The version in the manifest is no positive number.
    #[error("the version in the manifest is not a positive number")]
    MalformedVersion,
    /// The bytes are not what the serializer writes.
    #[error("malformed payload: {problem} at byte {offset}")]
    Malformed {
        /// What is wrong, in general terms: never a part of the payload.
        problem: Cow<'static, str>,
        /// Where, counted from 0 in the uncompressed payload; 0 where that is not known.
        offset: usize,
    },
    /// The compression is damaged.
    #[error("the compressed payload is damaged")]
    DamagedCompression,
    /// A number or a truth value is not as long as its serializer writes it.
    #[error("the payload has {found} bytes, not {expected}")]
    WrongLength {
        /// How many bytes the serializer writes.
        expected: usize,
        /// How many there are.
        found: usize,
    },
    /// The payload, unpacked, is larger than allowed.
    #[error("the payload is larger than {limit} bytes")]
    TooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// A time that cannot be represented.
    #[error("field {field} holds a time that cannot be represented")]
    TimeOutOfRange {
        /// The field's stored name.
        field: Cow<'static, str>,
    },
    /// The decoder of the state panicked.
    #[error("the decoder panicked")]
    Panicked,
}

/// Why a state has no stored form. Never holds a part of the state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// The persistence id is not one that this mapping can take the entity's own ids from.
    #[error("the persistence id is not of the form this mapping expects: {expected}")]
    ForeignPersistenceId {
        /// The expected form.
        expected: Cow<'static, str>,
    },
    /// A time that the stored form cannot hold.
    #[error("field {field} holds a time that cannot be stored")]
    TimeOutOfRange {
        /// The field's stored name.
        field: Cow<'static, str>,
    },
    /// The stored form is larger than what would be read again.
    #[error("the stored form is larger than {limit} bytes")]
    TooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// The store's payload column takes JSON alone. Let the mapping write JSON, or use
    /// [`PayloadColumn::Bytea`](crate::PayloadColumn::Bytea).
    #[error("the payload column takes json, not what serializer {0} writes")]
    NotJson(SerializerId),
    /// The store's payload column takes JSON as text alone. Switch the mapping's compression off, or use
    /// [`PayloadColumn::Bytea`](crate::PayloadColumn::Bytea).
    #[error("the payload column takes uncompressed json only; switch the compression off")]
    Compressed,
    /// The state's `Serialize` implementation refused.
    #[error("the state refused to be serialized")]
    Serialize,
    /// The encoder of the state panicked.
    #[error("the encoder panicked")]
    Panicked,
}
