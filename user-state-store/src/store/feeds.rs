//! Reading what changed, page by page.

use std::num::NonZeroUsize;

use async_trait::async_trait;

use crate::changes::{ChangesPage, ChangesQuery};
use crate::error::StoreError;
use crate::persistence_id::PersistenceId;
use crate::store::Backend;

/// Durable states in the order in which they changed, and all their ids: pages that feeds are made of.
///
/// The feeds themselves are [`Store::changes_by_slices`](crate::Store::changes_by_slices),
/// [`Store::current_changes_by_slices`](crate::Store::current_changes_by_slices) and
/// [`Store::current_persistence_ids`](crate::Store::current_persistence_ids).
#[async_trait]
pub trait StateFeeds: Backend {
    /// One page of the latest states of a slice range, oldest first.
    ///
    /// # Contract
    /// As Pekko's `currentChangesBySlices`: ordered by `db_timestamp`, then revision, and rows that share both by their
    /// persistence id; only the latest revision of each entity; marks of deletion included. A page has at most
    /// [`ChangesQuery::limit`] rows and [`PAGE_BYTES_MAX`](crate::PAGE_BYTES_MAX) bytes of payload, or one row, and says how
    /// far it reaches: following [`ChangesPage::end`] reaches every row. A page ends before a row that cannot be read and
    /// names it ([`PageEnd::Unreadable`](crate::PageEnd::Unreadable)); a row is never left out. With
    /// [`ChangesQuery::rows_max`] the cost of a page does not depend on what lies behind it.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] or [`StoreError::Misconfigured`].
    ///
    /// # Cancel safety
    /// Dropping the future loses the answer and nothing else.
    async fn changes(&self, query: &ChangesQuery) -> Result<ChangesPage, StoreError>;

    /// At most `limit` persistence ids behind `after`, in the order of the database's collation.
    ///
    /// # Contract
    /// As Pekko's `currentPersistenceIds(afterId, limit)`: strictly after `after`, deleted states that left
    /// a mark included. Following pages from the last id of each reaches every id that existed throughout. Stored ids
    /// that are no text of Unicode are left out, with a warning of their number: nobody can ask for their rows. Before an
    /// id that the database cannot give, the page ends; an error comes instead of a page that would begin with it.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] or [`StoreError::Misconfigured`]; [`StoreError::Refused`] if the database cannot take
    /// `after`.
    ///
    /// # Cancel safety
    /// Dropping the future loses the answer and nothing else.
    async fn persistence_ids(
        &self,
        after: Option<&PersistenceId>,
        limit: NonZeroUsize,
    ) -> Result<Vec<PersistenceId>, StoreError>;
}
