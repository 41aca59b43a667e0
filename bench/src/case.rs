//! The work: what is measured, with how many callers and users.

/// One point of a work: a row of the table for each contender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Case {
    /// The name that a user chooses it by.
    pub(crate) work: &'static str,
    pub(crate) kind: Kind,
    pub(crate) callers: usize,
    /// How many users are asked for.
    pub(crate) users: usize,
    /// How many users there are.
    pub(crate) population: usize,
}

/// What callers do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A random command on a random user, until it is durable.
    Write,
    /// Three reads for each command, popular users more often.
    Mix,
    /// The state of a random user.
    Read,
    /// The state of every user, none of whom is in memory.
    Recover,
    /// Nothing: a million idle users leave memory, and a few others are watched.
    Passivate,
    /// Nothing: users are in memory, and it is weighed.
    Memory,
    /// Commands at this percentage of the rate that closed-loop callers reach, answered or not.
    Latency { percent: u32 },
    /// The states of random users, this many each second, answered or not.
    ReadRate { per_second: u32 },
    /// One command, from the start of the process on.
    StartUp,
    /// Writes by the batch, while somebody else holds the rows of so many other users locked.
    Held { rows: usize },
    /// Nothing: every user's latest state is read in the order of its time.
    Feed,
    /// The same on a SQLite file.
    Sqlite(Embedded),
}

/// What callers do to a SQLite file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Embedded {
    /// As [`Kind::Write`].
    Write,
    /// One command for each of so many users who have no row yet.
    Create,
    /// As [`Kind::Recover`].
    Recover,
}

/// The users of most works.
const USERS: usize = 100_000;

/// The users of works about memory.
const MEMORY_USERS: usize = 1_000_000;

/// The users of `huge-feed`.
const HUGE_FEED_USERS: usize = 10_000_000;

/// The work that takes minutes, and is done only if it is named.
const HUGE_FEED: &str = "huge-feed";

/// The users of `hot`.
const HOT_USERS: usize = 100;

/// The writes on their way in the works about held rows, each of a user whom nobody holds.
const HELD_CALLERS: usize = 200;

/// Whose rows are held is beside these.
const HELD_USERS: usize = 10_000;

/// The callers of the works that are about something else.
const CALLERS: usize = 1_000;

/// The callers of `read`: enough to keep every core busy, few enough that the time of an answer is not queueing.
const READING_CALLERS: usize = 64;

/// The rate of `reads-100k`.
const READS_PER_SECOND: u32 = 100_000;

/// "All at once", and the callers of `hot`: more than any pool has connections, and what the runtime's default settings
/// are made for.
const MANY_CALLERS: usize = 10_000;

/// Who is measured beside held rows.
pub(crate) const HELD_CONTENDER: &str = "store";

/// Who is measured on a SQLite file.
pub(crate) const SQLITE_CONTENDERS: [&str; 2] = ["user-state", "raw-sqlite"];

/// What `--quick` measures, in this order.
const QUICK: [&str; 7] = [
    "write-1000",
    "write-64",
    "write-1",
    "hot",
    "read",
    "recover",
    "memory",
];

impl Case {
    const fn new(work: &'static str, kind: Kind, callers: usize, users: usize) -> Self {
        let population = match kind {
            Kind::Passivate | Kind::Memory | Kind::Feed => users,
            _ if users > USERS => users,
            _ => USERS,
        };
        Self {
            work,
            kind,
            callers,
            users,
            population,
        }
    }

    const fn of_population(mut self, population: usize) -> Self {
        self.population = population;
        self
    }

    /// The only contenders that this is about; `None` where it is about all.
    pub(crate) fn only(self) -> Option<&'static [&'static str]> {
        match self.kind {
            Kind::Held { .. } => Some(&[HELD_CONTENDER]),
            Kind::Sqlite(_) => Some(&SQLITE_CONTENDERS),
            _ => None,
        }
    }

    /// The same with at most this many users.
    fn limited(mut self, users_max: usize) -> Self {
        self.users = self.users.min(users_max);
        self.population = self.population.min(users_max);
        self
    }
}

/// Every case there is.
pub(crate) fn all() -> Vec<Case> {
    let mut cases = vec![
        Case::new("write-1", Kind::Write, 1, USERS),
        Case::new("write-64", Kind::Write, 64, USERS),
        Case::new("write-1000", Kind::Write, CALLERS, USERS),
        Case::new("write-10000", Kind::Write, MANY_CALLERS, USERS),
        Case::new("mix", Kind::Mix, CALLERS, USERS),
        Case::new("hot", Kind::Write, MANY_CALLERS, HOT_USERS),
        Case::new("read", Kind::Read, READING_CALLERS, USERS),
        Case::new(
            "reads-100k",
            Kind::ReadRate {
                per_second: READS_PER_SECOND,
            },
            0,
            USERS,
        ),
        Case::new("trickle", Kind::Recover, 1, USERS),
        Case::new("recover", Kind::Recover, MANY_CALLERS, USERS),
        Case::new("latency-25", Kind::Latency { percent: 25 }, CALLERS, USERS),
        Case::new("latency-50", Kind::Latency { percent: 50 }, CALLERS, USERS),
        Case::new("latency-75", Kind::Latency { percent: 75 }, CALLERS, USERS),
        Case::new("start-up", Kind::StartUp, 1, USERS),
        Case::new("memory", Kind::Memory, 0, MEMORY_USERS),
        Case::new("passivate", Kind::Passivate, 0, MEMORY_USERS),
        Case::new("feed", Kind::Feed, 0, USERS),
        Case::new("feed", Kind::Feed, 0, MEMORY_USERS),
        Case::new(HUGE_FEED, Kind::Feed, 0, HUGE_FEED_USERS),
    ];
    for (work, rows) in [
        ("held-1", 1),
        ("held-2", 2),
        ("held-4", 4),
        ("held-20", 20),
        ("held-500", 500),
    ] {
        cases.push(Case::new(
            work,
            Kind::Held { rows },
            HELD_CALLERS,
            HELD_USERS,
        ));
    }
    for (work, embedded, callers) in [
        ("sqlite-1000", Embedded::Write, CALLERS),
        ("sqlite-64", Embedded::Write, 64),
        ("sqlite-create", Embedded::Create, CALLERS),
        ("sqlite-recover", Embedded::Recover, MANY_CALLERS),
    ] {
        cases.push(Case::new(work, Kind::Sqlite(embedded), callers, USERS));
    }
    for callers in [1, 10, 100, 1_000, 10_000] {
        cases.push(Case::new("scale-callers", Kind::Write, callers, USERS));
    }
    for users in [1_000, 10_000, 100_000, 1_000_000] {
        cases.push(Case::new("scale-users", Kind::Write, CALLERS, users).of_population(users));
    }
    cases
}

/// The cases that are asked for: those of these names, else the quick ones, else all.
///
/// # Errors
/// The name that no work has.
pub(crate) fn chosen(names: &[String], quick: bool, users_max: usize) -> Result<Vec<Case>, String> {
    let all = all();
    for name in names {
        if !all.iter().any(|case| is_named(case.work, name)) {
            return Err(name.clone());
        }
    }
    let cases: Vec<Case> = if !names.is_empty() {
        all.into_iter()
            .filter(|case| names.iter().any(|name| is_named(case.work, name)))
            .collect()
    } else if quick {
        QUICK
            .iter()
            .flat_map(|name| all.iter().filter(|case| case.work == *name).copied())
            .collect()
    } else {
        all.into_iter()
            .filter(|case| case.work != HUGE_FEED)
            .collect()
    };
    let mut cases: Vec<Case> = cases
        .into_iter()
        .map(|case| case.limited(users_max))
        .collect();
    cases.dedup();
    Ok(cases)
}

/// Whether a thing of this name is meant: by the whole name, or by the part before a dash.
pub(crate) fn is_named(name: &str, asked: &str) -> bool {
    name.strip_prefix(asked)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn works(cases: &[Case]) -> Vec<&'static str> {
        cases.iter().map(|case| case.work).collect()
    }

    #[test]
    fn a_quick_run_covers_the_seven_works_that_matter_most() {
        let cases = chosen(&[], true, usize::MAX).unwrap();
        assert_eq!(works(&cases), QUICK);
    }

    #[test]
    fn a_name_chooses_its_work_and_a_beginning_all_works_that_share_it() {
        let cases = chosen(&["write".to_owned(), "hot".to_owned()], true, usize::MAX).unwrap();
        let expected = ["write-1", "write-64", "write-1000", "write-10000", "hot"];
        assert_eq!(works(&cases), expected);
        assert_eq!(
            works(&chosen(&["write-1".to_owned()], false, usize::MAX).unwrap()),
            ["write-1"]
        );
    }

    #[test]
    fn the_reads_of_callers_and_those_at_a_rate_are_chosen_apart() {
        for name in ["read", "reads"] {
            let chosen = works(&chosen(&[name.to_owned()], false, usize::MAX).unwrap());
            assert_eq!(chosen.len(), 1, "{chosen:?}");
        }
    }

    #[test]
    fn a_name_that_no_work_has_is_refused() {
        let refused = chosen(&["wirte".to_owned()], false, usize::MAX);
        assert_eq!(refused, Err("wirte".to_owned()));
    }

    #[test]
    fn fewer_users_are_fewer_in_every_case_and_no_case_is_there_twice() {
        let cases = chosen(&["scale-users".to_owned()], false, 5_000).unwrap();
        let users: Vec<_> = cases
            .iter()
            .map(|case| (case.users, case.population))
            .collect();
        assert_eq!(users, [(1_000, 1_000), (5_000, 5_000)]);
    }

    #[test]
    fn what_takes_minutes_is_done_only_if_it_is_named() {
        assert!(!works(&chosen(&[], false, usize::MAX).unwrap()).contains(&HUGE_FEED));
        let named = chosen(&[HUGE_FEED.to_owned()], false, usize::MAX).unwrap();
        assert_eq!(works(&named), [HUGE_FEED]);
    }

    #[test]
    fn growth_is_measured_over_three_orders_of_users_and_four_of_callers() {
        let cases = chosen(&["scale".to_owned()], false, usize::MAX).unwrap();
        assert!(cases.iter().any(|case| case.population == 1_000));
        assert!(cases.iter().any(|case| case.population == 1_000_000));
        assert!(cases.iter().any(|case| case.callers == 10_000));
    }
}
