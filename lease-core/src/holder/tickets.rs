//! Orders that were given: one is carried out at a time, and each once, whoever asks again.

use crate::registry::order::{Order, OrderId, Outcome};
use std::collections::VecDeque;

/// Outcomes that are remembered: who did not hear of one asks again.
const OUTCOMES_KEPT: usize = 16;

/// An order, and the lease-join that has brought it.
#[derive(Debug, Clone)]
pub(super) struct Ticket {
    session: usize,
    id: OrderId,
    /// What is to change.
    pub(super) order: Order,
}

/// What is to be changed, and what was.
#[derive(Debug, Default)]
pub(super) struct Tickets {
    /// The next one.
    next: Option<Ticket>,
    /// The one that is carried out, and who has asked for it last.
    current: Option<(usize, OrderId)>,
    /// The last that came to their end, the newest last.
    outcomes: VecDeque<(OrderId, Outcome)>,
}

/// What becomes of an order that was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Taken {
    /// It is carried out, now or next.
    In,
    /// It was carried out before: what came of it.
    Before(Outcome),
    /// Another one is being carried out.
    NotNow,
}

impl Tickets {
    /// Whether one is carried out.
    pub(super) fn is_busy(&self) -> bool {
        self.current.is_some()
    }

    /// Whether it is this one.
    pub(super) fn is_current(&self, id: OrderId) -> bool {
        self.current.is_some_and(|(_, current)| current == id)
    }

    /// Takes one that is to be carried out.
    pub(super) fn begin(&mut self) -> Option<Ticket> {
        let ticket = self.next.take()?;
        self.current = Some((ticket.session, ticket.id));
        Some(ticket)
    }

    /// One was given.
    pub(super) fn take(&mut self, session: usize, id: OrderId, order: Order) -> Taken {
        let mut known = self.outcomes.iter();
        if let Some((_, outcome)) = known.find(|(of, _)| *of == id) {
            return Taken::Before(outcome.clone());
        }
        match (&mut self.current, &mut self.next) {
            (Some((of, current)), _) if *current == id => *of = session,
            (_, Some(next)) if next.id == id => next.session = session,
            (None, None) => self.next = Some(Ticket { session, id, order }),
            _ => return Taken::NotNow,
        }
        Taken::In
    }

    /// Nobody waits any more for this one. `true`: it is the one that is carried out.
    pub(super) fn withdraw(&mut self, id: OrderId) -> bool {
        self.next.take_if(|next| next.id == id);
        self.is_current(id)
    }

    /// The one that was carried out has come to its end. Whom to tell.
    pub(super) fn end(&mut self, outcome: &Outcome) -> Option<(usize, OrderId)> {
        let whom = self.current.take()?;
        if self.outcomes.len() == OUTCOMES_KEPT {
            self.outcomes.pop_front();
        }
        self.outcomes.push_back((whom.1, outcome.clone()));
        Some(whom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::{Failure, Status};

    #[test]
    fn one_is_carried_out_at_a_time_and_each_once() {
        let order = || Order::Release { leases: Vec::new() };
        let mut tickets = Tickets::default();
        let [first, second] = [OrderId(1), OrderId(2)];
        assert_eq!(tickets.take(0, first, order()), Taken::In);
        assert_eq!(tickets.take(0, second, order()), Taken::NotNow);
        assert_eq!(tickets.begin().map(|ticket| ticket.id), Some(first));
        assert!(tickets.begin().is_none());
        // It is asked again, by way of another lease-join.
        assert_eq!(tickets.take(1, first, order()), Taken::In);
        assert_eq!(tickets.take(1, second, order()), Taken::NotNow);
        assert!(tickets.withdraw(first) && !tickets.withdraw(second));
        let outcome = Outcome::from(Failure::new(Status::Busy, "busy"));
        assert_eq!(tickets.end(&outcome), Some((1, first)));
        assert_eq!(tickets.end(&outcome), None);
        assert_eq!(tickets.take(0, first, order()), Taken::Before(outcome));
        assert_eq!(tickets.take(0, second, order()), Taken::In);
        assert!(!tickets.withdraw(second) && tickets.begin().is_none());
        assert!(!tickets.is_busy());
    }
}
