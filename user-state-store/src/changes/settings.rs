//! How a live feed looks for changes.

use std::num::NonZeroUsize;
use std::time::Duration;

use super::PAGE_ROWS;
use crate::store::BATCH_ROWS_MAX;

/// The longest time of a setting, a year: later deadlines could not be represented.
const TIME_MAX: Duration = Duration::from_hours(365 * 24);

/// How a live feed looks for changes; see [`crate::changes_by_slices`].
///
/// Names and defaults are those of Pekko's `pekko.persistence.r2dbc.query` where it has the setting. Its
/// `backtracking.behind-current-time` has no counterpart: each look back reaches over the whole window again, so what
/// is young in one is read by the next.
///
/// ```
/// use std::time::Duration;
/// use user_state_store::FeedSettings;
///
/// let settings = FeedSettings { refresh_interval: Duration::from_secs(1), ..FeedSettings::default() };
/// assert!(settings.validate().is_ok());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedSettings {
    /// How long the feed waits between looking for changes of other writers. Default 3 s. It waits half as long
    /// where the last look found more than a tenth of a page, and not at all where it found a page.
    pub refresh_interval: Duration,
    /// How far looking forward stays behind the database's time, so that transactions that run for a moment come in
    /// their order. Default 100 ms. Writes of the feed's own store do not wait for it.
    pub behind_current_time: Duration,
    /// How far looking back reaches: a transaction that commits within this time after taking its timestamp is never
    /// missed. Default 2 min. The feed looks back every half of it, so in a steady stream looking back reads every row
    /// three times. 0 switches it off: for a database where nothing commits late.
    pub backtracking_window: Duration,
    /// The most rows of a page. Default 1,000, at least one more than [`BATCH_ROWS_MAX`], so that the rows of a batch,
    /// which share their time, nearly always are on one page. A page also ends at 8 MiB of payload.
    pub buffer_size: NonZeroUsize,
    /// How many entities' latest told revision the feed remembers, so as not to tell it again. Default 100,000, about
    /// 15 MB when all are in use. With more entities than that in `backtracking_window`, changes come repeatedly.
    pub remembered_max: usize,
    /// How long the feed waits after an error. Default 100 ms; twice as long after each further one in a row.
    pub min_backoff: Duration,
    /// The longest wait after an error. Default 10 s.
    pub max_backoff: Duration,
}

/// A setting of a feed that is out of its range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("feed setting {setting} is invalid: {problem}")]
pub struct InvalidFeedSettings {
    /// The setting.
    pub setting: &'static str,
    /// What is wrong with it.
    pub problem: &'static str,
}

impl Default for FeedSettings {
    fn default() -> Self {
        Self {
            refresh_interval: Duration::from_secs(3),
            behind_current_time: Duration::from_millis(100),
            backtracking_window: Duration::from_mins(2),
            buffer_size: PAGE_ROWS,
            remembered_max: 100_000,
            min_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(10),
        }
    }
}

impl FeedSettings {
    /// Whether each setting is in its range.
    ///
    /// # Errors
    /// [`InvalidFeedSettings`] names the first that is not.
    pub fn validate(&self) -> Result<(), InvalidFeedSettings> {
        let refuse = |setting, problem| Err(InvalidFeedSettings { setting, problem });
        let times = [
            ("refresh_interval", self.refresh_interval),
            ("behind_current_time", self.behind_current_time),
            ("backtracking_window", self.backtracking_window),
            ("min_backoff", self.min_backoff),
            ("max_backoff", self.max_backoff),
        ];
        for (setting, time) in times {
            if time > TIME_MAX {
                return refuse(setting, "it must be at most a year");
            }
        }
        let millisecond = Duration::from_millis(1);
        if self.refresh_interval < millisecond {
            return refuse("refresh_interval", "it must be at least 1 ms");
        }
        if self.min_backoff < millisecond {
            return refuse("min_backoff", "it must be at least 1 ms");
        }
        if self.max_backoff < self.min_backoff {
            return refuse("max_backoff", "it must be at least min_backoff");
        }
        let looks_back = self.backtracking_window > Duration::ZERO;
        if looks_back && self.backtracking_window < self.behind_current_time {
            return refuse(
                "backtracking_window",
                "it must be 0 or at least behind_current_time",
            );
        }
        if self.buffer_size.get() <= BATCH_ROWS_MAX {
            return refuse("buffer_size", "it must be more than a batch has rows");
        }
        if self.buffer_size.get() > BATCH_ROWS_MAX * 100 {
            return refuse("buffer_size", "it must be at most 50,000 rows");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut FeedSettings)) -> &'static str {
        let mut settings = FeedSettings::default();
        change(&mut settings);
        settings.validate().unwrap_err().setting
    }

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(FeedSettings::default().validate(), Ok(()));
    }

    #[test]
    fn looking_back_can_be_switched_off() {
        let settings = FeedSettings {
            backtracking_window: Duration::ZERO,
            ..FeedSettings::default()
        };
        assert_eq!(settings.validate(), Ok(()));
    }

    #[test]
    fn a_setting_out_of_its_range_is_refused_by_name() {
        let year = Duration::from_hours(366 * 24);
        let refusals = [
            refused(|settings| settings.refresh_interval = Duration::ZERO),
            refused(|settings| settings.refresh_interval = year),
            refused(|settings| settings.behind_current_time = year),
            refused(|settings| settings.backtracking_window = Duration::from_millis(99)),
            refused(|settings| settings.min_backoff = Duration::ZERO),
            refused(|settings| settings.max_backoff = Duration::from_millis(99)),
            refused(|settings| settings.buffer_size = NonZeroUsize::new(BATCH_ROWS_MAX).unwrap()),
            refused(|settings| settings.buffer_size = NonZeroUsize::MAX),
        ];
        assert_eq!(
            refusals,
            [
                "refresh_interval",
                "refresh_interval",
                "behind_current_time",
                "backtracking_window",
                "min_backoff",
                "max_backoff",
                "buffer_size",
                "buffer_size",
            ]
        );
    }
}
