//! Which connections of a pool are proven.
//!
//! **Problem.** A pool gives out connections that this store has not opened, and sqlx does not name them. **How.** A
//! statement prepared once per connection marks it: sqlx keeps the description that the server gave, and answers a
//! later preparation from there, without the server. Whoever holds that description knows the connection again, by
//! its address. A connection that is not known again is proven once more, which costs a few round trips.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use sqlx::postgres::PgStatement;
use sqlx::{Connection as _, Executor as _, PgConnection, Statement as _};

use crate::deadline::now;
use crate::postgres::connection::{IDLE_UNTRIED_MAX, lifetime};
use crate::postgres::doubt::{Doubts, Mark};

/// The statement that marks a connection; it is prepared and never executed.
pub(in crate::postgres) const MARKER: &str = "SELECT 'user-state'";

/// The connections that were proven.
pub(super) struct Known {
    proofs: Mutex<HashMap<Address, Proof>>,
    /// Beyond it, those that were not used for the longest time are forgotten: most of them are closed.
    proofs_max: usize,
    age_max: Duration,
    aged: Aged,
}

/// What becomes of a connection that reached its age.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Aged {
    /// It is closed.
    Closed,
    /// It is proven again: how long it lives is its owner's business.
    ProvenAgain,
}

/// Where the description of a connection's marker lies. Nothing else can lie there while it is held.
type Address = usize;

struct Proof {
    _marker: PgStatement<'static>,
    mark: Mark,
    since: Instant,
    lifetime: Duration,
    used_at: Instant,
}

/// What is known of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It serves; it was proven at this mark.
    Fit(Mark),
    /// It has to be proven first.
    Unproven,
    /// It has to be closed.
    Unfit,
}

impl Known {
    pub(super) fn new(connections_max: usize, age_max: Duration, aged: Aged) -> Self {
        Self {
            proofs: Mutex::default(),
            proofs_max: connections_max.saturating_mul(2),
            age_max,
            aged,
        }
    }

    /// Judges a connection that is about to be used. Asks the server nothing if the connection is known.
    pub(super) async fn judge(&self, connection: &mut PgConnection, doubts: &Doubts) -> Verdict {
        // Nothing is kept of a new connection, nor of one whose pool keeps no prepared statements.
        if connection.cached_statements_size() == 0 {
            return Verdict::Unproven;
        }
        let Ok(marker) = connection.prepare(MARKER).await else {
            return Verdict::Unfit;
        };
        let Ok(mut proofs) = self.proofs.lock() else {
            return Verdict::Unproven;
        };
        let address = address(&marker);
        let Some(proof) = proofs.get_mut(&address) else {
            return Verdict::Unproven;
        };
        let aged = proof.since.elapsed() >= proof.lifetime;
        if doubts.closes_reading(proof.mark) || (aged && self.aged == Aged::Closed) {
            proofs.remove(&address);
            return Verdict::Unfit;
        }
        let idle_for = proof.used_at.elapsed();
        if aged || idle_for >= IDLE_UNTRIED_MAX || doubts.asks_for_proof(proof.mark) {
            return Verdict::Unproven;
        }
        proof.used_at = now();
        Verdict::Fit(proof.mark)
    }

    /// Notes that a connection was proven. The proof began after this mark.
    pub(super) async fn note(
        &self,
        connection: &mut PgConnection,
        mark: Mark,
    ) -> Result<(), sqlx::Error> {
        if connection.cached_statements_size() == 0 {
            return Ok(());
        }
        let marker = connection.prepare(MARKER).await?;
        let Ok(mut proofs) = self.proofs.lock() else {
            return Ok(());
        };
        let now = now();
        let address = address(&marker);
        let since = match (proofs.get(&address), self.aged) {
            (Some(proof), Aged::Closed) => proof.since,
            _ => now,
        };
        let proof = Proof {
            _marker: marker,
            mark,
            since,
            lifetime: lifetime(self.age_max),
            used_at: now,
        };
        if proofs.len() >= self.proofs_max {
            forget_oldest(&mut proofs);
        }
        proofs.insert(address, proof);
        Ok(())
    }
}

fn address(marker: &PgStatement<'_>) -> Address {
    marker.columns().as_ptr().addr()
}

fn forget_oldest(proofs: &mut HashMap<Address, Proof>) {
    let mut used: Vec<Instant> = proofs.values().map(|proof| proof.used_at).collect();
    let middle = used.len() / 2;
    let (_, &mut middle, _) = used.select_nth_unstable(middle);
    proofs.retain(|_, proof| proof.used_at >= middle);
}
