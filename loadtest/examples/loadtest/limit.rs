//! How many users a runtime keeps in memory, so that a load on live users finds them there.

use std::fmt;
use std::num::NonZeroUsize;

use user_state_runtime::Settings;

/// About how much memory a live user takes in the runtime.
const BYTES_PER_USER: usize = 300;

/// The limit of live users, and who chose it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limit {
    /// The runtime's own, which is enough.
    Default(usize),
    /// The runtime's own, raised for so many users.
    Raised { users: usize, to: usize },
    /// The one that was asked for.
    Set(usize),
}

impl Limit {
    /// The one asked for, else the runtime's own, raised where so many users need more.
    ///
    /// Shards share a limit evenly, and users are not spread quite evenly over shards. Twice as much has room for all.
    pub(crate) fn of(asked: Option<NonZeroUsize>, users: usize) -> Self {
        let default = Settings::default().live_entities_max;
        let needed = users.saturating_mul(2);
        match asked {
            Some(asked) => Self::Set(asked.get()),
            None if needed <= default => Self::Default(default),
            None => Self::Raised { users, to: needed },
        }
    }

    pub(crate) fn live_entities_max(self) -> usize {
        let (Self::Default(limit) | Self::Raised { to: limit, .. } | Self::Set(limit)) = self;
        limit
    }

    /// The default settings with this limit.
    pub(crate) fn settings(self) -> Settings {
        Settings::default().live_entities_max(self.live_entities_max())
    }

    /// Whether somebody should know of it.
    pub(crate) fn is_raised(self) -> bool {
        matches!(self, Self::Raised { .. })
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limit = self.live_entities_max();
        match self {
            Self::Default(_) => write!(formatter, "live_entities_max is {limit}, the default"),
            Self::Set(_) => write!(formatter, "live_entities_max is {limit}, as asked for"),
            Self::Raised { users, .. } => {
                let mebibytes = users.saturating_mul(BYTES_PER_USER) >> 20;
                write!(
                    formatter,
                    "live_entities_max is raised to {limit}, so that {users} users stay in memory; \
                     they take about {mebibytes} MiB there"
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_that_fit_leave_the_limit_as_it_is() {
        let default = Settings::default().live_entities_max;
        for users in [1, default / 2] {
            assert_eq!(Limit::of(None, users), Limit::Default(default));
        }
    }

    #[test]
    fn users_beyond_the_limit_raise_it_and_are_told_of_that_and_its_price() {
        let users = 2 * Settings::default().live_entities_max;
        let limit = Limit::of(None, users);
        assert_eq!(limit.live_entities_max(), 2 * users);
        assert_eq!(limit.settings().live_entities_max, 2 * users);
        assert!(limit.is_raised());
        let text = limit.to_string();
        assert!(text.contains(&format!("raised to {}", 2 * users)), "{text}");
        assert!(text.contains("572 MiB"), "{text}");
    }

    #[test]
    fn a_limit_that_was_asked_for_stays_whatever_the_number_of_users() {
        for users in [1, 10_000_000] {
            let limit = Limit::of(NonZeroUsize::new(7), users);
            assert_eq!(limit, Limit::Set(7));
            assert_eq!(limit.settings().live_entities_max, 7);
        }
    }
}
