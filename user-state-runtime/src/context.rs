//! What all shards of a runtime share, whatever their aggregate and its persistence.

use std::fmt;
use std::sync::Arc;

use crate::clock::Clock;
use crate::lifecycle::Publisher;
use crate::settings::Settings;
use crate::stats::ShardCounters;

/// The configuration and collaborators of a runtime.
pub(crate) struct Context {
    /// The aggregate's name, for logs.
    pub(crate) aggregate: &'static str,
    pub(crate) settings: Settings,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) counters: ShardCounters,
    pub(crate) lifecycle: Publisher,
}

impl fmt::Debug for Context {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Context")
            .field("aggregate", &self.aggregate)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}
