//! Loading many rows, whatever their size, in parts that memory can hold.
//!
//! **Problem.** [`DurableStateStore::load`] withholds payloads that are larger than their share of the answer, and whoever
//! wants them has to ask for fewer ids. **How.** The first part asks for all ids. What it withholds comes with the number of
//! its bytes, so that each later part asks for as many of the smallest as fit together.
//!
//! **Guarantees.** One call of `load` if nothing is withheld. At most one part is in memory, and a row is handed on once.

use crate::error::{Cause, StoreError};
use crate::persistence_id::PersistenceId;
use crate::store::{
    BATCH_ROWS_MAX, DurableStateStore, LOAD_BYTES_MAX, LoadedRow, StoredState, StoredValue,
};

/// A row that was withheld: its payload's number of bytes, and the place of its id.
type Withheld = (usize, usize);

/// Loads the rows of these ids, however many and however large, and hands each to `each` with the place of its id.
///
/// The rows come in parts, and not in the order of the ids. Each id is answered once, a failed part with an error for each of
/// its ids; no row comes as [`StoredValue::Withheld`].
///
/// ```
/// use user_state_store::{PersistenceId, SqliteStore, StoreSettings, load_in_parts};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("user-state.db");
/// let store = SqliteStore::open(&path, &StoreSettings::default()).await?;
/// let ids = [PersistenceId::unique("mall-a")?, PersistenceId::unique("mall-b")?];
/// let mut absent = 0;
/// load_in_parts(&store, &ids, |_place, row| {
///     // Use the row and drop it: the next part is loaded then.
///     absent += usize::from(row == Ok(None));
/// })
/// .await;
/// assert_eq!(absent, 2);
/// # Ok(())
/// # }
/// ```
///
/// # Cancel safety
/// Dropping the future loses the answers that did not come yet.
pub async fn load_in_parts(
    store: &dyn DurableStateStore,
    ids: &[PersistenceId],
    mut each: impl FnMut(usize, LoadedRow) + Send,
) {
    let mut withheld = Vec::new();
    for (part, first) in ids
        .chunks(BATCH_ROWS_MAX)
        .zip((0..).step_by(BATCH_ROWS_MAX))
    {
        let places = first..first + part.len();
        load_part(store, part, places, &mut each, &mut withheld).await;
    }
    // Rows that grew meanwhile are withheld again; alone each of them comes.
    let mut grown = Vec::new();
    withheld.sort_unstable();
    while !withheld.is_empty() {
        let places: Vec<usize> = withheld
            .drain(..fitting(&withheld))
            .map(|(_, place)| place)
            .collect();
        load_places(store, ids, &places, &mut each, &mut grown).await;
    }
    let mut still = Vec::new();
    for (_, place) in grown {
        load_places(store, ids, &[place], &mut each, &mut still).await;
    }
    for (_, place) in still {
        each(place, Err(StoreError::Unavailable(Cause::Protocol)));
    }
}

async fn load_places(
    store: &dyn DurableStateStore,
    ids: &[PersistenceId],
    places: &[usize],
    each: &mut (impl FnMut(usize, LoadedRow) + Send),
    withheld: &mut Vec<Withheld>,
) {
    let part: Vec<PersistenceId> = places
        .iter()
        .filter_map(|place| ids.get(*place).cloned())
        .collect();
    load_part(store, &part, places.iter().copied(), each, withheld).await;
}

/// Loads one part, whose ids have these places, and hands on what comes.
async fn load_part(
    store: &dyn DurableStateStore,
    part: &[PersistenceId],
    places: impl Iterator<Item = usize> + Send,
    each: &mut (impl FnMut(usize, LoadedRow) + Send),
    withheld: &mut Vec<Withheld>,
) {
    match store.load(part).await {
        Ok(rows) => {
            let mut rows = rows.into_iter();
            for place in places {
                match rows.next() {
                    Some(Ok(Some(StoredState {
                        value: StoredValue::Withheld { payload_bytes },
                        ..
                    }))) => withheld.push((payload_bytes, place)),
                    Some(found) => each(place, found),
                    None => each(place, Err(StoreError::Unavailable(Cause::Protocol))),
                }
            }
        }
        Err(error) => {
            for place in places {
                each(place, Err(error.clone()));
            }
        }
    }
}

/// How many of these, the smallest first, a load gives together: at least one.
fn fitting(withheld: &[Withheld]) -> usize {
    (1..)
        .zip(withheld)
        .take_while(|(count, (bytes, _))| {
            count * bytes <= LOAD_BYTES_MAX && *count <= BATCH_ROWS_MAX
        })
        .count()
        .max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_of_the_smallest_are_asked_for_as_each_has_room_in_its_share() {
        let of = |sizes: &[usize]| {
            let withheld: Vec<Withheld> = sizes.iter().copied().zip(0..).collect();
            fitting(&withheld)
        };
        let share = LOAD_BYTES_MAX / 4;
        assert_eq!(of(&[share; 9]), 4);
        assert_eq!(of(&[1, 1, 1, share, share]), 4);
        assert_eq!(of(&[1, 1, 1, 1, share]), 4);
        assert_eq!(
            of(&[2 * LOAD_BYTES_MAX; 3]),
            1,
            "one row comes, however large"
        );
        assert_eq!(of(&[0; 2 * BATCH_ROWS_MAX]), BATCH_ROWS_MAX);
    }
}
