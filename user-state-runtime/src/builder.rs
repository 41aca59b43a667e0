//! Configuring and starting a runtime.

use std::fmt;
use std::sync::Arc;

use cqrs_es::Aggregate;
use user_state_store::{DeleteForm, StateMapping, Store, TAGS_MAX, Writers};

use crate::context::Context;
use crate::error::StartError;
use crate::lifecycle::Publisher;
use crate::live_aggregate::LiveAggregate;
use crate::persistence::DurableState;
use crate::policy::ConflictPolicy;
use crate::running::{Running, Source};
use crate::runtime::Runtime;
use crate::settings::Settings;
use crate::shard::UserHands;
use crate::stats::ShardCounters;
use crate::time_source::TimeSource;

/// A runtime about to be started; made by [`Runtime::builder`] or `Runtime::for_users`.
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
/// let settings = Settings::default()
///     .idle_timeout(Duration::from_mins(5))
///     .live_entities_max(10_000);
/// let seoul = UserStateMapping::new().zone(Tz::Asia__Seoul);
/// let runtime = Runtime::for_users_as(&store, seoul)
///     .settings(settings)
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
    time: TimeSource,
    settings: Settings,
}

impl<A: LiveAggregate> Runtime<A> {
    /// A runtime about to be configured: where states are kept, in which form, and what handlers may call.
    pub fn builder(
        store: impl Into<Store>,
        mapping: impl StateMapping<A>,
        services: A::Services,
    ) -> RuntimeBuilder<A> {
        RuntimeBuilder::new(store.into(), Arc::new(mapping), Arc::new(services))
    }
}

impl<A: LiveAggregate> RuntimeBuilder<A> {
    fn new(store: Store, mapping: Arc<dyn StateMapping<A>>, services: Arc<A::Services>) -> Self {
        Self {
            store,
            mapping,
            services,
            conflict_policy: ConflictPolicy::fail(),
            delete_form: DeleteForm::default(),
            writers: Writers::Shared,
            time: TimeSource::default(),
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

    /// Where time is read: a [`Clock`](crate::Clock), or the test kit's `ManualTime`. Default
    /// [`SystemClock`](crate::SystemClock).
    pub fn clock(mut self, time: impl Into<TimeSource>) -> Self {
        self.time = time.into();
        self
    }

    /// The bounds and time-outs.
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// Starts the shards on the current tokio runtime. Does no I/O.
    ///
    /// # Errors
    /// When a setting is out of its range, the mapping gives too many tags, or there is no tokio runtime.
    pub fn start(self) -> Result<Runtime<A>, StartError> {
        tokio::runtime::Handle::try_current().map_err(|_| StartError::NoTokioRuntime)?;
        let settings = self.settings.checked()?;
        let tags = self.mapping.tags();
        if tags.len() > TAGS_MAX {
            return Err(StartError::TooManyTags { tags: tags.len() });
        }
        let source = Source {
            store: self.store.clone(),
            mapping: Arc::clone(&self.mapping),
        };
        let context = Context {
            lifecycle: Publisher::new(settings.lifecycle_events_max),
            counters: ShardCounters::new(settings.shards, A::TYPE),
            settings,
            clock: self.time.clock(),
        };
        let hands = UserHands::new(self.services, self.conflict_policy);
        let persistence = DurableState {
            store: Arc::clone(self.store.states()),
            mapping: self.mapping,
            tags,
            delete_form: self.delete_form,
            writers: self.writers,
        };
        let running = Running::start(context, &hands, persistence, source);
        self.time.attach(|| running.barrier());
        Ok(Runtime::of(running))
    }
}

impl<A: Aggregate> fmt::Debug for RuntimeBuilder<A> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "RuntimeBuilder({}, {:?}, {:?})",
            A::TYPE,
            self.delete_form,
            self.conflict_policy
        )
    }
}
