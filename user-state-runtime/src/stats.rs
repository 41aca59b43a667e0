//! Counters of a runtime: `stats()` for programs, the `metrics` crate for dashboards.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($( #[doc = $doc:literal] $name:ident => $metric:literal, )+) => {
        /// What a runtime has done since it started, and what it holds now.
        ///
        /// A reading is not a snapshot: counters move while they are read.
        ///
        /// ```
        /// let stats = user_state_runtime::Stats::default();
        /// assert_eq!((stats.live, stats.recovered), (0, 0));
        /// ```
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        #[non_exhaustive]
        pub struct Stats {
            /// Entities in memory now.
            pub live: u64,
            $( #[doc = $doc] pub $name: u64, )+
        }

        /// The counters of one shard. In cache lines of their own: they move with every command, and processors that
        /// count in the same line wait for each other.
        #[derive(Default)]
        #[repr(align(128))]
        pub(crate) struct Counters {
            live: AtomicU64,
            $( $name: Counter, )+
        }

        impl Counters {
            /// Counters that also feed the recorder of the `metrics` crate that is installed now, under the name of the
            /// aggregate.
            fn new(aggregate: &'static str) -> Self {
                Self {
                    live: AtomicU64::new(0),
                    $( $name: Counter {
                        count: AtomicU64::new(0),
                        metric: Some(metrics::counter!($metric, "aggregate" => aggregate)),
                    }, )+
                }
            }

            /// Says to that recorder what is counted.
            fn describe() {
                $( metrics::describe_counter!($metric, metrics::Unit::Count, $doc.trim()); )+
            }

            fn add_to(&self, stats: &mut Stats) {
                stats.live += self.live.load(Ordering::Relaxed);
                $( stats.$name += self.$name.count.load(Ordering::Relaxed); )+
            }

            $( pub(crate) fn $name(&self, count: u64) { self.$name.add(count); } )+
        }
    };
}

counters! {
    /// Times an entity came to life.
    recovered => "user_state_recovered_total",
    /// Times an entity left memory, its state durable.
    passivated => "user_state_passivated_total",
    /// Commands handled; one handled again after a conflict counts again.
    commands => "user_state_commands_total",
    /// Commands that became durable.
    acknowledged => "user_state_acknowledged_total",
    /// Commands that the domain refused.
    rejected => "user_state_rejected_total",
    /// Reads answered.
    reads => "user_state_reads_total",
    /// Rows written.
    persisted => "user_state_persisted_rows_total",
    /// Batches sent.
    batches => "user_state_batches_total",
    /// Writes that met another writer's revision.
    conflicts => "user_state_conflicts_total",
    /// Requests that failed, the runtime's own to let an idle entity leave included, overload not.
    failed => "user_state_failed_total",
    /// Requests refused because a bound was reached.
    overloaded => "user_state_overloaded_total",
    /// Writes whose answer was lost.
    unknown => "user_state_unknown_total",
}

impl Counters {
    pub(crate) fn entity_entered(&self) {
        self.live.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn entity_left(&self) {
        self.live.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The counters behind [`Stats`], one of each for every shard.
pub(crate) struct ShardCounters(Vec<Arc<Counters>>);

impl ShardCounters {
    pub(crate) fn new(shards: usize, aggregate: &'static str) -> Self {
        Counters::describe();
        let counters = || Arc::new(Counters::new(aggregate));
        Self(std::iter::repeat_with(counters).take(shards).collect())
    }

    pub(crate) fn of(&self, shard: usize) -> &Arc<Counters> {
        self.0
            .get(shard)
            .unwrap_or_else(|| unreachable!("every shard has counters"))
    }

    pub(crate) fn read(&self) -> Stats {
        let mut stats = Stats::default();
        for counters in &self.0 {
            counters.add_to(&mut stats);
        }
        stats
    }
}

#[derive(Default)]
struct Counter {
    count: AtomicU64,
    metric: Option<metrics::Counter>,
}

impl Counter {
    fn add(&self, count: u64) {
        self.count.fetch_add(count, Ordering::Relaxed);
        if let Some(metric) = &self.metric {
            metric.increment(count);
        }
    }
}
