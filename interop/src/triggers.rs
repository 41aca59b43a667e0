//! Triggers on `durable_state` for what Pekko gives no signal of: the end of a deletion, a write under way.

use std::fmt;
use std::time::Duration;

use sqlx::postgres::PgListener;
use sqlx::{Connection, Executor as _, PgConnection};

use crate::case::AnyError;
use crate::database::Database;

/// Far more than a statement takes; a test fails instead of hanging.
const SIGNAL_TIMEOUT: Duration = Duration::from_secs(30);

/// How often a held write is looked for.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// A statement that deletes nothing is told as well: a trigger per statement. Told at its commit, so that it is over.
const TELL_DELETIONS: &str = "\
    CREATE FUNCTION tell_deletion() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
      PERFORM pg_notify('deletions', (SELECT count(*) FROM gone)::text);
      RETURN NULL;
    END $$;
    CREATE TRIGGER tell_deletion AFTER DELETE ON durable_state
      REFERENCING OLD TABLE AS gone
      FOR EACH STATEMENT EXECUTE FUNCTION tell_deletion()";

/// Advisory locks are kept apart by database, so one number does for all cases.
const HOLD_INSERT: &str = "\
    CREATE FUNCTION hold_insert() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
      PERFORM pg_advisory_xact_lock(1);
      RETURN NEW;
    END $$";

const HOLD_LATE_INSERTS: &str = "\
    CREATE TRIGGER hold_insert BEFORE INSERT ON durable_state
      FOR EACH ROW WHEN (NEW.revision > 1) EXECUTE FUNCTION hold_insert()";

/// Our sessions name themselves.
const HOLD_OUR_INSERTS: &str = "\
    CREATE TRIGGER hold_insert BEFORE INSERT ON durable_state
      FOR EACH ROW WHEN (current_setting('application_name') = 'user-state')
      EXECUTE FUNCTION hold_insert()";

const LOCK: &str = "SELECT pg_advisory_lock(1)";

const IS_HELD: &str = "\
    SELECT EXISTS (
      SELECT FROM pg_locks
      WHERE locktype = 'advisory'
        AND NOT granted
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    )";

impl Database {
    /// Tells of every `DELETE` from now on, whoever sends it.
    ///
    /// # Errors
    /// Where the database refuses.
    ///
    /// # Cancel safety
    /// A dropped future can leave the trigger, which disturbs nobody.
    pub async fn deletions(&self) -> Result<Deletions, AnyError> {
        self.execute(TELL_DELETIONS).await?;
        let mut listener = PgListener::connect(self.url()?.as_str()).await?;
        listener.listen("deletions").await?;
        Ok(Deletions { listener })
    }

    /// Holds up every `INSERT` of a row above revision 1, from now on and until it is let go.
    ///
    /// # Errors
    /// Where the database refuses.
    ///
    /// # Cancel safety
    /// A dropped future can leave the trigger, which holds up nothing then.
    pub async fn hold_late_inserts(&self) -> Result<HeldInserts, AnyError> {
        self.hold_inserts(HOLD_LATE_INSERTS).await
    }

    /// Holds up every `INSERT` of our stores, from now on and until it is let go.
    ///
    /// # Errors
    /// Where the database refuses.
    ///
    /// # Cancel safety
    /// A dropped future can leave the trigger, which holds up nothing then.
    pub async fn hold_our_inserts(&self) -> Result<HeldInserts, AnyError> {
        self.hold_inserts(HOLD_OUR_INSERTS).await
    }

    async fn hold_inserts(&self, trigger: &str) -> Result<HeldInserts, AnyError> {
        self.execute(HOLD_INSERT).await?;
        self.execute(trigger).await?;
        let mut holder = self.connection().await?;
        holder.execute(LOCK).await?;
        Ok(HeldInserts { holder })
    }

    /// The unique index that an operator may have beside Pekko's tables.
    ///
    /// # Errors
    /// Where an id has two rows already.
    ///
    /// # Cancel safety
    /// A dropped future may have made it.
    pub async fn create_unique_index(&self) -> Result<(), AnyError> {
        self.execute("CREATE UNIQUE INDEX durable_state_one_row ON durable_state (persistence_id)")
            .await
    }
}

/// The `DELETE` statements on `durable_state`, as they commit.
pub struct Deletions {
    listener: PgListener,
}

impl Deletions {
    /// How many rows the next one took away.
    ///
    /// # Errors
    /// Where none comes.
    ///
    /// # Cancel safety
    /// A dropped future can lose one.
    pub async fn next(&mut self) -> Result<u64, AnyError> {
        let told = tokio::time::timeout(SIGNAL_TIMEOUT, self.listener.recv())
            .await
            .map_err(|_| format!("no DELETE within {SIGNAL_TIMEOUT:?}"))??;
        Ok(told.payload().parse()?)
    }
}

impl fmt::Debug for Deletions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Deletions").finish_non_exhaustive()
    }
}

/// Some inserts wait while this is there.
#[derive(Debug)]
pub struct HeldInserts {
    holder: PgConnection,
}

impl HeldInserts {
    /// Waits until such an insert waits.
    ///
    /// # Errors
    /// Where none comes.
    ///
    /// # Cancel safety
    /// May be dropped and called again.
    pub async fn arrived(&mut self) -> Result<(), AnyError> {
        let mut looks = tokio::time::interval(LOOK_INTERVAL);
        let looking = async {
            while !sqlx::query_scalar::<_, bool>(IS_HELD)
                .fetch_one(&mut self.holder)
                .await?
            {
                looks.tick().await;
            }
            Ok(())
        };
        tokio::time::timeout(SIGNAL_TIMEOUT, looking)
            .await
            .map_err(|_| format!("no INSERT above revision 1 within {SIGNAL_TIMEOUT:?}"))?
    }

    /// Lets them go.
    ///
    /// # Errors
    /// Where the connection is gone, and they went with it.
    ///
    /// # Cancel safety
    /// They go all the same.
    pub async fn release(self) -> Result<(), AnyError> {
        Ok(self.holder.close().await?)
    }
}
