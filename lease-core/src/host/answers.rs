//! What becomes of what a peer says, by the stage of the server, by whether the peer is registered,
//! and by what it says: one table. What a registered holder may do with which resource is judged in
//! [`crate::registry::table`].

use super::stage::Stage;
use crate::registry::message::{Ask, Tell};

/// What becomes of it.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Course {
    /// It is told what is known here.
    Describe,
    /// An event is signalled to other hosts, or why not is said.
    SetEvent,
    /// It is told of events from now on.
    Listen,
    /// Other hosts are called on its behalf.
    Call,
    /// It is handed on to the holder that it is for.
    HandOn,
    /// It becomes a holder.
    Register,
    /// It goes on as the holder that it was.
    Resume,
    /// It is told this once what is kept is written, and nothing else comes of it.
    Farewell(Tell),
    /// It is told this, and the connection ends.
    Refuse(Tell),
    /// As the registry judges.
    Judge,
    /// No correct lease-hold says this: the connection ends.
    OutOfOrder,
}

/// What becomes of it.
pub(super) fn course(stage: &Stage, registered: bool, ask: &Ask) -> Course {
    match (ask, registered) {
        (Ask::Describe, _) => Course::Describe,
        (Ask::SetEvent(_), _) => Course::SetEvent,
        (Ask::Listen, false) => Course::Listen,
        (Ask::Call { .. }, _) => Course::Call,
        (Ask::Register { .. }, false) => match stage.farewell() {
            None => Course::Register,
            Some(farewell) => Course::Refuse(farewell),
        },
        (Ask::Resume { .. }, false) => Course::Resume,
        (Ask::Order { .. }, false) => Course::HandOn,
        (Ask::Register { .. } | Ask::Resume { .. } | Ask::Order { .. } | Ask::Listen, true)
        | (_, false) => Course::OutOfOrder,
        (Ask::Acquire { .. } | Ask::Claim { .. } | Ask::Guard { .. }, true) => {
            match stage.farewell() {
                None => Course::Judge,
                Some(farewell) => Course::Farewell(farewell),
            }
        }
        (
            Ask::Acquired { .. }
            | Ask::Start { .. }
            | Ask::Gone
            | Ask::Release { .. }
            | Ask::Yield { .. }
            | Ask::Released { .. }
            | Ask::Ordered { .. },
            true,
        ) => Course::Judge,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Moment;
    use crate::contain::Containment;
    use crate::id::{Generation, Name};
    use crate::registry::order::{Order, OrderId, Outcome};
    use crate::registry::{
        self,
        message::{Asked, HolderId, Left},
    };
    use crate::spec::Mode;

    const AT: Moment = Moment(1);

    /// One is given, one resource more is wanted for it, and it is carried out.
    fn of_orders() -> [Ask; 3] {
        let id = OrderId(1);
        let resource = Asked {
            resource: Name::new(b"R").unwrap(),
            mode: Mode::Exclusive,
            areas: Vec::new(),
            places: Vec::new(),
            spec: String::new(),
        };
        let given = Ask::Order {
            id,
            to: 1,
            order: Order::Release { leases: Vec::new() },
        };
        let index = 0;
        let outcome = Outcome::done();
        [
            given,
            Ask::Claim { index, resource },
            Ask::Ordered { id, outcome },
        ]
    }

    /// What becomes of it while serving, while leaving (whether holders are left or not), and once
    /// the host id is lost: of a stranger, and of a holder.
    #[test]
    fn what_becomes_of_each_message() {
        use Course::{Describe, HandOn, Judge, OutOfOrder, Register, Resume};
        let why = || "taken".to_owned();
        let tell_lost = || Tell::Lost { why: why() };
        let (stop, lost) = (
            || Course::Farewell(Tell::Stop),
            || Course::Farewell(tell_lost()),
        );
        let refused = [
            Register,
            Course::Refuse(Tell::Stop),
            Course::Refuse(tell_lost()),
        ];
        let (index, left) = (0, Left::NOTHING);
        let register = Ask::Register {
            command: String::new(),
            resources: Vec::new(),
        };
        let resume = Ask::Resume {
            holder: HolderId(1),
            generation: Generation(1),
            phases: Vec::new(),
            late: Vec::new(),
            guards: true,
        };
        let [order, claim, ordered] = of_orders();
        let guard = Ask::Guard {
            containment: Containment::Tree,
        };
        let acquired = Ask::Acquired {
            index,
            lver: None,
            left,
        };
        let never = || [OutOfOrder, OutOfOrder, OutOfOrder];
        let always = |course: Course| [course.clone(), course.clone(), course];
        let table = [
            (Ask::Describe, always(Describe), always(Describe)),
            (register, refused, never()),
            (resume, always(Resume), never()),
            (order, always(HandOn), never()),
            (claim, never(), [Judge, stop(), lost()]),
            (Ask::Acquire { index }, never(), [Judge, stop(), lost()]),
            (guard, never(), [Judge, stop(), lost()]),
            (acquired, never(), always(Judge)),
            (Ask::Start { reads: true }, never(), always(Judge)),
            (Ask::Gone, never(), always(Judge)),
            (Ask::Release { index }, never(), always(Judge)),
            (Ask::Yield { index }, never(), always(Judge)),
            (Ask::Released { index, left }, never(), always(Judge)),
            (ordered, never(), always(Judge)),
        ];
        let stopping = Stage::Stopping {
            strike_at: AT,
            give_up_at: AT,
        };
        let lost = Stage::Lost {
            why: why(),
            strike_at: AT,
        };
        for (ask, of_stranger, of_holder) in table {
            for (registered, expected) in [(false, of_stranger), (true, of_holder)] {
                let [serving, leaves, lose] = expected;
                let of = |stage: &Stage| course(stage, registered, &ask);
                assert_eq!(of(&Stage::Serving), serving, "{ask:?} {registered}");
                assert_eq!(of(&stopping), leaves, "{ask:?} {registered}");
                assert_eq!(of(&Stage::Leaving), leaves, "{ask:?} {registered}");
                assert_eq!(of(&lost), lose, "{ask:?} {registered}");
            }
        }
    }
    #[test]
    fn events_are_anybodys_and_calls_are_a_holders_at_any_stage() {
        let event = registry::message::SetEvent {
            host_id: 1,
            generation: 0,
            event: 1,
            data: 0,
            flags: 0,
        };
        let (hosts, until) = (Vec::new(), AT);
        let table = [
            (Ask::SetEvent(event), Course::SetEvent, Course::SetEvent),
            (Ask::Listen, Course::Listen, Course::OutOfOrder),
            (Ask::Call { hosts, until }, Course::Call, Course::Call),
        ];
        for (ask, of_stranger, of_holder) in table {
            for stage in [Stage::Serving, Stage::Leaving] {
                assert_eq!(course(&stage, false, &ask), of_stranger, "{ask:?}");
                assert_eq!(course(&stage, true, &ask), of_holder, "{ask:?}");
            }
        }
    }
}
