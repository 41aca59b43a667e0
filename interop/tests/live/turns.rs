//! Goal: each side reads what the other wrote, with every column right, and goes on from there.
//! Method: a Pekko actor and our runtime take turns on a user; after each turn the row itself is looked at too.

use chrono::{DateTime, TimeDelta, Utc};
use user_state_domain::{ProductId, UserCommand, UserKey};
use user_state_interop::{Case, Live, State, TestResult};

pub(crate) fn cases() -> Vec<Case> {
    vec![Case::live(
        "a_user_that_pekko_wrote_is_read_and_continued_here_and_pekko_reads_on",
        reads_and_continues,
    )]
}

/// This many seconds after the start of 2026.
fn second(seconds: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::seconds(1_767_225_600 + seconds)
}

async fn reads_and_continues(live: Live) -> TestResult {
    let key: UserKey = "mall-user".parse()?;
    let pekko = live.pekko().await?;
    let actor = pekko.start("mall-user").await?;
    assert_eq!(actor.recovered().revision, 0);
    actor.login(second(1)).await?;
    actor.view("p-1", second(2)).await?;
    let written = actor.opt_in(true, second(3)).await?;
    assert_eq!(written.revision, 3);
    actor.stop().await?;

    let runtime = live.runtime().await?;
    let user = runtime.user(&key);
    let read = user.state().await?;
    assert_eq!(read.revision.get(), 3);
    assert_eq!(written.state, Some(State::of(&key, &read.state)));
    let view = UserCommand::ViewProduct {
        product_id: ProductId::new("p-2"),
        at: second(4),
    };
    assert_eq!(user.execute(view).await?.get(), 4);
    let ours = user.state().await?;

    let actor = pekko.start("mall-user").await?;
    assert_eq!(actor.recovered().revision, 4);
    assert_eq!(actor.recovered().state, Some(State::of(&key, &ours.state)));
    let written = actor.use_cart(second(5)).await?;
    assert_eq!(written.revision, 5);

    let rows = live.database.rows("mall-user").await?;
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].revision, 5);
    assert_eq!(rows[0].tags, Some(vec!["user-state".to_owned()]));
    let read = user.state_confirmed().await?;
    assert_eq!(written.state, Some(State::of(&key, &read.state)));
    Ok(())
}
