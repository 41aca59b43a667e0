//! The bounds and time-outs of a runtime.

use std::time::Duration;

use user_state_store::{BATCH_BYTES_MAX, BATCH_ROWS_MAX, InvalidSetting};

use crate::placement::SHARDS_MAX;

/// The most messages of a bounded queue: more memory than any machine has for it.
const QUEUE_CEILING: usize = 1 << 26;

/// How many cores there are for each shard.
const CORES_PER_SHARD: usize = 2;

/// The longest time-out in real time, a year: later deadlines could not be represented.
const REAL_TIME_CEILING: Duration = Duration::from_hours(365 * 24);

/// The bounds and time-outs of a runtime. Every queue is bounded; each default says why that number.
///
/// A value out of its range is [`StartError::InvalidSetting`](crate::StartError::InvalidSetting) when the runtime starts.
///
/// ```
/// use std::time::Duration;
/// use user_state_runtime::Settings;
///
/// let settings = Settings::default()
///     .idle_timeout(Duration::from_secs(60))
///     .live_entities_max(10_000);
/// assert_eq!(settings.live_entities_max, 10_000);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Settings {
    /// An entity without a message for this long passivates; reaching it counts. Default 30 minutes. With
    /// [`Duration::MAX`] entities leave for the limit on live ones only.
    pub idle_timeout: Duration,
    /// How many shards there are, and whether a caller chose that.
    pub(crate) shards: usize,
    shards_are_chosen: bool,
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
            shards_are_chosen: false,
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

/// One setter for each of these fields.
macro_rules! setters {
    ($($name:ident: $kind:ty),+ $(,)?) => {
        $(
            #[doc = concat!("Sets [`", stringify!($name), "`](field@Self::", stringify!($name), ").")]
            #[must_use]
            pub fn $name(mut self, $name: $kind) -> Self {
                self.$name = $name;
                self
            }
        )+
    };
}

impl Settings {
    setters! {
        idle_timeout: Duration,
        live_entities_max: usize,
        mailbox_messages_max: usize,
        entity_requests_max: usize,
        shard_requests_max: usize,
        admission_requests_max: usize,
        batch_rows_max: usize,
        batch_bytes_max: usize,
        batches_in_flight_max: usize,
        loads_in_flight_max: usize,
        resolve_timeout: Duration,
        resolve_interval: Duration,
        advance_timeout: Duration,
        shutdown_timeout: Duration,
        lifecycle_events_max: usize,
    }

    /// How many shards there are, each a task with its own entities: at most 128, and at most `live_entities_max`, since
    /// each holds at least one entity. Default: one for every two cores, within these limits, since callers and database
    /// work need about as much of the cores as entities do.
    #[must_use]
    pub fn shards(mut self, shards: usize) -> Self {
        self.shards = shards;
        self.shards_are_chosen = true;
        self
    }

    /// The settings, once each is in its range.
    ///
    /// # Errors
    /// [`InvalidSetting`] names the first that is not.
    pub(crate) fn checked(mut self) -> Result<Self, InvalidSetting> {
        InvalidSetting::unless_in("live_entities_max", self.live_entities_max, 1..)?;
        let shards_max = SHARDS_MAX.min(self.live_entities_max);
        if !self.shards_are_chosen {
            self.shards = self.shards.min(shards_max);
        }
        InvalidSetting::unless_in("shards", self.shards, 1..=shards_max)?;
        for (setting, messages) in [
            ("mailbox_messages_max", self.mailbox_messages_max),
            ("lifecycle_events_max", self.lifecycle_events_max),
        ] {
            InvalidSetting::unless_in(setting, messages, 1..=QUEUE_CEILING)?;
        }
        for (setting, value) in [
            ("entity_requests_max", self.entity_requests_max),
            ("shard_requests_max", self.shard_requests_max),
            ("admission_requests_max", self.admission_requests_max),
            ("batches_in_flight_max", self.batches_in_flight_max),
            ("loads_in_flight_max", self.loads_in_flight_max),
        ] {
            InvalidSetting::unless_in(setting, value, 1..)?;
        }
        InvalidSetting::unless_in("batch_rows_max", self.batch_rows_max, 1..=BATCH_ROWS_MAX)?;
        InvalidSetting::unless_in("batch_bytes_max", self.batch_bytes_max, 1..=BATCH_BYTES_MAX)?;
        for (setting, time) in [
            ("resolve_timeout", self.resolve_timeout),
            ("resolve_interval", self.resolve_interval),
            ("advance_timeout", self.advance_timeout),
            ("shutdown_timeout", self.shutdown_timeout),
        ] {
            InvalidSetting::unless_in(setting, time, ..=REAL_TIME_CEILING)?;
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A setting with its setter.
    type Named<T> = (&'static str, fn(Settings, T) -> Settings);

    fn refused(settings: Settings) -> String {
        settings.checked().unwrap_err().to_string()
    }

    #[test]
    fn the_defaults_are_in_their_ranges_whatever_the_machine() {
        let one = Settings::default().live_entities_max(1).checked().unwrap();
        assert_eq!(one.shards, 1, "each shard holds at least one entity");
        let large = Settings {
            shards: 1_000,
            ..Settings::default()
        };
        assert_eq!(large.checked().unwrap().shards, SHARDS_MAX);
    }

    #[test]
    fn a_number_of_shards_that_was_chosen_is_used_or_refused() {
        for shards in [1, 2, SHARDS_MAX] {
            let settings = Settings::default().shards(shards).checked().unwrap();
            assert_eq!(settings.shards, shards);
        }
        for shards in [0, SHARDS_MAX + 1] {
            assert_eq!(
                refused(Settings::default().shards(shards)),
                format!("shards is {shards}, it must be between 1 and 128")
            );
        }
        assert_eq!(
            refused(Settings::default().live_entities_max(2).shards(3)),
            "shards is 3, it must be between 1 and 2"
        );
    }

    #[test]
    fn a_limit_that_leaves_no_room_is_refused() {
        let limits: [Named<usize>; 6] = [
            ("live_entities_max", Settings::live_entities_max),
            ("entity_requests_max", Settings::entity_requests_max),
            ("shard_requests_max", Settings::shard_requests_max),
            ("admission_requests_max", Settings::admission_requests_max),
            ("batches_in_flight_max", Settings::batches_in_flight_max),
            ("loads_in_flight_max", Settings::loads_in_flight_max),
        ];
        for (setting, set) in limits {
            let refused = refused(set(Settings::default(), 0));
            assert_eq!(refused, format!("{setting} is 0, it must be at least 1"));
        }
    }

    #[test]
    fn a_limit_out_of_its_range_is_refused_and_its_ends_are_not() {
        let limits: [(Named<usize>, usize); 4] = [
            (
                ("mailbox_messages_max", Settings::mailbox_messages_max),
                QUEUE_CEILING,
            ),
            (
                ("lifecycle_events_max", Settings::lifecycle_events_max),
                QUEUE_CEILING,
            ),
            (("batch_rows_max", Settings::batch_rows_max), BATCH_ROWS_MAX),
            (
                ("batch_bytes_max", Settings::batch_bytes_max),
                BATCH_BYTES_MAX,
            ),
        ];
        for ((setting, set), most) in limits {
            for value in [0, most + 1] {
                assert_eq!(
                    refused(set(Settings::default(), value)),
                    format!("{setting} is {value}, it must be between 1 and {most}")
                );
            }
            for value in [1, most] {
                assert!(
                    set(Settings::default(), value).checked().is_ok(),
                    "{setting}"
                );
            }
        }
    }

    #[test]
    fn a_time_out_of_more_than_a_year_is_refused() {
        let long = REAL_TIME_CEILING + Duration::from_secs(1);
        let times: [Named<Duration>; 4] = [
            ("resolve_timeout", Settings::resolve_timeout),
            ("resolve_interval", Settings::resolve_interval),
            ("advance_timeout", Settings::advance_timeout),
            ("shutdown_timeout", Settings::shutdown_timeout),
        ];
        for (setting, set) in times {
            assert_eq!(
                refused(set(Settings::default(), long)),
                format!("{setting} is 31536001s, it must be at most 31536000s")
            );
            let longest = set(Settings::default(), REAL_TIME_CEILING);
            assert!(longest.checked().is_ok(), "{setting}");
        }
        let never = Settings::default().idle_timeout(Duration::MAX).checked();
        assert!(never.is_ok(), "it saturates");
    }
}
