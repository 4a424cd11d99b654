//! The end of a world: no more faults; every lease must be there for the taking.

use super::super::clock::Instant;
use super::super::hold::{self, Errand, PROBE};
use super::super::mail::{Group, Letter};
use super::super::port::Port;
use super::super::setup::Setup;
use super::weather::Weather;
use super::{Event, SECOND, World};
use lease_core::holder::acquire::Patience;
use lease_core::spec::Mode;
use std::rc::Rc;
use std::time::Duration;

/// What asks a lease-hold to end.
const SIGTERM: i32 = 15;

impl World {
    pub(super) fn heal(&mut self) {
        self.shared.tell(None, || "no more faults".into());
        self.healed = true;
        self.weather = Weather::calm();
        let soon = self.now() + SECOND;
        for running in self.processes.iter_mut() {
            let all = running.outstanding.values_mut();
            for back in all
                .chain(running.unsure.values_mut())
                .filter(|back| **back == Instant::MAX)
            {
                *back = soon;
            }
        }
        self.cut_until.fill(0);
        self.silent_until.clear();
        self.dark.clear();
        for machine in 0..self.machines.len() {
            self.power(machine);
        }
        self.start_anew_beside_damage();
        self.after(2 * SECOND, Event::Close);
    }

    pub(super) fn close(&mut self) {
        self.shared.tell(None, || "holders come to an end".into());
        for machine in &self.machines {
            machine.closing.set(true);
            for inbox in machine.inboxes.borrow().values() {
                self.shared.post(*inbox, Letter::Signal(SIGTERM));
            }
        }
        if self.kind.has_sanlock() {
            // Its hosts forget what they are in doubt of: safe, but perhaps nobody's any more.
            self.over = true;
        }
        // No later write can land after that.
        let dead = self.dead_after(0);
        self.after(dead, Event::Probe);
        self.after(6 * dead, Event::GiveUp);
    }

    pub(super) fn probe(&mut self) {
        let (start, count) = (self.rng.usize(..self.machines.len()), self.machines.len());
        let Setup {
            resources,
            ref more,
            ..
        } = self.machines[0].setup;
        let lockspaces = 1 + more.len();
        for resource in 0..resources {
            let live = |index: &usize| {
                let machine = self.machines[*index].in_lockspace(resource % lockspaces);
                machine.live_member().is_some()
            };
            let found = (0..count).map(|index| (start + index) % count).find(live);
            let Some(machine) = found else {
                return self.after(SECOND, Event::Probe);
            };
            if self.probes.len() <= resource {
                self.probes.push((resource, Rc::default()));
            }
            let group = Group::Hold(PROBE + resource);
            let under_way = self.processes.iter().any(|(_, r)| r.group == group);
            if !under_way && !self.probes[resource].1.get() {
                self.start_probe(machine, resource);
            }
        }
    }

    fn start_probe(&mut self, machine: usize, resource: usize) {
        let host = Rc::clone(&self.machines[machine]);
        let had = Rc::clone(&self.probes[resource].1);
        let errand = Errand {
            resource,
            mode: Mode::Exclusive,
            others: Vec::new(),
            hold: Duration::from_secs(1),
            patience: Patience::For(Duration::from_nanos(4 * self.dead_after(0))),
            obeys: true,
            request: None,
        };
        let body = move |port: &Port<'_>| {
            hold::run_errand(port, &host, PROBE + resource, &errand, |was| had.set(was));
        };
        let face = Rc::new(self.machines[machine].face.another());
        self.start(machine, Group::Hold(PROBE + resource), face, Box::new(body));
    }

    pub(super) fn give_up(&mut self) {
        self.over = true;
        if self.probes.is_empty() && self.is_a_lockspace() {
            for machine in &self.machines {
                let host = Some(machine.setup.host);
                let what = || "no host could join".into();
                self.shared.surprise(host, None, what);
            }
        }
        for (resource, had) in &self.probes {
            let refused = self.refused.contains(resource);
            if !had.get() && !refused && !self.is_an_excused_hosts(*resource) {
                let what = || format!("nobody holds r{resource}, and nobody can have it");
                self.shared.surprise(None, Some(*resource), what);
            }
        }
    }
}
