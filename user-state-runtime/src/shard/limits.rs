//! The bounds that a shard keeps.

use std::time::Duration;

use crate::clock::Moment;
use crate::settings::Settings;

/// A shard's part of the runtime's settings.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(super) idle_timeout: Duration,
    pub(super) live_entities_max: usize,
    pub(super) entity_requests_max: usize,
    pub(super) shard_requests_max: usize,
    pub(super) admission_requests_max: usize,
    pub(super) batch_rows_max: usize,
    pub(super) batch_bytes_max: usize,
    pub(super) batches_in_flight_max: usize,
    pub(super) loads_in_flight_max: usize,
    pub(super) resolve_timeout: Duration,
}

impl Limits {
    /// Whether an entity touched at one moment has been idle for the time-out at another; reaching it
    /// counts.
    pub(super) fn is_due(&self, touched: Moment, now: Moment) -> bool {
        touched + self.idle_timeout <= now
    }
}

impl From<&Settings> for Limits {
    fn from(settings: &Settings) -> Self {
        Self {
            idle_timeout: settings.idle_timeout,
            live_entities_max: settings.live_entities_max / settings.shards,
            entity_requests_max: settings.entity_requests_max,
            shard_requests_max: settings.shard_requests_max,
            admission_requests_max: settings.admission_requests_max,
            batch_rows_max: settings.batch_rows_max,
            batch_bytes_max: settings.batch_bytes_max,
            batches_in_flight_max: settings.batches_in_flight_max,
            loads_in_flight_max: settings.loads_in_flight_max,
            resolve_timeout: settings.resolve_timeout,
        }
    }
}

#[cfg(test)]
impl Default for Limits {
    fn default() -> Self {
        Self::from(&Settings::default().shards(1))
    }
}
