//! Machines that take a host id by themselves: in any order of what they do, and whatever they
//! remember, no two have the same at the same time, and each gets one.

use super::*;
use lease_core::delta::{Chooser, Had, HostLease, Trace, join_after};
use lease_core::disk::Fault;
use lease_core::record::heartbeat::Heartbeat;
use std::collections::BTreeMap;

/// Host ids of a lockspace on the stage.
const HOST_IDS: usize = 4;

/// What a machine has come to: its host id, and until when it believes in it, in true time.
type Lives = Rc<RefCell<BTreeMap<usize, (HostId, u64)>>>;
/// What machines remember.
type Memories = Rc<RefCell<BTreeMap<usize, Had>>>;

/// Machines that take a host id by themselves.
struct Machines {
    stage: Stage,
    lives: Lives,
    memories: Memories,
    /// How choices ended that did not end with a host id.
    failures: Rc<RefCell<Vec<JoinError>>>,
    /// The process of each that was started last.
    actors: Vec<Actor>,
    starts: u32,
}

/// The lockspace's disk, as a machine sees it that remembers each life before it begins.
struct Remembering<'a> {
    disk: &'a dyn Disk,
    machine: usize,
    memories: &'a Memories,
}

impl Disk for Remembering<'_> {
    fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>, Fault> {
        self.disk.read(offset, len)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), Fault> {
        let record = Heartbeat::decode(bytes).unwrap();
        let host = record.owner().unwrap();
        let known = self.memories.borrow_mut().remove(&self.machine);
        let had = known.filter(|had| had.host == host).unwrap_or(Had {
            host,
            traces: Vec::new(),
        });
        let had = had.with(Trace::of(&record));
        self.memories.borrow_mut().insert(self.machine, had);
        self.disk.write(offset, bytes)
    }

    fn settle(&self) -> Result<(), Fault> {
        self.disk.settle()
    }
}

impl Machines {
    /// This many, all started.
    fn started(count: usize) -> Self {
        let mut machines = Self::new(count);
        (0..count).for_each(|machine| machines.starts(machine));
        machines
    }

    fn new(count: usize) -> Self {
        Self {
            stage: Stage::new(&vec![setup(1); count]),
            lives: Lives::default(),
            memories: Memories::default(),
            failures: Rc::default(),
            actors: Vec::new(),
            starts: 0,
        }
    }

    /// A machine starts, under a name of its own, and renews for as long as it has a host id.
    fn starts(&mut self, machine: usize) {
        self.starts += 1;
        let claim = claim(
            &self.stage,
            machine,
            format!("start {}", self.starts).as_bytes(),
        );
        let (lives, memories) = (Rc::clone(&self.lives), Rc::clone(&self.memories));
        let (now, failures) = (Rc::clone(&self.stage.shared.now), Rc::clone(&self.failures));
        let actor = with_lockspace(&mut self.stage, machine, move |port, file| {
            let believe = |lease: &HostLease| {
                let age = Clock::now(port).since(lease.renewed()).as_nanos() as u64;
                let until = now.get() - age + 8_000_000_000;
                lives
                    .borrow_mut()
                    .insert(machine, (lease.claim().host, until));
            };
            let disk = &Remembering {
                disk: file,
                machine,
                memories: &memories,
            };
            let had = memories.borrow().get(&machine).cloned();
            match take(port, disk, &claim, had) {
                Ok(mut lease) => loop {
                    believe(&lease);
                    if port.wait(seconds(2)).is_err() || lease.renew(disk, port).is_err() {
                        lives.borrow_mut().remove(&machine);
                        return;
                    }
                },
                Err(error) => failures.borrow_mut().push(error),
            }
        });
        match self.actors.get_mut(machine) {
            Some(last) => *last = actor,
            None => self.actors.push(actor),
        }
    }

    /// A machine loses power, and starts again.
    fn restarts(&mut self, machine: usize) {
        self.stage.kill(self.actors[machine]);
        self.lives.borrow_mut().remove(&machine);
        self.starts(machine);
    }

    /// A machine that is a copy of the first, as that is now, starts.
    fn starts_as_copy(&mut self, machine: usize) {
        let had = self.memories.borrow().get(&0).cloned();
        if let Some(had) = had {
            self.memories.borrow_mut().insert(machine, had);
        }
        self.starts(machine);
    }

    /// Whatever is done next by whichever machine, so often: some are so slow by that that they
    /// lose what they had. Some lose power.
    fn go_on(&mut self, rng: &mut fastrand::Rng, steps: u32) {
        for _ in 0..steps {
            let machine = rng.usize(..self.actors.len());
            match rng.u8(..50) {
                0 => self.restarts(machine),
                _ => self.stage.step(self.actors[machine]),
            }
            self.check();
        }
    }

    /// No two that believe in their host id have the same.
    fn check(&self) {
        let mut taken = BTreeMap::new();
        for (machine, (host, until)) in self.lives.borrow().iter() {
            let believes = *until > self.stage.now();
            if let Some(other) = taken.insert(*host, *machine).filter(|_| believes) {
                let story = self.stage.story();
                panic!("{machine} and {other} have host id {host} until {until}\n{story}");
            }
        }
    }

    /// Nobody is slow any more: all go on, and start again if they have ended, until each has a
    /// host id.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            if self.lives.borrow().len() == self.actors.len() {
                return;
            }
            let next = (0..self.actors.len()).min_by_key(|machine| self.due(*machine));
            let next = next.unwrap();
            match self.stage.is_over(self.actors[next]) {
                true => self.starts(next),
                false => self.stage.step(self.actors[next]),
            }
            self.check();
        }
        let (lives, failed) = (self.lives.borrow(), self.failures.borrow());
        panic!(
            "not all have one: {lives:?} {failed:?}\n{}",
            self.stage.story()
        );
    }

    /// When a machine does what it does next.
    fn due(&self, machine: usize) -> u64 {
        match self.stage.pending(self.actors[machine]) {
            Some(Op::Wait { until }) => self.stage.machine(machine).face.when(*until),
            _ => 0,
        }
    }

    fn host_ids(&self) -> Vec<u64> {
        let lives = self.lives.borrow();
        let mut hosts: Vec<_> = lives.values().map(|(host, _)| host.get()).collect();
        hosts.sort_unstable();
        hosts
    }

    /// Each has one, and no two the same.
    fn each_has_its_own(&self) -> bool {
        let hosts = self.host_ids();
        hosts.len() == self.actors.len() && hosts.windows(2).all(|pair| pair[0] != pair[1])
    }
}

/// As a host does it.
fn take(
    port: &Port<'_>,
    disk: &dyn Disk,
    claim: &Claim,
    had: Option<Had>,
) -> Result<HostLease, JoinError> {
    let mut chooser = Chooser::new(had, claim.name);
    let area = LOCKSPACE.read_all(disk)?;
    let first = chooser.choose(&area).ok_or(JoinError::NoneFree)?;
    chooser.join((&LOCKSPACE, disk, port), first, &mut |choice| {
        let host = choice.host;
        let claim = Claim { host, ..*claim };
        let claimed = (&claim, choice.predecessor);
        join_after(&LOCKSPACE, disk, port, claimed, &mut |_| {})
    })
}

#[test]
fn machines_that_race_for_host_ids_end_with_one_each_whatever_stops_them() {
    for seed in 0..200 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut machines = Machines::started(rng.usize(2..=HOST_IDS));
        machines.go_on(&mut rng, 200);
        machines.settle();
        assert!(machines.each_has_its_own(), "seed {seed}");
    }
}

#[test]
fn machines_that_nothing_stops_race_once_and_have_one_each_of_the_lowest() {
    for count in 2..=HOST_IDS {
        let mut machines = Machines::started(count);
        machines.settle();
        assert!(machines.each_has_its_own());
        assert!(
            machines.host_ids().contains(&1),
            "{:?}",
            machines.host_ids()
        );
        assert!(machines.failures.borrow().is_empty());
    }
}

#[test]
fn where_all_host_ids_are_in_use_one_more_machine_gets_none_and_disturbs_nobody() {
    let mut machines = Machines::new(HOST_IDS + 1);
    (0..HOST_IDS).for_each(|machine| machines.starts(machine));
    machines.settle();
    machines.starts(HOST_IDS);
    machines.stage.finish(machines.actors[HOST_IDS]);
    assert_eq!(machines.host_ids(), [1, 2, 3, 4]);
    assert_eq!(*machines.failures.borrow(), [JoinError::NoneFree]);
    let disturbed = (1..=4).find(|host| machines.stage.heartbeat(*host).generation().0 != 1);
    assert_eq!(disturbed, None);
}

#[test]
fn of_the_copies_of_one_machine_each_ends_with_its_own_whichever_starts_first() {
    for seed in 0..200 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut machines = Machines::new(3);
        machines.starts(0);
        if rng.bool() {
            machines.settle();
        }
        machines.go_on(&mut rng, 5);
        // It goes on, or is down while its copies start.
        let down = rng.bool();
        if down {
            machines.stage.kill(machines.actors[0]);
            machines.lives.borrow_mut().clear();
        }
        machines.starts_as_copy(1);
        machines.starts_as_copy(2);
        machines.go_on(&mut rng, 100);
        machines.settle();
        assert!(machines.each_has_its_own(), "seed {seed}");
    }
}

#[test]
fn a_machine_that_lost_power_gets_its_host_id_back() {
    let mut machines = Machines::started(3);
    machines.settle();
    let before = machines.lives.borrow().clone();
    for machine in 0..3 {
        machines.restarts(machine);
        machines.settle();
        let now = machines.lives.borrow()[&machine].0;
        assert_eq!(now, before[&machine].0);
    }
}
