//! Finding the rows for which a load fails: those in a damaged part of the file.

use super::load::load_part;
use crate::cuts::{Cuts, Verdict};
use crate::deadline;
use crate::error::{Cause, DatabaseError, StoreError};
use crate::persistence_id::PersistenceId;
use crate::sqlite::connection::Lane;
use crate::sqlite::error::is_damage;
use crate::store::LoadedRow;

/// Loads the rows of these ids again after that failed as a part of the file is damaged: only those in that part fail.
pub(super) async fn around_damage(
    lane: &Lane,
    ids: &[PersistenceId],
    payload_bytes_max: usize,
    share: usize,
    error: StoreError,
) -> Result<Vec<LoadedRow>, StoreError> {
    let deadline = lane.deadline();
    let mut found: Vec<LoadedRow> = ids.iter().map(|_| Ok(None)).collect();
    let mut cuts = Cuts::of((0..ids.len()).collect());
    // The load of all of them failed already.
    let mut answer = Err(error);
    while let Some(part) = cuts.next() {
        if part.len() < ids.len() {
            let asked: Vec<_> = part.iter().filter_map(|index| ids.get(*index)).collect();
            let asked: Vec<PersistenceId> = asked.into_iter().cloned().collect();
            let loading = load_part(lane, &asked, payload_bytes_max, share);
            answer = deadline::until(deadline, loading)
                .await
                .unwrap_or(Err(StoreError::Unavailable(Cause::Deadline)));
        }
        let error = match std::mem::replace(&mut answer, Ok(Vec::new())) {
            Ok(rows) => {
                cuts.answered(true);
                for (index, row) in part.into_iter().zip(rows) {
                    note(&mut found, index, row);
                }
                continue;
            }
            Err(error) => error,
        };
        let failed = match damage(&error) {
            Some(reason) => match cuts.refused(part, Some(&reason.code)) {
                Verdict::Cut => continue,
                Verdict::Fail(rows) => rows,
            },
            None => part.into_iter().chain(cuts.take_rest()).collect(),
        };
        for (index, id) in failed.into_iter().filter_map(|at| Some((at, ids.get(at)?))) {
            note(&mut found, index, Err(unreadable(id, &error)));
        }
    }
    Ok(found)
}

fn note(found: &mut [LoadedRow], index: usize, row: LoadedRow) {
    if let Some(place) = found.get_mut(index) {
        *place = row;
    }
}

fn unreadable(id: &PersistenceId, error: &StoreError) -> StoreError {
    match damage(error) {
        Some(reason) => StoreError::Unreadable {
            persistence_id: id.clone(),
            reason,
        },
        None => error.clone(),
    }
}

/// What a damaged part of the file is reported as.
pub(super) fn damage(error: &StoreError) -> Option<DatabaseError> {
    match error {
        StoreError::Misconfigured(Cause::Database(error)) if is_damage(error) => {
            Some(error.clone())
        }
        _ => None,
    }
}
