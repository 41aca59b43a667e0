//! Pages of persistence ids.
//!
//! **Problem.** A database can hold ids that are no text of Unicode: any bytes in `SQL_ASCII`, characters that have no place
//! in Unicode in other encodings. One of them fails the statement that reads its page. **How.** Such a page is read as bytes in
//! the database's own encoding, and only what is text is given.

use std::num::NonZeroUsize;

use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row as _, ValueRef as _};

use crate::connect::StoreSettings;
use crate::deadline::within;
use crate::error::{Cause, StoreError};
use crate::persistence_id::PersistenceId;
use crate::postgres::connection::answer_deadline;
use crate::postgres::pool::{Call, Pool};

/// The ids behind one, in the order of the primary key.
pub(in crate::postgres) const SELECT_PERSISTENCE_IDS: &str = "\
SELECT DISTINCT persistence_id
FROM durable_state
WHERE persistence_id > $1
ORDER BY persistence_id
LIMIT $2";

/// The same as bytes, behind bytes or else behind a text; and whether texts of this database are those bytes.
pub(in crate::postgres) const SELECT_BYTES_OF_IDS: &str = "\
SELECT
  convert_to(d.persistence_id, getdatabaseencoding()),
  getdatabaseencoding() IN ('UTF8', 'SQL_ASCII')
FROM (
  SELECT DISTINCT persistence_id
  FROM durable_state
  WHERE persistence_id > COALESCE(convert_from($1::bytea, getdatabaseencoding()), $2)
  ORDER BY persistence_id
  LIMIT $3
) AS d
ORDER BY d.persistence_id";

/// Bytes in the database's encoding as a text.
pub(in crate::postgres) const SELECT_TEXT: &str =
    "SELECT convert_from($1::bytea, getdatabaseencoding())";

/// One page of ids. See [`crate::StateFeeds::persistence_ids`].
pub(in crate::postgres) async fn persistence_ids(
    pool: &Pool,
    settings: &StoreSettings,
    after: Option<&PersistenceId>,
    limit: NonZeroUsize,
) -> Result<Vec<PersistenceId>, StoreError> {
    let after = after.map_or("", PersistenceId::as_str);
    match pool.read(settings, Page { after, limit }).await {
        Ok(Some(ids)) => return Ok(ids),
        Ok(None) => {}
        Err(failure) if failure.may_concern_a_row() => {}
        Err(failure) => return Err(failure.into()),
    }
    let readable = readable_ids(pool, settings, after, limit);
    within(answer_deadline(settings), readable)
        .await
        .unwrap_or(Err(StoreError::Unavailable(Cause::Deadline)))
}

/// The next ids that are text. At least one if there is any, so that the caller can go on behind it.
async fn readable_ids(
    pool: &Pool,
    settings: &StoreSettings,
    after: &str,
    limit: NonZeroUsize,
) -> Result<Vec<PersistenceId>, StoreError> {
    let (mut ids, mut left_out) = (Vec::new(), 0_usize);
    let mut behind: Option<Vec<u8>> = None;
    let mut limit = limit;
    while ids.is_empty() {
        let page = BytesPage {
            behind: behind.as_deref(),
            after,
            limit,
        };
        let page = match pool.read(settings, page).await {
            Ok(page) => page,
            // A part of the table is damaged, perhaps behind the next ids.
            Err(failure) if failure.may_concern_a_row() && limit > NonZeroUsize::MIN => {
                limit = NonZeroUsize::new(limit.get() / 2).unwrap_or(NonZeroUsize::MIN);
                continue;
            }
            Err(failure) => return Err(failure.into()),
        };
        let Some((last, _)) = page.last() else { break };
        behind = Some(last.clone());
        for (bytes, text) in page {
            let id = match text {
                AsText::Same => std::str::from_utf8(&bytes).ok().map(PersistenceId::stored),
                AsText::Converted => text_of(pool, settings, &bytes).await?,
            };
            match id {
                Some(id) => ids.push(id),
                None => left_out += 1,
            }
        }
    }
    if left_out > 0 {
        tracing::warn!(
            left_out,
            "stored persistence ids are no text of Unicode and were left out of a page"
        );
    }
    Ok(ids)
}

/// Bytes as the server converts them; nothing if it cannot.
async fn text_of(
    pool: &Pool,
    settings: &StoreSettings,
    bytes: &[u8],
) -> Result<Option<PersistenceId>, StoreError> {
    match pool.read(settings, Text { bytes }).await {
        Ok(text) => Ok(Some(PersistenceId::stored(&text))),
        Err(failure) if failure.may_concern_a_row() => Ok(None),
        Err(failure) => Err(failure.into()),
    }
}

/// The ids of a page; nothing if one of them is no text.
struct Page<'call> {
    after: &'call str,
    limit: NonZeroUsize,
}

impl Call for Page<'_> {
    type Answer = Option<Vec<PersistenceId>>;

    async fn run(&mut self, connection: &mut PgConnection) -> Result<Self::Answer, sqlx::Error> {
        let rows = sqlx::query(SELECT_PERSISTENCE_IDS)
            .bind(self.after)
            .bind(bound(self.limit))
            .fetch_all(connection)
            .await?;
        let text = |row: &PgRow| {
            let bytes = bytes(row)?;
            Some(PersistenceId::stored(std::str::from_utf8(bytes).ok()?))
        };
        Ok(rows.iter().map(text).collect())
    }
}

/// How an id's text is made of its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AsText {
    /// They are the text.
    Same,
    /// The server converts them.
    Converted,
}

/// The ids of a page as bytes.
struct BytesPage<'call> {
    behind: Option<&'call [u8]>,
    after: &'call str,
    limit: NonZeroUsize,
}

impl Call for BytesPage<'_> {
    type Answer = Vec<(Vec<u8>, AsText)>;

    async fn run(&mut self, connection: &mut PgConnection) -> Result<Self::Answer, sqlx::Error> {
        let rows = sqlx::query(SELECT_BYTES_OF_IDS)
            .bind(self.behind)
            .bind(self.after)
            .bind(bound(self.limit))
            .fetch_all(connection)
            .await?;
        rows.iter()
            .map(|row| {
                let bytes: Vec<u8> = row.try_get(0)?;
                let same = row.try_get(1)? || bytes.is_ascii();
                let text = if same {
                    AsText::Same
                } else {
                    AsText::Converted
                };
                Ok((bytes, text))
            })
            .collect()
    }
}

/// The text of some bytes.
struct Text<'call> {
    bytes: &'call [u8],
}

impl Call for Text<'_> {
    type Answer = String;

    async fn run(&mut self, connection: &mut PgConnection) -> Result<String, sqlx::Error> {
        sqlx::query_scalar(SELECT_TEXT)
            .bind(self.bytes)
            .fetch_one(connection)
            .await
    }
}

fn bytes(row: &PgRow) -> Option<&[u8]> {
    row.try_get_raw(0)
        .ok()
        .filter(|value| !value.is_null())?
        .as_bytes()
        .ok()
}

fn bound(limit: NonZeroUsize) -> i64 {
    i64::try_from(limit.get()).unwrap_or(i64::MAX)
}
