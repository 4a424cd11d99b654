//! What goes wrong on a machine: power, processes killed or stopped, the way to the storage.

use super::super::clock::Instant;
use super::super::machine::Tree;
use super::super::mail::Group;
use super::super::setup::Cage;
use super::{Broken, Event, Kind, ProcessId, SECOND, World};
use std::collections::BTreeSet;

impl World {
    /// A machine is cut off from all storage, or from the heartbeats of one lockspace.
    pub(super) fn cut(&mut self, machine: usize) {
        let most = 2 * self.dead_after(machine);
        let until = self.now() + self.below(most);
        let one = self.one_of_several(machine);
        if one.is_some() && self.several.bool() {
            let lockspace = one.unwrap_or(0);
            self.silent_until.insert((machine, lockspace), until);
            let text = || format!("cut off from lockspace {lockspace}");
            return self.shared.tell(Some(machine), text);
        }
        self.cut_until[machine] = until;
        self.shared
            .tell(Some(machine), || "cut off from the storage".into());
    }

    /// A lockspace of a machine that has several.
    pub(super) fn one_of_several(&mut self, machine: usize) -> Option<usize> {
        let lockspaces = self.machines[machine].setup.lockspaces();
        (lockspaces > 1).then(|| self.several.usize(..lockspaces))
    }

    pub(super) fn crash(&mut self, machine: usize) {
        if !self.up[machine] {
            return;
        }
        self.shared.tell(Some(machine), || "loses power".into());
        self.up[machine] = false;
        self.excuse(machine);
        let mine: Vec<_> = self
            .processes
            .iter()
            .filter(|(_, running)| running.machine == machine)
            .map(|(id, _)| id)
            .collect();
        for id in mine {
            self.kill_process(id, true);
        }
        self.halted.retain(|(of, _), _| *of != machine);
        self.machines[machine].power_off();
        if !self.probes.is_empty() {
            self.after(SECOND, Event::Probe);
        }
        let delay = self.below(3 * self.dead_after(machine));
        self.after(delay, Event::Power(machine));
    }

    /// A join's write that is on its way when all who know of it end may end the next life.
    pub(super) fn excuse(&mut self, machine: usize) {
        if self.heartbeat_is_on_its_way(machine) {
            let host = &self.machines[machine];
            let noticed = host.setup.timing.warn_after();
            host.excused_until.set(host.landed_by().after(noticed));
        }
    }

    pub(super) fn kill(&mut self, machine: usize) {
        let holder = self.rng.usize(..self.holders);
        let ids = self.threads(machine, Group::Hold(holder));
        let carriers = self.carriers(machine, Some(holder));
        // Who carries its last deadline may be killed with it.
        let both = self.odd.u8(..3) == 0;
        let mut killed = vec![Group::Hold(holder)];
        killed.extend(carriers.into_iter().filter(|_| both));
        if ids.is_empty() || !self.is_covered_without(machine, &killed) {
            return;
        }
        for group in killed {
            self.shared
                .tell(Some(machine), || format!("{group:?} is killed"));
            let ids = self.threads(machine, group);
            self.end(machine, group, &ids);
        }
    }

    /// lease-join is killed, or one who carries a last deadline.
    pub(super) fn die(&mut self, machine: usize) {
        let mut groups = self.carriers(machine, None);
        groups.splice(0..0, self.joins(machine));
        let group = groups[self.odd.usize(..groups.len())];
        let ids = self.threads(machine, group);
        if ids.is_empty() || !self.is_covered_without(machine, &[group]) {
            return;
        }
        self.shared
            .tell(Some(machine), || format!("{group:?} is killed"));
        self.end(machine, group, &ids);
        let host = &self.machines[machine];
        if let (Group::Carrier(tree), Cage::Namespace) = (group, host.setup.cage) {
            // With its init all of a namespace ends.
            host.kill_tree(tree, true);
        }
    }

    /// All that runs on a machine stands still for any time.
    pub(super) fn freeze(&mut self, machine: usize) {
        let most = 2 * self.dead_after(machine);
        let until = self.now() + self.below(most);
        let of = self.processes.iter().filter(|(_, r)| r.machine == machine);
        let groups: BTreeSet<Group> = of.map(|(_, running)| running.group).collect();
        self.shared.tell(Some(machine), || "it is frozen".into());
        for group in groups {
            self.halted.insert((machine, group), until);
        }
    }

    /// A process is stopped for any time.
    pub(super) fn halt(&mut self, machine: usize) {
        if self.kind == Kind::Broken(Broken::Freezes) {
            return self.freeze(machine);
        }
        let mut groups = self.carriers(machine, None);
        groups.extend(self.joins(machine));
        groups.extend((0..self.holders).map(Group::Hold));
        let group = groups[self.rng.usize(..groups.len())];
        if self.threads(machine, group).is_empty() || !self.is_covered_without(machine, &[group]) {
            return;
        }
        let most = match self.rng.bool() {
            // A lease-join that wakes this late may write over another machine's heartbeat.
            _ if self.has_twins && !self.machines[machine].setup.watchdog => SECOND,
            true => 2 * self.dead_after(machine),
            false => 3 * SECOND,
        };
        let until = self.now() + self.below(most);
        self.shared.tell(Some(machine), || {
            let seconds = (until - self.shared.now.get()) as f64 / 1e9;
            format!("{group:?} is stopped for {seconds:.3} s")
        });
        // What is stopped already goes on no sooner: what it had to do is put off until then.
        let since = self.halted.entry((machine, group)).or_default();
        *since = until.max(*since);
    }

    pub(super) fn joins(&self, machine: usize) -> impl Iterator<Item = Group> + use<> {
        (0..self.machines[machine].setup.lockspaces()).map(Group::Join)
    }

    /// Those who carry the last deadlines of what runs on a machine, or of one lease-hold's.
    pub(super) fn carriers(&self, machine: usize, of: Option<usize>) -> Vec<Group> {
        let host = &self.machines[machine];
        let trees = host.trees.borrow();
        let its = |tree: &Tree| {
            let holder = host.alive.borrow().get(&tree.holder).copied();
            !tree.dead && (of.is_none() || of == holder)
        };
        let found = trees.iter().filter(|(_, tree)| its(tree));
        found.map(|(id, _)| Group::Carrier(*id)).collect()
    }

    /// Without a watchdog one of the three acts for all that runs: the lease-joins of all its
    /// leases, lease-hold, or who carries the last deadline; whatever becomes of `groups`.
    pub(super) fn is_covered_without(&self, machine: usize, groups: &[Group]) -> bool {
        let host = &self.machines[machine];
        if host.setup.watchdog {
            return true;
        }
        let acts = |group: Group| {
            let halted = self.is_group_halted(machine, group);
            !halted && !groups.contains(&group) && !self.threads(machine, group).is_empty()
        };
        let serves = |(index, _): &(usize, _)| {
            let host = host.in_lockspace(*index);
            host.run.borrow().socket.is_some() && acts(Group::Join(*index))
        };
        let covered = |(id, tree): (&i32, &Tree)| {
            let holder = host.alive.borrow().get(&tree.holder).copied();
            let holds = holder.is_some_and(|holder| acts(Group::Hold(holder)));
            let served = || tree.lives.iter().all(serves);
            tree.dead || holds || served() || acts(Group::Carrier(*id))
        };
        host.trees.borrow().iter().all(covered)
    }

    pub(super) fn is_group_halted(&self, machine: usize, group: Group) -> bool {
        let until = self.halted.get(&(machine, group));
        until.is_some_and(|until| *until > self.now())
    }

    pub(super) fn is_halted(&self, id: ProcessId) -> bool {
        if self.halted.is_empty() {
            return false;
        }
        let running = self.processes.get(id);
        running.is_some_and(|running| self.is_group_halted(running.machine, running.group))
    }

    pub(super) fn halted_until(&self, id: ProcessId) -> Instant {
        let running = self.processes.get(id).unwrap();
        self.halted[&(running.machine, running.group)]
    }
}
