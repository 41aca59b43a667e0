//! A shard: one task that owns a part of the live entities.
//!
//! The loop here only waits for the next input and hands it to the [`Core`], which decides what
//! follows and in which order; [`Rim`] carries out what it asks for.

use std::sync::Arc;

use cqrs_es::Aggregate;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::clock::Moment;
use crate::context::Context;
use crate::effects::{AggregateOf, Effects, Handled, KnownOf, LostOf};
use crate::live_aggregate::LiveAggregate;
use crate::persistence::{Key, Outcomes, Recovery, Resolution, Storage};
use crate::real_time::RealTime;
use crate::reply::{BarrierReply, Reply};
use crate::request::Message;

mod admission;
mod batching;
mod core;
mod database;
mod delivery;
mod entities;
mod hands;
mod limits;
mod passivation;
mod rim;
#[cfg(test)]
mod simulation;

use self::core::Core;
pub(crate) use hands::UserHands;
use limits::Limits;
use rim::Rim;

/// The most messages a shard takes from its mailbox in one turn: enough to fill a batch, few enough that
/// finished database work is not kept waiting.
const MAIL_PER_TURN_MAX: usize = 1_024;

/// How many turns of the scheduler in a row a shard waits in vain for those it has just answered.
const TURNS_MISSED_MAX: usize = 3;

/// What comes through the mailbox of a shard of this aggregate.
pub(crate) type ShardMail<A> = Mail<A, Reply<A>, BarrierReply>;

/// What comes through a mailbox; `T` is where the answer of a request goes, `B` that of a barrier.
pub(crate) enum Mail<A: Aggregate, T, B> {
    /// A request to an entity.
    Request(Message<A, T>),
    /// A clock that is moved by hand has reached this moment; answered when the shard has caught up.
    Advance { to: Moment, ticket: B },
}

type MailOf<E> = Mail<AggregateOf<E>, <E as Effects>::Ticket, <E as Effects>::BarrierTicket>;
type Recovered<E> = Vec<(Key, Recovery<AggregateOf<E>, KnownOf<E>>)>;
type Resolved<E> = Vec<(Key, Resolution<KnownOf<E>, LostOf<E>>)>;

/// What happens to a core.
enum Input<'a, E: Effects> {
    /// Mail has come.
    Mail(&'a mut Vec<MailOf<E>>),
    /// The mailbox is closed and empty.
    MailboxEmpty,
    /// None of those that were just answered has come back.
    NobodyReturned,
    /// The runtime shuts down: what was accepted is finished until this time.
    ShutDown { until: RealTime },
    /// Entities were loaded, or could not be.
    Recovered(Recovered<E>),
    /// Writes of a batch have their outcomes.
    Written(Report<E>),
    /// An attempt to resolve writes has finished.
    Resolved(Resolved<E>),
    /// A handler that waited for something has finished.
    Handled(Key, Handled<AggregateOf<E>>),
    /// The runtime's clock has reached this moment.
    ClockReached(Moment),
    /// The core's real deadline has passed.
    RealTimeReached,
}

/// What has become of writes of a batch, of all of them in the common case.
struct Report<E: Effects> {
    outcomes: Outcomes<KnownOf<E>, LostOf<E>>,
    /// How many rows the batch had, in the report that ends its turn; 0 in every other.
    ///
    /// That is the first report after which what is left waits for somebody else, or nothing is left.
    rows_freed: usize,
}

/// What a core waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Any input.
    Wait,
    /// Callers were just answered and often ask again at once: mail that comes without waiting, or the
    /// word that nobody returned.
    LetReturn,
    /// Nothing: the shard has ended.
    Finished,
}

/// Runs a shard until its mailbox is closed and everything accepted is answered, or until the real time
/// that `ending` gives.
pub(crate) async fn run<A: LiveAggregate, P: Storage<A>>(
    context: Arc<Context>,
    shard: usize,
    hands: UserHands<A>,
    persistence: Arc<P>,
    mut mailbox: mpsc::Receiver<ShardMail<A>>,
    mut ending: watch::Receiver<Option<Instant>>,
) {
    let mut core = Core::new(Limits::from(&context.settings), context.clock.now());
    let mut rim = Rim::new(context, shard, hands, persistence);
    let mut mail = Vec::with_capacity(MAIL_PER_TURN_MAX);
    let mut idle_timer: Option<BoxFuture<'static, ()>> = None;
    let mut step = Step::Wait;
    while step != Step::Finished {
        let room = core.mail_room().min(MAIL_PER_TURN_MAX);
        let input = if step == Step::LetReturn {
            returning(&mut mailbox, &mut mail, room).await
        } else {
            if idle_timer.is_none() && !core.has_more_due() {
                idle_timer = core.next_idle_time().map(|moment| rim.sleep(moment));
            }
            let deadline = core.real_deadline().map(|deadline| rim.instant(deadline));
            tokio::select! {
                came = mailbox.recv_many(&mut mail, room), if room > 0 => received(&mut mail, came),
                Ok(()) = ending.changed() => match *ending.borrow_and_update() {
                    Some(until) => Input::ShutDown { until: rim.real_time(until) },
                    None => continue,
                },
                Some(input) = rim.work.join_next() => database::input(input),
                report = rim.early.next() => Input::Written(report),
                Some((key, handled)) = rim.handlers.next() => Input::Handled(key, handled),
                () = wait(&mut idle_timer), if idle_timer.is_some() => {
                    idle_timer = None;
                    Input::ClockReached(rim.clock_now())
                }
                () = until(deadline), if deadline.is_some() => Input::RealTimeReached,
            }
        };
        let now = rim.clock();
        step = core.step(input, now, &mut rim);
        if core.closes_mailbox() {
            mailbox.close();
        }
    }
    // If time was over before the mailbox was empty, whatever is left in it is refused.
    mailbox.close();
    while let Some(mail) = mailbox.recv().await {
        core.refuse(mail, &mut rim);
    }
}

fn received<E: Effects>(mail: &mut Vec<MailOf<E>>, came: usize) -> Input<'_, E> {
    if came == 0 {
        Input::MailboxEmpty
    } else {
        Input::Mail(mail)
    }
}

/// The mail of those that were just answered, which often ask again at once, so that the next batch has
/// them, too.
///
/// Costs no time if nobody comes: it ends when the other tasks of this thread had their turn and none
/// of them has sent anything.
async fn returning<'a, E: Effects>(
    mailbox: &mut mpsc::Receiver<MailOf<E>>,
    mail: &'a mut Vec<MailOf<E>>,
    room: usize,
) -> Input<'a, E> {
    let mut missed = 0;
    loop {
        // No waker is left in the mailbox by this, so that the turns below are not cut short by the
        // first mail.
        let receiving = tokio::task::coop::unconstrained(mailbox.recv_many(mail, room));
        match receiving.now_or_never() {
            Some(came) => return received(mail, came),
            None if missed == TURNS_MISSED_MAX => return Input::NobodyReturned,
            None => {
                missed += 1;
                tokio::task::yield_now().await;
            }
        }
    }
}

async fn until(deadline: Option<Instant>) {
    if let Some(deadline) = deadline {
        tokio::time::sleep_until(deadline).await;
    }
}

async fn wait(timer: &mut Option<BoxFuture<'static, ()>>) {
    if let Some(sleep) = timer {
        sleep.await;
    }
}
