//! Configuring and starting a runtime.

use std::fmt;
use std::sync::Arc;

use cqrs_es::Aggregate;
use user_state_store::{DeleteForm, StateMapping, Store, TAGS_MAX, Writers};

use crate::clock::{Clock, SystemClock};
use crate::context::Context;
use crate::error::StartError;
use crate::lifecycle::Publisher;
use crate::policy::ConflictPolicy;
use crate::runtime::Runtime;
use crate::settings::Settings;
use crate::stats::ShardCounters;

/// A runtime about to be started; made by [`Runtime::builder`] or [`Runtime::for_users`].
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = tempfile::tempdir()?;
/// # let url = format!("sqlite:{}", directory.path().join("state.db").display());
/// # let store = user_state_store::connect(&url.parse()?).await?;
/// use std::time::Duration;
/// use user_state_runtime::{Runtime, Settings};
/// use user_state_store::{DeleteForm, Tz, UserStateMapping};
///
/// let seoul = UserStateMapping::new().zone(Tz::Asia__Seoul);
/// let runtime = Runtime::for_users_as(&store, seoul)
///     .settings(Settings { live_entities_max: 10_000, ..Settings::default() })
///     .idle_timeout(Duration::from_mins(5))
///     .delete_form(DeleteForm::Reset)
///     .start()?;
/// # runtime.shutdown().await?;
/// # Ok(())
/// # }
/// ```
#[must_use = "a builder does nothing before `start`"]
pub struct RuntimeBuilder<A: Aggregate> {
    store: Store,
    mapping: Arc<dyn StateMapping<A>>,
    services: Arc<A::Services>,
    conflict_policy: ConflictPolicy<A>,
    delete_form: DeleteForm,
    writers: Writers,
    clock: Option<Arc<dyn Clock>>,
    settings: Settings,
}

impl<A> RuntimeBuilder<A>
where
    A: Aggregate + Clone + 'static,
    A::Command: Send + 'static,
    A::Error: Send + Sync + 'static,
{
    pub(crate) fn new(
        store: Store,
        mapping: Arc<dyn StateMapping<A>>,
        services: Arc<A::Services>,
    ) -> Self {
        Self {
            store,
            mapping,
            services,
            conflict_policy: ConflictPolicy::fail(),
            delete_form: DeleteForm::default(),
            writers: Writers::Shared,
            clock: None,
            settings: Settings::default(),
        }
    }

    /// What becomes of commands when another writer was faster. Default: they fail; for users they are handled
    /// once more.
    pub fn conflict_policy(mut self, policy: ConflictPolicy<A>) -> Self {
        self.conflict_policy = policy;
        self
    }

    /// What deleting leaves in the table. Default [`DeleteForm::Reset`].
    pub fn delete_form(mut self, form: DeleteForm) -> Self {
        self.delete_form = form;
        self
    }

    /// Whether anybody else writes these entities. Default [`Writers::Shared`]; only where this runtime surely is the sole
    /// writer can more of the writes whose answer was lost be told as done.
    pub fn writers(mut self, writers: Writers) -> Self {
        self.writers = writers;
        self
    }

    /// Where time is read. Default [`SystemClock`].
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Some(Arc::new(clock));
        self
    }

    /// The bounds and time-outs.
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// How long an entity may be idle before it passivates. Default 30 minutes.
    pub fn idle_timeout(mut self, idle_timeout: std::time::Duration) -> Self {
        self.settings.idle_timeout = idle_timeout;
        self
    }

    /// Starts the shards on the current tokio runtime. Does no I/O.
    ///
    /// # Errors
    /// Where a limit leaves no room to work, or there is no tokio runtime.
    pub fn start(self) -> Result<Runtime<A>, StartError> {
        tokio::runtime::Handle::try_current().map_err(|_| StartError::NoTokioRuntime)?;
        let settings = self.settings.checked()?;
        let tags = self.mapping.tags();
        if tags.len() > TAGS_MAX {
            return Err(StartError::TooManyTags { tags: tags.len() });
        }
        Ok(Runtime::start(Context {
            lifecycle: Publisher::new(settings.lifecycle_events_max),
            counters: ShardCounters::new(settings.shards),
            settings,
            store: self.store.states().clone(),
            tags,
            mapping: self.mapping,
            services: self.services,
            conflict_policy: self.conflict_policy,
            delete_form: self.delete_form,
            writers: self.writers,
            clock: self.clock.unwrap_or_else(|| Arc::new(SystemClock::new())),
        }))
    }
}

impl<A: Aggregate> fmt::Debug for RuntimeBuilder<A> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("RuntimeBuilder")
            .field("aggregate", &A::TYPE)
            .field("store", &self.store)
            .field("conflict_policy", &self.conflict_policy)
            .field("delete_form", &self.delete_form)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}
