//! Goal: an application whose clock runs in a zone, and a mapping that is told the same zone, mean the same instants; with
//! two zones every instant is off by their difference, and nothing else is.
//! Method: a Java virtual machine in Asia/Seoul writes and reads users beside our runtime, at instants with and without
//! summer time, on both sides of its changes, and down to the nanosecond. Java itself says which instants its local times
//! are.

use chrono::{DateTime, TimeDelta, Utc};
use user_state_domain::{UserCommand, UserKey, UserState};
use user_state_interop::{
    Case, Instant, Live, NodeOptions, PeerOptions, PekkoNode, Seen, TestResult,
};
use user_state_runtime::Runtime;
use user_state_store::{Tz, UserStateMapping};

use crate::live::user::second;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::live("in_one_zone_both_sides_mean_the_same_instants", one_zone),
        Case::live(
            "in_two_zones_every_instant_is_off_by_their_difference_and_nothing_else",
            two_zones,
        ),
    ]
}

const SEOUL: &str = "Asia/Seoul";

/// Each with the instant that is recovered. Seoul had summer time in 1987 and 1988: on 9 October 1988 the local time from
/// 02:00 to 03:00 came twice, and its second coming is recovered as its first, by Java as by us.
const INSTANTS: [(&str, &str); 9] = [
    ("2026-03-04T05:06:07Z", "2026-03-04T05:06:07Z"),
    (
        "2026-12-31T14:59:59.999999999Z",
        "2026-12-31T14:59:59.999999999Z",
    ),
    ("2026-12-31T15:00:00Z", "2026-12-31T15:00:00Z"),
    ("1969-12-31T23:59:59.000001Z", "1969-12-31T23:59:59.000001Z"),
    ("1988-05-07T16:59:59Z", "1988-05-07T16:59:59Z"),
    ("1988-05-07T17:00:00Z", "1988-05-07T17:00:00Z"),
    ("1988-07-01T00:00:00.5Z", "1988-07-01T00:00:00.5Z"),
    ("1988-10-08T16:30:00Z", "1988-10-08T16:30:00Z"),
    ("1988-10-08T17:30:00Z", "1988-10-08T16:30:00Z"),
];

async fn in_seoul(live: &Live) -> Result<PekkoNode, user_state_interop::AnyError> {
    let machine = live.own_peer(&PeerOptions {
        zone: SEOUL.to_owned(),
        ..PeerOptions::default()
    })?;
    PekkoNode::open(machine, &live.database, &NodeOptions::default()).await
}

/// The instants that Java takes a state's local times for: last login, last use of the cart, last event.
fn java(seen: &Seen) -> [Option<DateTime<Utc>>; 3] {
    let instants = seen.instants.unwrap_or_default();
    instants.map(|instant| instant.map(|Instant(at)| at))
}

/// The same instants of a state of ours.
fn ours(state: &UserState) -> [Option<DateTime<Utc>>; 3] {
    [state.last_login, state.last_cart_used, state.last_event_at]
}

async fn one_zone(live: Live) -> TestResult {
    let pekko = in_seoul(&live).await?;
    let mapping = UserStateMapping::new().zone(Tz::Asia__Seoul);
    let writing = Runtime::for_users_as(live.store().await?, mapping.clone()).start()?;
    let reading = Runtime::for_users_as(live.store().await?, mapping).start()?;
    for (number, (at, recovered)) in INSTANTS.iter().enumerate() {
        let (at, recovered) = (at.parse::<DateTime<Utc>>()?, recovered.parse()?);
        let expected = [Some(recovered), None, Some(recovered)];

        let key: UserKey = format!("mall-theirs{number}").parse()?;
        let actor = pekko.start(&key.to_string()).await?;
        assert_eq!(java(&actor.login(at).await?), expected, "{at}");
        let read = reading.user(&key).state().await?;
        assert_eq!(ours(&read.state), expected, "{at}");
        actor.stop().await?;

        let key: UserKey = format!("mall-ours{number}").parse()?;
        let user = writing.user(&key);
        user.execute(UserCommand::Login { at }).await?;
        let actor = pekko.start(&key.to_string()).await?;
        assert_eq!(java(actor.recovered()), expected, "{at}");
        let read = reading.user(&key).state().await?;
        assert_eq!(ours(&read.state), expected, "{at}");
        let later = recovered + TimeDelta::days(1);
        let continued = actor.use_cart(later).await?;
        let expected = [Some(recovered), Some(later), Some(later)];
        assert_eq!(java(&continued), expected, "{at}");
        let read = reading.user(&key).state_confirmed().await?;
        assert_eq!(ours(&read.state), expected, "{at}");
        actor.stop().await?;
    }
    Ok(())
}

/// Seoul is nine hours ahead of the zone that our mapping has, UTC.
async fn two_zones(live: Live) -> TestResult {
    let pekko = in_seoul(&live).await?;
    let runtime = live.runtime().await?;
    let ahead = TimeDelta::hours(9);
    let (theirs, mine) = (second(1), second(86_400));
    let key: UserKey = "mall-user".parse()?;
    let actor = pekko.start("mall-user").await?;
    let written = actor.login(theirs).await?;
    assert_eq!(java(&written), [Some(theirs), None, Some(theirs)]);
    actor.view("p-1", theirs).await?;
    actor.stop().await?;

    let user = runtime.user(&key);
    let read = user.state().await?;
    assert_eq!(read.revision.get(), 2);
    assert_eq!(
        ours(&read.state),
        [Some(theirs + ahead), None, Some(theirs + ahead)]
    );
    user.execute(UserCommand::UseCart { at: mine }).await?;

    let actor = pekko.start("mall-user").await?;
    let recovered = actor.recovered();
    assert_eq!(recovered.revision, 3);
    assert_eq!(
        java(recovered),
        [Some(theirs), Some(mine - ahead), Some(mine - ahead)],
        "what a side wrote it reads as it was"
    );
    let state = recovered.state.as_ref().ok_or("no state")?;
    assert_eq!(state.recent_products, ["p-1"]);
    Ok(())
}
