//! What an acquire and a release ask of the storage: every read and write, to the byte.

use super::*;
use lease_core::clock::Moment;
use lease_core::delta::Tenure;
use lease_core::disk::{Disk, Fault};
use lease_core::format;
use lease_core::quorum::{Quorum, Replica};
use lease_core::resource::{Member, Resource};
use std::cell::RefCell;
use support::scene::{lockspace, name, timing};
use support::script::ScriptClock;

const SECTOR: usize = 512;

/// A resource in memory, and the length of each read and write.
struct Meter {
    bytes: RefCell<Vec<u8>>,
    ios: RefCell<Vec<(char, usize)>>,
}

impl Disk for Meter {
    fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>, Fault> {
        self.ios.borrow_mut().push(('r', len));
        Ok(self.bytes.borrow()[offset as usize..][..len].to_vec())
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), Fault> {
        self.ios.borrow_mut().push(('w', bytes.len()));
        put(&mut self.bytes.borrow_mut(), offset, bytes);
        Ok(())
    }

    fn settle(&self) -> Result<(), Fault> {
        Ok(())
    }
}

/// Sectors read and written, in their order: by an acquire, and by the release.
fn costs(num_hosts: u64, mode: Mode, prepare: impl Fn(&mut [u8])) -> [String; 2] {
    costs_of(1, num_hosts, mode, prepare)
}

/// The same of another host than the first one.
fn costs_of(host: u64, num_hosts: u64, mode: Mode, prepare: impl Fn(&mut [u8])) -> [String; 2] {
    let resource = format::Resource {
        geometry: geometry(),
        lockspace: name("LS"),
        name: name("RS"),
        num_hosts,
    };
    let mut bytes = resource.area();
    prepare(&mut bytes);
    let disk = Meter {
        bytes: RefCell::new(bytes),
        ios: RefCell::default(),
    };
    let clock = ScriptClock::at(10_000);
    let tenure = Tenure::new(timing(), clock.now());
    let member = Member {
        clock: &clock,
        tenure: &tenure,
        lockspace: lockspace(),
        heartbeats: &disk,
        host: host_id(host),
        generation: Generation(1),
        ballots_from: Moment::default(),
    };
    let replica = Replica {
        disk: &disk,
        offset: 0,
    };
    let resource = Resource {
        quorum: Quorum::new(vec![replica]),
        lockspace: name("LS"),
        name: name("RS"),
        geometry: geometry(),
        num_hosts,
    };
    let wanted = World::formatted().with(1, |_, _, wanted| Wanted {
        mode,
        ..wanted.clone()
    });
    let told = || {
        let ios = disk.ios.take();
        let told = ios
            .iter()
            .map(|(what, len)| format!("{what}{}", len / SECTOR));
        told.collect::<Vec<_>>().join(" ")
    };
    let held = held(resource.acquire(&member, &wanted, &mut Sightings::default()));
    let acquire = told();
    resource.release(&member, &held).unwrap();
    [acquire, told()]
}

#[test]
fn an_uncontended_acquire_reads_all_records_twice_whatever_the_number_of_hosts() {
    for hosts in [64, 500, 2000] {
        let all = hosts + 2;
        let exclusive = costs(hosts, Mode::Exclusive, |_| {});
        let acquire = format!("r3 w1 r{all} w1 r{all} r1 w1 r1");
        assert_eq!(exclusive, [acquire, "r1 w1 w1".to_owned()]);
        let shared = costs(hosts, Mode::Shared, |_| {});
        // Says that it shares, sees that the leader is its own, frees it, and says so.
        let acquire = format!("r3 w1 r{all} w1 r{all} r1 w1 w1 r1 r1 w1 w1");
        assert_eq!(shared, [acquire, "w1".to_owned()]);
    }
}

#[test]
fn a_record_far_from_the_leader_is_read_by_itself() {
    for (host, glance) in [(126, "r128"), (127, "r1 r1"), (2000, "r1 r1")] {
        let [acquire, _] = costs_of(host, 2000, Mode::Exclusive, |_| {});
        let expected = format!("{glance} w1 r2002 w1 r2002 r1 w1 r1");
        assert_eq!(acquire, expected, "host {host}");
    }
}

#[test]
fn the_last_owners_record_is_read_before_the_ballot_and_after_the_commit() {
    let last_was_host_2 = |bytes: &mut [u8]| {
        let two = stamp(2, 1);
        let leader = Leader::decode(bytes).unwrap();
        let freed = leader
            .committed(Lver(1), two, two, Some(false))
            .released(two);
        put(bytes, 0, &freed.to_sector());
        let released = BallotSector {
            released: true,
            ..block(1, 2, Some(two))
        };
        let at = geometry().ballot_at(host_id(2)) as u64;
        put(bytes, at, &released.to_sector(geometry().sector()));
    };
    let [acquire, _] = costs(2000, Mode::Exclusive, last_was_host_2);
    assert_eq!(acquire, "r3 r1 w1 r2002 w1 r2002 r1 w1 r1 r1");
}

#[test]
fn an_uncontended_lease_costs_four_writes_and_is_looked_at_before_and_after() {
    let world = World::formatted();
    let held = world.acquired(1);
    // A glance at the leader and our record by one read; two phases; the commit between two looks
    // at the leader. "leader" is also the area, which starts with it.
    let acquire = "r leader w block 1 r leader w block 1 r leader \
                   r leader w leader r leader";
    assert_eq!(told(&world.disk.log()).join(" "), acquire);
    world.release(1, &held).unwrap();
    let release = ["r leader", "w leader", "w block 1"];
    assert_eq!(told(&world.disk.log()), release);
}

/// The number of hosts of the resource that is acquired where instructions are counted.
const HOSTS: &str = "LEASE_TEST_HOSTS";

#[test]
fn one_acquire_and_its_release() {
    let hosts = std::env::var(HOSTS).map_or(64, |hosts| hosts.parse().unwrap());
    let [acquire, release] = costs(hosts, Mode::Exclusive, |_| {});
    assert!(!acquire.is_empty() && !release.is_empty());
}

/// Instructions that the test above takes for so many hosts, as valgrind(1) counts them.
fn instructions(hosts: u64) -> u64 {
    let test = [
        "cost::one_acquire_and_its_release",
        "--exact",
        "--test-threads=1",
    ];
    let ran = std::process::Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe().unwrap())
        .args(test)
        .env(HOSTS, hosts.to_string())
        .output();
    assert!(
        ran.is_ok(),
        "valgrind must be installed for this test (apt-get install valgrind)"
    );
    let said = String::from_utf8(ran.unwrap().stderr).unwrap();
    let counted = said.split("Collected :").nth(1);
    let counted = counted.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    counted.unwrap_or_else(|| panic!("{said}"))
}

#[test]
fn the_work_of_an_acquire_grows_with_the_number_of_hosts_and_no_faster() {
    let [few, more, most] = [64, 500, 2000].map(instructions);
    let (first, last) = ((more - few) / (500 - 64), (most - more) / (2000 - 500));
    // Each host of the many costs as much as each of the first ones.
    assert!(
        last <= first + first / 4,
        "{few} {more} {most}: {first} {last} each"
    );
}
