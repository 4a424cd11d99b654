//! What the server answers to holders, and notes of them.

use super::answers::{Course, course};
use super::server::Server;
use super::surroundings::{Beside, HostSurroundings, PeerId, ProcessOf};
use super::victim::Victim;
use crate::contain::{Containment, Guarded};
use crate::registry::message::{Ask, HolderId, Tell, Welcome};
use crate::registry::table::{Answer, OutOfOrder};
use crate::surroundings::Surroundings;

impl<S: HostSurroundings> Server<'_, S> {
    /// What a peer says is answered, and noted.
    pub(super) fn hear_peer(&mut self, peer: PeerId, ask: Ask, beside: Beside<ProcessOf<S>>) {
        let holder = self.peers.get_mut(peer).and_then(|known| known.holder());
        let id = holder.unwrap_or(HolderId(0));
        let answers = match course(&self.stage, holder.is_some(), &ask) {
            Course::Describe => {
                let description = Box::new(self.describe());
                return self.s.tell(peer, &Tell::Described(description));
            }
            Course::SetEvent => {
                let Ask::SetEvent(wanted) = ask else {
                    return self.close(peer);
                };
                let result = self.set_event(wanted);
                return self.s.tell(peer, &Tell::EventSet(result));
            }
            Course::Call => {
                if let Ask::Call { hosts, until } = ask {
                    self.call(&hosts, until);
                }
                return;
            }
            Course::Listen => {
                self.peers.stays(peer);
                return self.signals.listen(peer);
            }
            Course::HandOn => return self.hear_order(peer, ask),
            Course::Refuse(tell) => {
                self.s.tell(peer, &tell);
                return self.close(peer);
            }
            Course::Farewell(tell) => Ok(vec![(id, tell)]),
            Course::Register => self.register(peer, ask, beside),
            Course::Resume => self.resume(peer, ask, beside),
            Course::Judge => self.judge((peer, id), ask, beside),
            Course::OutOfOrder => Err(OutOfOrder),
        };
        match answers.as_deref() {
            // Nothing has changed, and this is asked again and again.
            Ok([(_, busy @ Tell::Busy { .. })]) => self.s.tell(peer, busy),
            Ok([(_, refused @ Tell::Refused { .. })]) => {
                self.s.tell(peer, refused);
                self.close(peer);
            }
            Ok(_) => self.outbox.put(answers.unwrap_or_default()),
            Err(OutOfOrder) => self.close(peer),
        }
    }

    /// What a holder says of its resources.
    fn judge(
        &mut self,
        (peer, id): (PeerId, HolderId),
        ask: Ask,
        beside: Beside<ProcessOf<S>>,
    ) -> Result<Vec<Answer>, OutOfOrder> {
        let (now, late_until) = (self.now(), self.late_until());
        let known = self.peers.get_mut(peer).ok_or(OutOfOrder)?;
        match ask {
            Ask::Acquire { index } => Ok(vec![self.table.acquire(id, index, now)?]),
            Ask::Acquired { index, lver, left } => {
                self.table.acquired(id, index, lver, left, late_until)
            }
            Ask::Guard { containment } => {
                let tell = self.guard((peer, id), containment, beside)?;
                Ok(vec![(id, tell)])
            }
            Ask::Start { reads } => {
                known.at_gate = false;
                // What it could not read of is told at once.
                let missed = std::mem::replace(&mut known.reads, reads) && !reads;
                let renewed = self.tenure().renewed();
                Ok(Vec::from_iter(
                    missed.then_some((id, Tell::Renewed { renewed })),
                ))
            }
            Ask::Gone => {
                known.victim.nothing_runs();
                if self.stage.is_lost() {
                    self.table.gone(id);
                }
                Ok(Vec::new())
            }
            Ask::Release { index } => {
                let answers = self.table.release(id, index)?;
                known.victim.nothing_runs();
                Ok(answers)
            }
            Ask::Yield { index } => self.table.give_up(id, index),
            Ask::Claim { index, resource } => {
                let asked = (resource, self.hosts.clone());
                Ok(vec![self.table.claim_more(id, index, asked)?])
            }
            Ask::Ordered { id, outcome } => {
                self.answer_order(id, &outcome);
                Ok(Vec::new())
            }
            Ask::Released { index, left } => {
                let left = self.table.as_left(id, index, left, now);
                self.table.released(id, index, left, late_until)
            }
            Ask::Describe
            | Ask::SetEvent(_)
            | Ask::Listen
            | Ask::Call { .. }
            | Ask::Register { .. }
            | Ask::Resume { .. }
            | Ask::Order { .. } => Err(OutOfOrder),
        }
    }

    /// What a holder is to start stands behind its gate.
    fn guard(
        &mut self,
        (peer, id): (PeerId, HolderId),
        containment: Containment,
        beside: Beside<ProcessOf<S>>,
    ) -> Result<Tell, OutOfOrder> {
        let first = match beside {
            Beside::Process(first) => first,
            // Given up meanwhile, as a rule: nobody waits for this answer.
            Beside::Gone => {
                let why = "it ended behind its gate".into();
                return Ok(Tell::NotGuarded { why });
            }
            Beside::Nothing => return Err(OutOfOrder),
        };
        let guarded = Guarded {
            process: self.s.around().id_of(&first),
            containment,
        };
        if !self.s.around().is_within_reach(&guarded) {
            let why = out_of_reach(&guarded);
            return Ok(Tell::NotGuarded { why });
        }
        let known = self.peers.get_mut(peer).ok_or(OutOfOrder)?;
        self.table.guard(id, guarded.clone())?;
        known.at_gate = guarded.containment.starts_at_gate();
        known.victim.starts(guarded, first);
        Ok(Tell::Go {
            generation: self.generation(),
            renewed: self.tenure().renewed(),
        })
    }

    /// The peer's own process, by the descriptor that it sent: it must be the one that connected.
    fn own_process(
        &mut self,
        peer: PeerId,
        beside: Beside<ProcessOf<S>>,
    ) -> Result<ProcessOf<S>, OutOfOrder> {
        let known = self.peers.get_mut(peer).ok_or(OutOfOrder)?;
        match beside {
            Beside::Process(own) if self.s.around().id_of(&own).pid == known.pid => Ok(own),
            _ => Err(OutOfOrder),
        }
    }

    fn register(
        &mut self,
        peer: PeerId,
        ask: Ask,
        beside: Beside<ProcessOf<S>>,
    ) -> Result<Vec<Answer>, OutOfOrder> {
        let Ask::Register { command, resources } = ask else {
            return Err(OutOfOrder);
        };
        let own = self.own_process(peer, beside)?;
        let (process, since) = (self.s.around().id_of(&own), self.s.around().wall_clock());
        let id = match self.table.register(process, command, since, resources) {
            Ok(id) => id,
            Err(why) => return Ok(vec![(HolderId(0), Tell::Refused { why })]),
        };
        let mut victim = Victim::unknown();
        victim.holder = Some(own);
        self.peers.register(peer, id, victim);
        let welcome = Box::new(self.welcome(id));
        Ok(vec![(id, Tell::Registered(welcome))])
    }

    /// A holder of the former lease-join comes back.
    fn resume(
        &mut self,
        peer: PeerId,
        ask: Ask,
        beside: Beside<ProcessOf<S>>,
    ) -> Result<Vec<Answer>, OutOfOrder> {
        let Ask::Resume {
            holder: id,
            generation,
            phases,
            late,
            guards,
        } = ask
        else {
            return Err(OutOfOrder);
        };
        let own = self.own_process(peer, beside)?;
        if generation != self.generation() {
            let why = "the host id has been joined again since".into();
            return Ok(vec![(id, Tell::Refused { why })]);
        }
        let late_until = self.late_until();
        let process = self.s.around().id_of(&own);
        self.table
            .resume(id, process, (&phases, &late, guards), late_until)?;
        let mut victim = self.dead.comes_back(id).ok_or(OutOfOrder)?;
        victim.holder = Some(own);
        let known = self.table.holder(id).ok_or(OutOfOrder)?;
        if known.guarded.is_none() {
            victim.nothing_runs();
        }
        self.peers.register(peer, id, victim);
        if let Some(farewell) = self.stage.farewell() {
            self.s.tell(peer, &farewell);
        }
        self.hand_orders_on(id);
        let renewed = self.tenure().renewed();
        Ok(vec![(id, Tell::Resumed { renewed })])
    }

    fn welcome(&self, holder: HolderId) -> Welcome {
        let estate = &self.estate;
        Welcome {
            holder,
            lockspace: estate.lockspace.name,
            host: estate.host,
            generation: estate.generation,
            host_name: self.life.host_name,
            path: estate.path.clone(),
            offset: estate.lockspace.offset,
            geometry: estate.lockspace.geometry,
            timing: self.life.timing,
            renewed: estate.tenure.renewed(),
            ballots_from: estate.ballots_from,
            hosts: self.hosts.clone(),
        }
    }
}

/// Why what a lease-hold would start cannot be guarded from here.
fn out_of_reach(guarded: &Guarded) -> String {
    let what = match &guarded.containment {
        Containment::Cgroup(path) => format!("control group {}", path.display()),
        Containment::Group(group) => group.to_string(),
        Containment::Alone => {
            return "lease-join may not send it a signal; run lease-join as root".to_owned();
        }
        Containment::PidNamespace | Containment::Tree => "its containment".into(),
    };
    format!(
        "lease-join does not see {what}; run both in the same mount and cgroup namespace, or try \
         --contain pidns"
    )
}
