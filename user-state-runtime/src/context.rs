//! What all shards of a runtime share, whatever their aggregate and its persistence.

use std::sync::Arc;

use crate::clock::Clock;
use crate::lifecycle::Publisher;
use crate::settings::Settings;
use crate::stats::ShardCounters;

/// The configuration and collaborators of a runtime.
pub(crate) struct Context {
    pub(crate) settings: Settings,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) counters: ShardCounters,
    pub(crate) lifecycle: Publisher,
}
