//! What all settings have in common: how they are set, and what is said of one that is out of its range.
//!
//! **Guarantees.** A value is used as it was given, or refused when the store, the feed or the runtime opens. None is
//! brought into its range silently.

use std::fmt::{Debug, Write as _};
use std::ops::{Bound, RangeBounds};

/// A setting that is out of its range: which one, its value, and what it may be.
///
/// ```
/// use std::time::Duration;
/// use user_state_store::{FeedSettings, InvalidSetting};
///
/// let settings = FeedSettings::default().buffer_size(10);
/// let error = settings.validate().unwrap_err();
/// assert_eq!(error.setting, "buffer_size");
/// assert_eq!(error.to_string(), "buffer_size is 10, it must be between 501 and 50000");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{setting} is {value}, it must be {allowed}")]
#[non_exhaustive]
pub struct InvalidSetting {
    /// The setting.
    pub setting: &'static str,
    /// The value that was given.
    pub value: Box<str>,
    /// What it may be.
    pub allowed: Box<str>,
}

impl InvalidSetting {
    /// Refuses a value for a reason that no range tells.
    pub fn new(setting: &'static str, value: impl Debug, allowed: &str) -> Self {
        Self {
            setting,
            value: format!("{value:?}").into(),
            allowed: allowed.into(),
        }
    }

    /// Refuses a value outside of a range; for the settings of what is built on a store.
    ///
    /// ```
    /// use user_state_store::InvalidSetting;
    ///
    /// assert_eq!(InvalidSetting::unless_in("shards", 2, 1..=128), Ok(()));
    /// let error = InvalidSetting::unless_in("shards", 0, 1..).unwrap_err();
    /// assert_eq!(error.to_string(), "shards is 0, it must be at least 1");
    /// ```
    ///
    /// # Errors
    /// When the value is not in the range.
    pub fn unless_in<T: PartialOrd + Debug>(
        setting: &'static str,
        value: T,
        range: impl RangeBounds<T>,
    ) -> Result<(), Self> {
        if range.contains(&value) {
            return Ok(());
        }
        Err(Self::new(setting, value, &described(&range)))
    }
}

/// A range in words.
fn described<T: Debug>(range: &impl RangeBounds<T>) -> String {
    let mut words = String::new();
    let written = match (range.start_bound(), range.end_bound()) {
        (Bound::Included(least), Bound::Included(most)) => {
            write!(words, "between {least:?} and {most:?}")
        }
        (Bound::Included(least), _) => write!(words, "at least {least:?}"),
        (_, Bound::Included(most)) => write!(words, "at most {most:?}"),
        (_, Bound::Excluded(end)) => write!(words, "less than {end:?}"),
        _ => write!(words, "in its range"),
    };
    written.map_or_else(|_| "in its range".to_owned(), |()| words)
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

pub(crate) use setters;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_refusal_names_the_setting_the_value_and_what_it_may_be() {
        let timeout =
            InvalidSetting::unless_in("timeout", Duration::from_millis(5), ..=Duration::ZERO);
        assert_eq!(
            timeout.unwrap_err().to_string(),
            "timeout is 5ms, it must be at most 0ns"
        );
        let rows = InvalidSetting::unless_in("rows", 7, 1..=6).unwrap_err();
        assert_eq!(rows.to_string(), "rows is 7, it must be between 1 and 6");
        assert_eq!(&*rows.value, "7");
    }

    #[test]
    fn the_ends_of_a_range_are_in_it() {
        for value in [1, 6] {
            assert_eq!(InvalidSetting::unless_in("rows", value, 1..=6), Ok(()));
        }
    }
}
