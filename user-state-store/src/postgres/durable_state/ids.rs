//! Pages of persistence ids.

use std::num::NonZeroUsize;

use sqlx::PgConnection;

use crate::connect::StoreSettings;
use crate::error::StoreError;
use crate::persistence_id::PersistenceId;
use crate::postgres::pool::{Call, Pool};

/// The ids behind one, in the order of the primary key.
pub(in crate::postgres) const SELECT_PERSISTENCE_IDS: &str = "\
SELECT DISTINCT persistence_id
FROM durable_state
WHERE persistence_id > $1
ORDER BY persistence_id
LIMIT $2";

/// One page of ids. See [`crate::DurableStateStore::persistence_ids`].
pub(in crate::postgres) async fn persistence_ids(
    pool: &Pool,
    settings: &StoreSettings,
    after: Option<&PersistenceId>,
    limit: NonZeroUsize,
) -> Result<Vec<PersistenceId>, StoreError> {
    let ids = pool.read(settings, Page { after, limit }).await?;
    Ok(ids.iter().map(|id| PersistenceId::stored(id)).collect())
}

/// The ids of a page.
struct Page<'call> {
    after: Option<&'call PersistenceId>,
    limit: NonZeroUsize,
}

impl Call for Page<'_> {
    type Answer = Vec<String>;

    async fn run(&mut self, connection: &mut PgConnection) -> Result<Vec<String>, sqlx::Error> {
        sqlx::query_scalar(SELECT_PERSISTENCE_IDS)
            .bind(self.after.map_or("", PersistenceId::as_str))
            .bind(i64::try_from(self.limit.get()).unwrap_or(i64::MAX))
            .fetch_all(connection)
            .await
    }
}
