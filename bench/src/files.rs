//! The files of the works about SQLite, and one for each contender, as with the databases of the server.
//!
//! They are on a disk: in memory a commit costs nothing, and every figure would be about something else.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, params};
use tempfile::TempDir;
use user_state_store::{Backend as _, SqliteStore, StoreSettings};

use crate::exit::{Failure, with_causes};
use crate::population::{self, FIRST_REVISION, Row};

const INSERT: &str = "\
INSERT INTO durable_state (slice, entity_type, persistence_id, revision, db_timestamp, state_ser_id,
    state_ser_manifest, state_payload, tags)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)";

/// A directory of this run.
#[derive(Default)]
pub(crate) struct Files {
    directory: Option<TempDir>,
    /// Filled once for each number of users, then copied.
    templates: HashMap<usize, PathBuf>,
    copies: HashMap<(&'static str, usize), PathBuf>,
    named: usize,
}

impl Files {
    /// A contender's file with so many users in it, made if it is not there yet. Its log is moved into it.
    pub(crate) async fn settled(
        &mut self,
        contender: &'static str,
        users: usize,
    ) -> Result<PathBuf, Failure> {
        let path = match self.copies.get(&(contender, users)) {
            Some(path) => path.clone(),
            None => self.fresh(contender, users).await?,
        };
        let moved = Connection::open(&path).and_then(|file| checkpoint(&file));
        moved.map_err(|error| failed(&error))?;
        Ok(path)
    }

    /// The same as a new copy, which the contender goes on with. Nobody has the one before open.
    pub(crate) async fn fresh(
        &mut self,
        contender: &'static str,
        users: usize,
    ) -> Result<PathBuf, Failure> {
        let template = self.template(users).await?;
        if let Some(before) = self.copies.remove(&(contender, users)) {
            std::fs::remove_file(before).map_err(|error| Failure::unavailable(&error))?;
        }
        let path = self.next_path()?;
        let copied = std::fs::copy(template, &path)
            .and_then(|_| std::fs::File::open(&path))
            // A contender's first commit would have to wait for it.
            .and_then(|file| file.sync_all());
        copied.map_err(|error| Failure::unavailable(&error))?;
        self.copies.insert((contender, users), path.clone());
        Ok(path)
    }

    /// Removes every file. Their contenders have let go of them.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    async fn template(&mut self, users: usize) -> Result<PathBuf, Failure> {
        if let Some(path) = self.templates.get(&users) {
            return Ok(path.clone());
        }
        let path = self.next_path()?;
        let store = SqliteStore::open(&path, &StoreSettings::default()).await?;
        store.close().await;
        fill(&path, users)?;
        self.templates.insert(users, path.clone());
        Ok(path)
    }

    fn next_path(&mut self) -> Result<PathBuf, Failure> {
        let directory = match self.directory.take() {
            Some(directory) => directory,
            None => on_a_disk()?,
        };
        self.named += 1;
        let path = directory.path().join(format!("bench-{}.db", self.named));
        self.directory = Some(directory);
        Ok(path)
    }
}

fn fill(path: &Path, users: usize) -> Result<(), Failure> {
    let mut rows = Vec::with_capacity(users);
    for number in 0..users {
        rows.push(Row::new(number)?);
    }
    let filling = || -> rusqlite::Result<()> {
        let mut file = Connection::open(path)?;
        let transaction = file.transaction()?;
        let mut insert = transaction.prepare(INSERT)?;
        for row in &rows {
            insert.execute(params![
                row.persistence_id.slice().get(),
                row.persistence_id.entity_type(),
                row.persistence_id.as_str(),
                FIRST_REVISION,
                population::beginning().timestamp_micros(),
                row.payload.serializer_id.0,
                row.payload.manifest.as_str(),
                row.payload.bytes,
                row.tags_json,
            ])?;
        }
        drop(insert);
        transaction.commit()?;
        checkpoint(&file)
    };
    filling().map_err(|error| failed(&error))
}

/// Moves what is in the log into the file. Whoever writes next begins the log anew.
fn checkpoint(file: &Connection) -> rusqlite::Result<()> {
    file.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(()))
}

/// A new directory that is not in memory: where files for a while go, or else beside this program.
fn on_a_disk() -> Result<TempDir, Failure> {
    let program = std::env::current_exe().map_err(|error| Failure::unavailable(&error))?;
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let parents = [
        Some(std::env::temp_dir()),
        program.parent().map(Path::to_owned),
    ];
    let parent = parents
        .into_iter()
        .flatten()
        .filter_map(|parent| parent.canonicalize().ok())
        .find(|parent| !is_in_memory(parent, &mounts))
        .ok_or_else(|| {
            Failure::usage(
                "the directory for temporary files is in memory; set TMPDIR to one on a disk",
            )
        })?;
    TempDir::new_in(parent).map_err(|error| Failure::unavailable(&error))
}

/// Whether a directory is in memory, by the list of what is mounted where; no if there is no such list.
fn is_in_memory(directory: &Path, mounts: &str) -> bool {
    let of_directory = mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            Some((fields.next()?, fields.next()?))
        })
        .filter(|(mounted_at, _)| directory.starts_with(mounted_at))
        // Of two at one place the later one hides the other.
        .max_by_key(|(mounted_at, _)| mounted_at.len());
    of_directory.is_some_and(|(_, kind)| ["tmpfs", "ramfs"].contains(&kind))
}

fn failed(error: &rusqlite::Error) -> Failure {
    Failure::new(1, with_causes(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_in_memory_if_what_is_mounted_nearest_is() {
        let mounts = "\
/dev/sda / ext4 rw 0 0
tmpfs /tmp tmpfs rw 0 0
/dev/sdb /tmp/disk xfs rw 0 0
";
        let in_memory = |path| is_in_memory(Path::new(path), mounts);
        assert!(in_memory("/tmp") && in_memory("/tmp/a"));
        assert!(!in_memory("/home") && !in_memory("/tmp/disk/a") && !in_memory("/tmpfs"));
        assert!(!is_in_memory(Path::new("/tmp"), ""));
    }

    #[tokio::test]
    async fn the_store_reads_what_was_filled_in_and_a_fresh_file_is_as_the_first_one()
    -> Result<(), Box<dyn std::error::Error>> {
        let mut files = Files::default();
        let path = files.settled("a", 3).await.map_err(|_| "not made")?;
        let again = files.settled("a", 3).await.map_err(|_| "not kept")?;
        assert_eq!(path, again);
        let other = files.settled("b", 3).await.map_err(|_| "not made")?;
        assert_ne!(path, other);
        let emptied = Connection::open(&path)?;
        emptied.execute("DELETE FROM durable_state", [])?;
        drop(emptied);
        let fresh = files.fresh("a", 3).await.map_err(|_| "not made anew")?;
        let store = SqliteStore::open(&fresh, &StoreSettings::default()).await?;
        population::tests::assert_first_rows(&store, 3).await?;
        store.close().await;
        Ok(())
    }
}
