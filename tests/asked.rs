//! What one host asks of another, decision by decision: the request record, and the bits and the
//! event of a heartbeat.
#![allow(clippy::unwrap_used, clippy::panic)]

use lease_core::clock::{Clock, Moment};
use lease_core::delta::{Busy, Calls, EventFlags};
use lease_core::id::{Generation, HostId, Lver};
use lease_core::liveness::Sightings;
use lease_core::record::heartbeat::{Event, Heartbeat};
use lease_core::record::request::{Force, Request};
use lease_core::resource::AskedFor;
use lease_core::spec::Mode;
use std::time::Duration;
use support::scene::{AREA, World, geometry, name, stamp};
use support::script::Fate;
use support::sim::hold::Errand;
use support::sim::stage::{Actor, Stage, errand, setup};
use support::storage::host_id;

const REQUEST_AT: u64 = AREA + 512;

fn put_request(world: &World, lver: u64, force_mode: u32) {
    let lver = Lver(lver);
    let mut sector = Request { lver, force_mode }.encode().to_vec();
    sector.resize(512, 0);
    world.disk.put_at(REQUEST_AT, &sector);
}

fn standing(world: &World) -> Request {
    Request::decode(&world.disk.at(REQUEST_AT, 512)).unwrap()
}

fn put_leader(world: &World, lver: u64, short: bool) {
    let (owner, leader) = (stamp(1, 1), world.leader());
    let leader = leader.committed(Lver(lver), owner, owner, Some(short));
    world.disk.put_at(AREA, &leader.to_sector());
}

#[test]
fn a_request_counts_only_for_a_version_that_nobody_has_had() {
    let world = World::formatted();
    let held = world.acquired(1);
    assert_eq!(held.lver, Lver(1));
    let asked = |lver, force_mode| {
        put_request(&world, lver, force_mode);
        let asked = world.with(1, |resource, _, _| resource.asked(&held));
        asked.unwrap().and_then(|request| request.force())
    };
    for (lver, force_mode, expected) in [
        (0, 0, None),
        (0, 2, None),
        (1, 1, None),
        (2, 0, None),
        (2, 1, Some(Force::Kill)),
        (2, 2, Some(Force::Stop)),
        (2, 9, None),
        (7, 2, Some(Force::Stop)),
    ] {
        assert_eq!(asked(lver, force_mode), expected, "{lver} {force_mode}");
    }
    // Whoever shares is not the last who has had it.
    put_leader(&world, 4, false);
    assert_eq!(asked(4, 1), None);
    assert_eq!(asked(5, 1), Some(Force::Kill));
}

#[test]
fn what_is_written_is_the_next_version_unless_more_is_asked_for_already() {
    let world = World::formatted();
    let ask = |force| world.with(2, |resource, member, _| resource.ask(member, force));
    assert_eq!(ask(Force::Kill), Ok(None), "nobody has it");
    world.acquired(1);
    world.disk.log();
    let of_host_1 = || {
        let (lver, hosts) = (Lver(2), vec![host_id(1)]);
        Ok(Some(AskedFor { lver, hosts }))
    };
    for (force, written, stands) in [
        (Force::Stop, true, Request::new(Lver(2), Force::Stop)),
        (Force::Stop, false, Request::new(Lver(2), Force::Stop)),
        (Force::Kill, true, Request::new(Lver(2), Force::Kill)),
        (Force::Stop, false, Request::new(Lver(2), Force::Kill)),
    ] {
        assert_eq!(ask(force), of_host_1());
        assert_eq!(standing(&world), stands);
        let log = world.disk.log().into_iter();
        let writes: Vec<u64> = log
            .filter(|io| io.written.is_some())
            .map(|io| io.offset)
            .collect();
        assert_eq!(writes, vec![REQUEST_AT; usize::from(written)]);
    }
    put_request(&world, 5, 2);
    assert_eq!(ask(Force::Kill), of_host_1());
    assert_eq!(standing(&world), Request::new(Lver(5), Force::Stop));
    // On its way to sharing it lets go at once.
    put_leader(&world, 3, true);
    assert_eq!(ask(Force::Kill), Ok(None));
}

#[test]
fn all_who_share_are_asked_and_after_8t_without_a_renewal_nobody_is() {
    let world = World::formatted();
    for host in [1, 3] {
        world.with(host, |resource, member, wanted| {
            let mut wanted = wanted.clone();
            wanted.mode = Mode::Shared;
            let seen = &mut Sightings::default();
            resource.acquire(member, &wanted, seen).unwrap();
        });
    }
    let asked = world.with(3, |resource, member, _| resource.ask(member, Force::Stop));
    let hosts = asked.unwrap().unwrap().hosts;
    assert_eq!(hosts, [1, 3].map(host_id));
    world.with(2, |resource, member, _| {
        world.clock.pass(Duration::from_secs(80));
        resource.ask(member, Force::Kill).unwrap_err();
    });
    assert_eq!(standing(&world).force(), Some(Force::Stop));
}

// ---- bits and events

fn second(second: u64) -> Moment {
    Moment::default().after(Duration::from_secs(second))
}

fn event(number: u64, data: u64) -> Event {
    Event {
        generation: 0,
        number,
        data,
    }
}

/// What a record says at a moment.
fn said(calls: &Calls, at: u64) -> (Vec<u64>, Event) {
    let record = Heartbeat::new(geometry(), &name("LS"), 10);
    let record = calls.on(record, second(at));
    let hosts = record.bitmap().into_iter().map(HostId::get);
    (hosts.collect(), record.event())
}

/// Sets it at a second, for 60, where hosts 2 to 4 are others; host 3 is in its seventh life.
fn set(calls: &mut Calls, at: u64, host: u64, event: Event, flags: u32) -> Result<(), Busy> {
    let others = [2, 3, 4].map(host_id).into_iter();
    let times = (second(at), second(at + 60));
    let wanted = (host_id(host), event, EventFlags(flags));
    calls.set_event(wanted, (others, Generation(7)), times)
}

#[test]
fn an_event_is_set_and_ended_as_sanlock_does_it() {
    let mut calls = Calls::default();
    let nothing = (vec![], Event::default());
    assert_eq!(set(&mut calls, 0, 3, event(5, 77), 0), Ok(()));
    assert_eq!(said(&calls, 59), (vec![3], event(5, 77)));
    assert_eq!(said(&calls, 60), nothing);
    // The same may be set for another; another one may not, unless it takes its place.
    assert_eq!(set(&mut calls, 30, 4, event(5, 77), 0), Ok(()));
    assert_eq!(said(&calls, 59), (vec![3, 4], event(5, 77)));
    assert_eq!(said(&calls, 60), (vec![4], event(5, 77)));
    assert_eq!(set(&mut calls, 59, 2, event(5, 78), 0), Err(Busy));
    assert_eq!(set(&mut calls, 59, 2, event(6, 77), 0), Err(Busy));
    let replace = EventFlags::REPLACE;
    assert_eq!(set(&mut calls, 59, 2, event(6, 77), replace), Ok(()));
    assert_eq!(said(&calls, 59), (vec![2, 3, 4], event(6, 77)));
    // Once nobody is called by it, it is over.
    assert_eq!(set(&mut calls, 119, 2, event(7, 0), 0), Ok(()));
    let clear = EventFlags::CLEAR_HOST;
    assert_eq!(set(&mut calls, 120, 2, event(0, 0), clear), Ok(()));
    assert_eq!(said(&calls, 120), nothing);
    let (all, current) = (EventFlags::ALL_HOSTS, EventFlags::CURRENT_GENERATION);
    assert_eq!(set(&mut calls, 200, 1, event(8, 9), all | current), Ok(()));
    let of_life = Event {
        generation: 7,
        ..event(8, 9)
    };
    assert_eq!(said(&calls, 200), (vec![2, 3, 4], of_life));
    let clear = EventFlags::CLEAR_EVENT;
    assert_eq!(set(&mut calls, 201, 2, event(0, 0), clear), Ok(()));
    assert_eq!(said(&calls, 201).1, Event::default());
    // One that is given stays as it is.
    let given = Event {
        generation: 9,
        ..event(1, 1)
    };
    assert_eq!(set(&mut calls, 300, 3, given, current), Ok(()));
    assert_eq!(said(&calls, 300), (vec![3], given));
}

#[test]
fn who_is_called_for_a_request_hears_of_no_event_that_is_over() {
    let mut calls = Calls::default();
    set(&mut calls, 0, 3, event(5, 77), 0).unwrap();
    calls.request(host_id(2), second(100));
    assert_eq!(said(&calls, 30), (vec![2, 3], event(5, 77)));
    assert_eq!(said(&calls, 90), (vec![2], Event::default()));
    // A lease-join that is restarted goes on with what stands there.
    let record = Heartbeat::new(geometry(), &name("LS"), 10);
    for at in [30, 90, 100] {
        let found = Calls::found_on(&calls.on(record, second(at)), second(at + 60));
        assert_eq!(said(&found, at + 59), said(&calls, at));
        assert_eq!(said(&found, at + 60), (vec![], Event::default()));
    }
}

#[test]
fn a_renewal_that_lands_late_with_another_event_is_still_ours() {
    let world = World::formatted();
    let mut lease = world.join();
    let until = world.clock.now().after(Duration::from_secs(25));
    lease.calls().request(host_id(2), until);
    let times = (world.clock.now(), until);
    let wanted = (host_id(2), event(5, 77), EventFlags(0));
    let others = [host_id(2)].into_iter();
    lease
        .calls()
        .set_event(wanted, (others, Generation(1)), times)
        .unwrap();
    let mut renew = || {
        world.clock.pass(Duration::from_secs(20));
        lease.renew(&*world.disk, &world.clock).map(drop)
    };
    world.disk.next_write(0, Fate::Fails);
    world.disk.log();
    renew().unwrap_err();
    let log = world.disk.log().into_iter();
    let late = log.filter_map(|io| io.written).next().unwrap();
    let record = Heartbeat::decode(&late).unwrap();
    assert_eq!(
        (record.bitmap(), record.event().number),
        (vec![host_id(2)], 5)
    );
    renew().unwrap();
    let now = Heartbeat::decode(&world.disk.at(0, 512)).unwrap();
    assert_eq!((now.bitmap(), now.event()), (vec![], Event::default()));
    world.disk.put_at(0, &late);
    renew().unwrap();
    renew().unwrap();
    // A host that leaves calls nobody.
    let until = world.clock.now().after(Duration::from_secs(60));
    lease.calls().request(host_id(2), until);
    lease.renew(&*world.disk, &world.clock).unwrap();
    lease.leave(&*world.disk, &world.clock).unwrap();
    let left = Heartbeat::decode(&world.disk.at(0, 512)).unwrap();
    assert_eq!(left.bitmap(), []);
}

// ---- the tools, in a simulated world

/// Turn by turn: a back-off passes only within one of them.
const SLICE: Duration = Duration::from_secs(1);

/// Machine 0 holds a lease that machine 1 asks for.
struct Asks {
    stage: Stage,
    holder: Actor,
    asker: Actor,
}

impl Asks {
    /// With a command that ends when it is asked to, or does not.
    fn by(force: Force, obeys: bool) -> Self {
        let mut stage = Stage::of(&[setup(1), setup(2)]);
        let holds = Errand {
            obeys,
            ..errand(Mode::Exclusive, 1000)
        };
        let holder = stage.hold(0, holds);
        stage.until_held(holder);
        let request = Some(force);
        let asks = Errand {
            request,
            ..errand(Mode::Exclusive, 1000)
        };
        let asker = stage.hold(1, asks);
        Self {
            stage,
            holder,
            asker,
        }
    }

    /// Whether who asks comes to hold it within so many seconds, while both go on.
    fn comes_to_hold(&mut self, within: u64) -> bool {
        (0..within.div_ceil(2)).any(|_| {
            self.stage.goes_on_for(self.holder, SLICE);
            self.stage.comes_to_hold(self.asker, SLICE)
        })
    }

    fn go_on_for(&mut self, seconds: u64) {
        assert!(!self.comes_to_hold(seconds), "{}", self.stage.story());
    }

    fn assert_had(&mut self, within: u64) {
        let had = self.comes_to_hold(within);
        assert!(had, "{}", self.stage.story());
        let violation = self.stage.violation();
        assert_eq!(violation, None, "{}", self.stage.story());
    }
}

#[test]
fn who_is_asked_lets_go_within_two_renewals_of_each() {
    for (force, obeys) in [(Force::Stop, true), (Force::Kill, false)] {
        Asks::by(force, obeys).assert_had(12);
    }
    // What does not want to stop is not made to.
    let mut asks = Asks::by(Force::Stop, false);
    asks.go_on_for(60);
    assert_eq!(asks.stage.running().len(), 1, "{}", asks.stage.story());
}

#[test]
fn a_lease_join_that_is_killed_on_either_side_while_one_asks_loses_no_request() {
    for machine in [0, 1] {
        for after in 0..3 {
            let mut asks = Asks::by(Force::Stop, true);
            asks.go_on_for(after);
            asks.stage.kill_join(machine);
            asks.stage.start_join(machine, 0);
            asks.assert_had(12);
        }
    }
}

#[test]
fn one_that_asks_and_is_killed_has_asked() {
    let mut asks = Asks::by(Force::Stop, true);
    while asks.stage.heartbeat(2).bitmap().is_empty() {
        asks.go_on_for(1);
    }
    asks.stage.kill(asks.asker);
    asks.asker = asks.stage.hold(1, errand(Mode::Exclusive, 1000));
    asks.assert_had(12);
}

#[test]
fn a_lease_join_that_is_stopped_for_some_seconds_still_sees_that_it_is_asked() {
    let mut asks = Asks::by(Force::Stop, true);
    let daemon = asks.stage.daemon(0);
    asks.stage.pauses(daemon, true);
    asks.go_on_for(4);
    asks.stage.pauses(daemon, false);
    asks.assert_had(10);
}
