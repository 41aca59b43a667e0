//! What a statement carries beside its writes: companions, and guards.
//!
//! **Problem.** Companions commit with those writes that hit, and nothing may be written under a guard that does not hold, in
//! one statement and one round trip, whatever the tables behind them are.
//!
//! **How.** The statement of the writes becomes the part `written` of a larger one. Before it stand the guards that do not
//! hold (`lost`), asked for once; where there is one, nothing is written. Behind it stands a statement for each kind of
//! companions, which reads those whose write is in `written`. A statement that carries nothing is sent as it is.

use std::borrow::Cow;

use sqlx::Postgres;
use sqlx::postgres::PgArguments;
use sqlx::query::Query;

use crate::store::{Write, WriteBatch};

mod gate;
mod of_kind;

use gate::Gate;
use of_kind::OfKind;

/// The key of a statement that returns the number of each write.
pub(super) const ORDINAL: &str = "ordinal";

/// What the writes of a part carry. There is one only if they carry anything.
#[derive(Debug)]
pub(super) struct Carried<'batch> {
    gate: Option<Gate>,
    kinds: Vec<OfKind<'batch>>,
}

/// How a statement can be a part of a larger one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    /// The column that tells its writes apart, in its source `w` and in what it returns.
    pub(super) key: &'static str,
    /// What stands behind its last condition, and nowhere later.
    pub(super) behind_conditions: &'static str,
    /// How many arguments it has.
    pub(super) arguments: usize,
    /// What answers for the writes.
    pub(super) answer: &'static str,
    /// What answers for the guards that are lost, in the same columns.
    pub(super) lost: &'static str,
}

/// A statement with its arguments.
pub(super) type Statement<'query> = Query<'query, Postgres, PgArguments>;

impl<'batch> Carried<'batch> {
    /// What these writes of a batch carry. They stand in the batch at the places of the part.
    pub(super) fn of(batch: &WriteBatch, part: &[usize], writes: &[&'batch Write]) -> Option<Self> {
        if !batch.has_companions() && batch.guards().is_none() {
            return None;
        }
        let carried = Self {
            gate: batch.guards().map(|guards| Gate::of(guards, part)),
            kinds: OfKind::all_of(writes),
        };
        (carried.has_companions() || carried.gate.is_some()).then_some(carried)
    }

    pub(super) fn has_companions(&self) -> bool {
        !self.kinds.is_empty()
    }

    /// The places in the batch of these guards of the statement, which are counted from 1.
    pub(super) fn places(&self, lost: &[i64]) -> Vec<usize> {
        let gate = self.gate.as_ref();
        gate.map(|gate| gate.places(lost)).unwrap_or_default()
    }

    fn around(&self, statement: &str, shape: Shape) -> String {
        let Shape {
            key,
            behind_conditions,
            ..
        } = shape;
        let mut parameters = Parameters(shape.arguments);
        let gate = self.gate.as_ref();
        let mut parts: Vec<String> = gate
            .map(|gate| gate.lost(&mut parameters))
            .into_iter()
            .collect();
        let kinds = || self.kinds.iter().enumerate();
        parts.extend(kinds().map(|(number, of_kind)| of_kind.sent(number, &mut parameters)));
        let conditions: String = gate
            .map(|_| gate::CONDITION.to_owned())
            .into_iter()
            .chain(kinds().filter_map(|(number, of_kind)| of_kind.condition(number, key)))
            .collect();
        let (before, behind) = statement
            .rsplit_once(behind_conditions)
            .unwrap_or((statement, ""));
        parts.push(format!(
            "written AS (\n{before}{conditions}{behind_conditions}{behind}\n)"
        ));
        parts.extend(kinds().map(|(number, of_kind)| of_kind.run(number, key)));
        let answer = match gate {
            None => shape.answer.to_owned(),
            Some(_) => format!("{}\nUNION ALL\n{}", shape.answer, shape.lost),
        };
        format!("WITH {}\n{answer}", parts.join(",\n"))
    }

    fn bind<'query>(&'query self, query: Statement<'query>) -> Statement<'query> {
        let query = match &self.gate {
            None => query,
            Some(gate) => gate.bind(query),
        };
        let kinds = self.kinds.iter();
        kinds.fold(query, |query, of_kind| of_kind.bind(query))
    }
}

/// The statement with what is carried.
pub(super) fn text<'statement>(
    carried: Option<&Carried<'_>>,
    statement: &'statement str,
    shape: Shape,
) -> Cow<'statement, str> {
    match carried {
        None => Cow::Borrowed(statement),
        Some(carried) => Cow::Owned(carried.around(statement, shape)),
    }
}

/// The arguments of what is carried, behind those of the writes.
pub(super) fn bind<'query>(
    carried: Option<&'query Carried<'_>>,
    query: Statement<'query>,
) -> Statement<'query> {
    match carried {
        None => query,
        Some(carried) => carried.bind(query),
    }
}

/// Numbers the parameters of a statement, in the order in which they are bound.
struct Parameters(usize);

impl Parameters {
    fn next(&mut self) -> usize {
        self.0 += 1;
        self.0
    }
}

#[cfg(test)]
mod tests;
