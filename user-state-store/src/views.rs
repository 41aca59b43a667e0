//! cqrs-es views beside the states: read models that postgres-es keeps in tables of the same database.
//!
//! **Problem.** A query of cqrs-es wants its view somewhere, and a second pool to the same database is waste.
//!
//! **How.** [`PostgresStore::view_repository`] gives a repository of postgres-es on the store's own pool.
//!
//! **Guarantees.** The table's name cannot carry SQL. **Not here.** The table itself: its DDL is the application's
//! (`view_id text PRIMARY KEY, version bigint NOT NULL, payload json NOT NULL`). A view is written after the commit of
//! its state and not with it, so a crash between the two leaves the view behind.

use cqrs_es::{Aggregate, View};
use postgres_es::PostgresViewRepository;

use crate::postgres::PostgresStore;

/// The longest name PostgreSQL does not cut off, in bytes.
const NAME_BYTES_MAX: usize = 63;

/// A text that is no plain table name.
///
/// ```
/// use user_state_store::InvalidTableName;
///
/// assert_eq!(
///     InvalidTableName.to_string(),
///     "a table name has 1 to 63 letters, digits and underscores, and does not begin with a digit"
/// );
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a table name has 1 to 63 letters, digits and underscores, and does not begin with a digit"
)]
pub struct InvalidTableName;

impl PostgresStore {
    /// A repository for views in this table, on the pool of this store.
    ///
    /// # Errors
    /// Where the name is not plain: the repository puts it into its statements as it is.
    ///
    /// ```no_run
    /// use std::sync::Arc;
    ///
    /// use cqrs_es::persist::GenericQuery;
    /// use cqrs_es::{Aggregate, View};
    /// use user_state_store::{InvalidTableName, PostgresStore};
    ///
    /// fn query<V: View<A>, A: Aggregate>(
    ///     store: &PostgresStore,
    /// ) -> Result<GenericQuery<postgres_es::PostgresViewRepository<V, A>, V, A>, InvalidTableName> {
    ///     Ok(GenericQuery::new(Arc::new(store.view_repository("user_view")?)))
    /// }
    /// ```
    pub fn view_repository<V: View<A>, A: Aggregate>(
        &self,
        table: &str,
    ) -> Result<PostgresViewRepository<V, A>, InvalidTableName> {
        if !is_plain(table) {
            return Err(InvalidTableName);
        }
        Ok(PostgresViewRepository::new(table, self.pool().clone()))
    }
}

fn is_plain(name: &str) -> bool {
    let begins_well = name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
    let is_part = |part: char| part.is_ascii_alphanumeric() || part == '_';
    begins_well && name.len() <= NAME_BYTES_MAX && name.chars().all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_are_table_names() {
        let longest = "v".repeat(NAME_BYTES_MAX);
        for name in ["user_view", "_", "V2", &longest] {
            assert!(is_plain(name), "{name}");
        }
        let too_long = "v".repeat(NAME_BYTES_MAX + 1);
        for name in [
            "",
            "2v",
            "user-view",
            "a b",
            "a;drop table b",
            "\"a\"",
            "a.b",
            "\u{e4}",
            &too_long,
        ] {
            assert!(!is_plain(name), "{name}");
        }
    }
}
