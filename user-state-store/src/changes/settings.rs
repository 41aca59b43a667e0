//! How a live feed looks for changes.

use std::time::Duration;

use super::PAGE_ROWS;
use crate::settings::{InvalidSetting, setters};
use crate::store::BATCH_ROWS_MAX;

/// The longest time of a setting, a year: later deadlines could not be represented.
const TIME_MAX: Duration = Duration::from_hours(365 * 24);

/// The shortest wait: one that is shorter would ask the database without a pause.
const WAIT_MIN: Duration = Duration::from_millis(1);

/// The most rows of a page: a hundred batches, far more than a page of 8 MiB usually has.
const BUFFER_SIZE_MAX: usize = BATCH_ROWS_MAX * 100;

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
/// let settings = FeedSettings::default()
///     .refresh_interval(Duration::from_secs(1))
///     .backtracking_window(Duration::from_mins(5));
/// assert!(settings.validate().is_ok());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
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
    pub buffer_size: usize,
    /// How many entities' latest told revision the feed remembers, so as not to tell it again. Default 100,000, about
    /// 15 MB when all are in use. With more entities than that in `backtracking_window`, changes come repeatedly.
    pub remembered_max: usize,
    /// How long the feed waits after an error. Default 100 ms; twice as long after each further one in a row.
    pub min_backoff: Duration,
    /// The longest wait after an error. Default 10 s.
    pub max_backoff: Duration,
}

impl Default for FeedSettings {
    fn default() -> Self {
        Self {
            refresh_interval: Duration::from_secs(3),
            behind_current_time: Duration::from_millis(100),
            backtracking_window: Duration::from_mins(2),
            buffer_size: PAGE_ROWS.get(),
            remembered_max: 100_000,
            min_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(10),
        }
    }
}

impl FeedSettings {
    setters! {
        refresh_interval: Duration,
        behind_current_time: Duration,
        backtracking_window: Duration,
        buffer_size: usize,
        remembered_max: usize,
        min_backoff: Duration,
        max_backoff: Duration,
    }

    /// Whether each setting is in its range. A feed checks that itself before it begins.
    ///
    /// # Errors
    /// [`InvalidSetting`] names the first that is not.
    pub fn validate(&self) -> Result<(), InvalidSetting> {
        InvalidSetting::unless_in(
            "refresh_interval",
            self.refresh_interval,
            WAIT_MIN..=TIME_MAX,
        )?;
        InvalidSetting::unless_in("behind_current_time", self.behind_current_time, ..=TIME_MAX)?;
        InvalidSetting::unless_in("backtracking_window", self.backtracking_window, ..=TIME_MAX)?;
        InvalidSetting::unless_in("min_backoff", self.min_backoff, WAIT_MIN..=TIME_MAX)?;
        InvalidSetting::unless_in("max_backoff", self.max_backoff, self.min_backoff..=TIME_MAX)?;
        let looks_back = self.backtracking_window > Duration::ZERO;
        if looks_back && self.backtracking_window < self.behind_current_time {
            return Err(InvalidSetting::new(
                "backtracking_window",
                self.backtracking_window,
                &format!(
                    "0 or at least behind_current_time, {:?}",
                    self.behind_current_time
                ),
            ));
        }
        // A batch's rows share their time and should be on one page.
        let rows = BATCH_ROWS_MAX + 1..=BUFFER_SIZE_MAX;
        InvalidSetting::unless_in("buffer_size", self.buffer_size, rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const YEAR_AND_A_DAY: Duration = Duration::from_hours(366 * 24);

    fn refused(settings: &FeedSettings) -> String {
        settings.validate().unwrap_err().to_string()
    }

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(FeedSettings::default().validate(), Ok(()));
    }

    #[test]
    fn looking_back_can_be_switched_off() {
        let settings = FeedSettings::default().backtracking_window(Duration::ZERO);
        assert_eq!(settings.validate(), Ok(()));
    }

    #[test]
    fn the_limits_of_a_page_are_allowed() {
        for rows in [BATCH_ROWS_MAX + 1, BUFFER_SIZE_MAX] {
            assert_eq!(FeedSettings::default().buffer_size(rows).validate(), Ok(()));
        }
    }

    #[test]
    fn a_setting_out_of_its_range_is_refused_with_its_name_value_and_range() {
        let default = FeedSettings::default;
        let year = "31536000s";
        assert_eq!(
            refused(&default().refresh_interval(Duration::ZERO)),
            format!("refresh_interval is 0ns, it must be between 1ms and {year}")
        );
        assert_eq!(
            refused(&default().refresh_interval(YEAR_AND_A_DAY)),
            format!("refresh_interval is 31622400s, it must be between 1ms and {year}")
        );
        assert_eq!(
            refused(&default().behind_current_time(YEAR_AND_A_DAY)),
            format!("behind_current_time is 31622400s, it must be at most {year}")
        );
        assert_eq!(
            refused(&default().backtracking_window(YEAR_AND_A_DAY)),
            format!("backtracking_window is 31622400s, it must be at most {year}")
        );
        assert_eq!(
            refused(&default().backtracking_window(Duration::from_millis(99))),
            "backtracking_window is 99ms, it must be 0 or at least behind_current_time, 100ms"
        );
        assert_eq!(
            refused(&default().min_backoff(Duration::ZERO)),
            format!("min_backoff is 0ns, it must be between 1ms and {year}")
        );
        assert_eq!(
            refused(&default().max_backoff(Duration::from_millis(99))),
            format!("max_backoff is 99ms, it must be between 100ms and {year}")
        );
        for rows in [0, BATCH_ROWS_MAX, BUFFER_SIZE_MAX + 1] {
            assert_eq!(
                refused(&default().buffer_size(rows)),
                format!("buffer_size is {rows}, it must be between 501 and 50000")
            );
        }
    }
}
