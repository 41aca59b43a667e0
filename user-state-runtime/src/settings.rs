//! The bounds and time-outs of a runtime.

use std::time::Duration;

use user_state_store::{BATCH_BYTES_MAX, BATCH_ROWS_MAX};

use crate::error::StartError;

/// The most messages of a bounded queue: more memory than any machine has for it.
const QUEUE_CEILING: usize = 1 << 26;

/// How many cores there are for each shard.
const CORES_PER_SHARD: usize = 2;

/// The longest time-out in real time, a year: later deadlines could not be represented.
const REAL_TIME_CEILING: Duration = Duration::from_hours(365 * 24);

/// The bounds and time-outs of a runtime. Every queue is bounded; each default says why that number.
///
/// ```
/// use std::time::Duration;
/// use user_state_runtime::Settings;
///
/// let settings = Settings { idle_timeout: Duration::from_secs(60), ..Settings::default() };
/// assert_eq!(settings.live_entities_max, 1_000_000);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// An entity without a message for this long passivates; reaching it counts. Default 30 minutes.
    pub idle_timeout: Duration,
    /// How many shards, each a task with its own entities. Default: one for every two cores, since callers and
    /// database work need about as much of them as entities do.
    pub shards: usize,
    /// The most live entities of the whole runtime; the least recently used passivates first. Default
    /// 1,000,000: under 600 MB of user states.
    pub live_entities_max: usize,
    /// The most messages a shard's mailbox holds. Default 16,384: ten thousand callers that wait for answers
    /// fit into one.
    pub mailbox_messages_max: usize,
    /// The most unanswered requests of one entity. Default 4,096: the stash of a Pekko entity.
    pub entity_requests_max: usize,
    /// The most unanswered requests of a shard behind its mailbox. Reached, the shard takes nothing more from the
    /// mailbox, which then fills up and refuses. Default 65,536.
    pub shard_requests_max: usize,
    /// The most requests of a shard that wait for room below `live_entities_max`. Default 4,096.
    pub admission_requests_max: usize,
    /// The most rows a shard writes or loads in one batch. Default and upper bound [`BATCH_ROWS_MAX`].
    pub batch_rows_max: usize,
    /// The most payload bytes in a batch. Default and upper bound [`BATCH_BYTES_MAX`].
    pub batch_bytes_max: usize,
    /// The most batches that a shard has on their way to the database. Default 4; all but two are sent full only, since
    /// rows that wait make the next batch cheaper.
    pub batches_in_flight_max: usize,
    /// The most loads that a shard has on their way. Default 4: while some are decoded others are on the wire.
    pub loads_in_flight_max: usize,
    /// How long callers wait for the resolution of a write whose answer was lost, in real time. Default 10 s.
    pub resolve_timeout: Duration,
    /// How long the runtime waits between attempts to resolve such a write. Default 100 ms.
    pub resolve_interval: Duration,
    /// The most real time that an advance of a manual clock takes. Default 30 s.
    pub advance_timeout: Duration,
    /// The most real time that [`crate::Runtime::shutdown`] takes. Default 30 s.
    pub shutdown_timeout: Duration,
    /// How many lifecycle events a subscriber may lag behind before it loses some. Default 65,536.
    pub lifecycle_events_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            idle_timeout: Duration::from_mins(30),
            shards: std::thread::available_parallelism()
                .map_or(1, |cores| cores.get().div_ceil(CORES_PER_SHARD)),
            live_entities_max: 1_000_000,
            mailbox_messages_max: 16_384,
            entity_requests_max: 4_096,
            shard_requests_max: 65_536,
            admission_requests_max: 4_096,
            batch_rows_max: BATCH_ROWS_MAX,
            batch_bytes_max: BATCH_BYTES_MAX,
            batches_in_flight_max: 4,
            loads_in_flight_max: 4,
            resolve_timeout: Duration::from_secs(10),
            resolve_interval: Duration::from_millis(100),
            advance_timeout: Duration::from_secs(30),
            shutdown_timeout: Duration::from_secs(30),
            lifecycle_events_max: 65_536,
        }
    }
}

impl Settings {
    /// The settings with every limit brought into its range.
    ///
    /// # Errors
    /// Where a limit is 0 or beyond reason.
    pub(crate) fn checked(mut self) -> Result<Self, StartError> {
        let limits = [
            ("shards", self.shards),
            ("live_entities_max", self.live_entities_max),
            ("mailbox_messages_max", self.mailbox_messages_max),
            ("entity_requests_max", self.entity_requests_max),
            ("shard_requests_max", self.shard_requests_max),
            ("admission_requests_max", self.admission_requests_max),
            ("batch_rows_max", self.batch_rows_max),
            ("batch_bytes_max", self.batch_bytes_max),
            ("batches_in_flight_max", self.batches_in_flight_max),
            ("loads_in_flight_max", self.loads_in_flight_max),
            ("lifecycle_events_max", self.lifecycle_events_max),
        ];
        if let Some((name, _)) = limits.into_iter().find(|(_, limit)| *limit == 0) {
            return Err(StartError::ZeroLimit(name));
        }
        for (name, messages) in [
            ("mailbox_messages_max", self.mailbox_messages_max),
            ("lifecycle_events_max", self.lifecycle_events_max),
        ] {
            if messages > QUEUE_CEILING {
                return Err(StartError::LimitTooLarge {
                    name,
                    ceiling: QUEUE_CEILING,
                });
            }
        }
        for timeout in [
            &mut self.resolve_timeout,
            &mut self.resolve_interval,
            &mut self.advance_timeout,
            &mut self.shutdown_timeout,
        ] {
            *timeout = (*timeout).min(REAL_TIME_CEILING);
        }
        self.batch_rows_max = self.batch_rows_max.min(BATCH_ROWS_MAX);
        self.batch_bytes_max = self.batch_bytes_max.min(BATCH_BYTES_MAX);
        // Entities are spread over the shards, and each shard holds at least one.
        self.shards = self.shards.min(self.live_entities_max);
        Ok(self)
    }
}
