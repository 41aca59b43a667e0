//! What all shards of a runtime share.

use std::fmt;
use std::sync::Arc;

use cqrs_es::Aggregate;
use user_state_store::{DeleteForm, DurableStateStore, StateMapping, Tags, Writers};

use crate::clock::Clock;
use crate::lifecycle::Publisher;
use crate::policy::ConflictPolicy;
use crate::settings::Settings;
use crate::stats::ShardCounters;

/// The configuration and collaborators of a runtime.
pub(crate) struct Context<A: Aggregate> {
    pub(crate) settings: Settings,
    pub(crate) store: Arc<dyn DurableStateStore>,
    pub(crate) mapping: Arc<dyn StateMapping<A>>,
    pub(crate) tags: Tags,
    pub(crate) services: Arc<A::Services>,
    pub(crate) conflict_policy: ConflictPolicy<A>,
    pub(crate) delete_form: DeleteForm,
    pub(crate) writers: Writers,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) counters: ShardCounters,
    pub(crate) lifecycle: Publisher,
}

impl<A: Aggregate> fmt::Debug for Context<A> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Context")
            .field("aggregate", &A::TYPE)
            .field("settings", &self.settings)
            .field("store", &self.store)
            .field("clock", &self.clock)
            .finish_non_exhaustive()
    }
}
