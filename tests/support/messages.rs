//! Random messages of the registry, each with anything that its fields can hold.
#![allow(clippy::expect_used)] // A test's helper fails the test by panicking.

use crate::sim::RESOURCE_GEOMETRY;
use fastrand::Rng;
use lease_core::cgroup::Group;
use lease_core::clock::Moment;
use lease_core::contain::Containment;
use lease_core::id::{Generation, HostId, Lver, Name};
use lease_core::liveness::{Sighting, Sightings};
use lease_core::registry::message::{
    AreaId, Ask, Asked, HolderId, Left, Phase, Rival, Tell, Turn, Welcome,
};
use lease_core::registry::order::{LeaseName, Order, OrderId, Outcome, Patience};
use lease_core::spec::{Mode, NamedSpec, Place, ResourceArgument};
use lease_core::storage::Identity;
use lease_core::timing::Timing;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::Duration;

fn number(rng: &mut Rng) -> u64 {
    match rng.u8(..3) {
        0 => rng.u64(..3),
        1 => u64::MAX - rng.u64(..3),
        _ => rng.u64(..),
    }
}

fn moment(rng: &mut Rng) -> Moment {
    Moment(number(rng))
}

fn text(rng: &mut Rng) -> String {
    let length = rng.usize(..20);
    std::iter::repeat_with(|| rng.char(..))
        .take(length)
        .collect()
}

fn bytes(rng: &mut Rng) -> Vec<u8> {
    let length = rng.usize(1..=48);
    std::iter::repeat_with(|| rng.u8(1..))
        .take(length)
        .collect()
}

fn name(rng: &mut Rng) -> Name {
    Name::from_field(&bytes(rng)).expect("a name")
}

/// Most are no UTF-8.
fn path(rng: &mut Rng) -> PathBuf {
    OsString::from_vec(bytes(rng)).into()
}

fn host(rng: &mut Rng) -> HostId {
    HostId::new(rng.u64(1..=2000)).expect("a host id")
}

fn timing(rng: &mut Rng) -> Timing {
    Timing::new(rng.u8(1..), rng.u16(1..=60)).expect("a timing")
}

fn some<T>(rng: &mut Rng, of: impl Fn(&mut Rng) -> T) -> Option<T> {
    rng.bool().then(|| of(rng))
}

fn several<T>(rng: &mut Rng, of: impl Fn(&mut Rng) -> T) -> Vec<T> {
    (0..rng.usize(..4)).map(|_| of(rng)).collect()
}

fn lver(rng: &mut Rng) -> Lver {
    Lver(number(rng))
}

fn phase(rng: &mut Rng) -> Phase {
    let lver = lver(rng);
    let all = [
        Phase::Idle,
        Phase::Acquiring,
        Phase::Held(lver),
        Phase::Leaving(lver),
        Phase::Releasing,
        Phase::Doubt,
    ];
    all[rng.usize(..all.len())]
}

fn left(rng: &mut Rng) -> Left {
    Left {
        doubt: rng.bool(),
        late: rng.bool(),
    }
}

fn area(rng: &mut Rng) -> AreaId {
    AreaId {
        identity: Identity {
            device: number(rng),
            inode: number(rng),
        },
        offset: number(rng),
    }
}

fn place(rng: &mut Rng) -> Place {
    Place {
        path: path(rng),
        offset: number(rng),
    }
}

fn asked(rng: &mut Rng) -> Asked {
    Asked {
        resource: name(rng),
        mode: [Mode::Exclusive, Mode::Shared][rng.usize(..2)],
        areas: several(rng, |rng| some(rng, area)),
        places: several(rng, place),
        spec: text(rng),
    }
}

fn containment(rng: &mut Rng) -> Containment {
    match rng.u8(..5) {
        0 => Containment::Cgroup(path(rng)),
        1 => Containment::PidNamespace,
        2 => Containment::Tree,
        3 => Containment::Group(Group {
            path: path(rng),
            inode: number(rng),
        }),
        _ => Containment::Alone,
    }
}

fn argument(rng: &mut Rng) -> ResourceArgument {
    let (lockspace, mode) = (name(rng), [Mode::Exclusive, Mode::Shared][rng.usize(..2)]);
    let spec = NamedSpec {
        lockspace,
        name: name(rng),
        path: path(rng),
        mode,
    };
    match rng.bool() {
        true => ResourceArgument::Placed(spec.at(number(rng))),
        false => ResourceArgument::Named(spec),
    }
}

fn patience(rng: &mut Rng) -> Patience {
    match rng.u8(..3) {
        0 => Patience::None,
        1 => Patience::UntilKnown,
        _ => Patience::For(Duration::from_nanos(number(rng))),
    }
}

fn order(rng: &mut Rng) -> Order {
    let lease = |rng: &mut Rng| LeaseName {
        lockspace: name(rng),
        resource: name(rng),
    };
    match rng.bool() {
        true => Order::Acquire {
            resources: several(rng, argument),
            patience: patience(rng),
        },
        false => Order::Release {
            leases: several(rng, lease),
        },
    }
}

fn outcome(rng: &mut Rng) -> Outcome {
    Outcome {
        status: rng.u8(..),
        sanlock: some(rng, |rng| rng.i32(..)),
        text: text(rng),
    }
}

/// What a lease-hold says.
pub fn ask(rng: &mut Rng) -> Ask {
    let index = rng.usize(..);
    match rng.u8(..14) {
        0 => Ask::Register {
            command: text(rng),
            resources: several(rng, asked),
        },
        1 => Ask::Describe,
        2 => Ask::Resume {
            holder: HolderId(number(rng)),
            generation: Generation(number(rng)),
            phases: several(rng, phase),
            late: several(rng, Rng::bool),
            guards: rng.bool(),
        },
        3 => Ask::Acquire { index },
        4 => Ask::Acquired {
            index,
            lver: some(rng, lver),
            left: left(rng),
        },
        5 => Ask::Guard {
            containment: containment(rng),
        },
        6 => Ask::Gone,
        7 => Ask::Start { reads: rng.bool() },
        8 => Ask::Release { index },
        9 => Ask::Yield { index },
        10 => Ask::Claim {
            index,
            resource: asked(rng),
        },
        11 => Ask::Order {
            id: OrderId(number(rng)),
            to: rng.i32(..),
            order: order(rng),
        },
        12 => Ask::Ordered {
            id: OrderId(number(rng)),
            outcome: outcome(rng),
        },
        _ => Ask::Released {
            index,
            left: left(rng),
        },
    }
}

fn sighting(rng: &mut Rng) -> (HostId, Sighting) {
    let sighting = Sighting {
        generation: Generation(number(rng)),
        timestamp: number(rng),
        timing: timing(rng),
        since: moment(rng),
        changed: some(rng, moment),
        looked: moment(rng),
        lost: rng.bool(),
        former_over: moment(rng),
    };
    (host(rng), sighting)
}

fn welcome(rng: &mut Rng) -> Welcome {
    Welcome {
        holder: HolderId(number(rng)),
        lockspace: name(rng),
        host: host(rng),
        generation: Generation(number(rng)),
        host_name: name(rng),
        path: path(rng),
        offset: number(rng),
        geometry: RESOURCE_GEOMETRY,
        timing: timing(rng),
        renewed: moment(rng),
        ballots_from: moment(rng),
        hosts: Sightings::from(several(rng, sighting)),
    }
}

fn turn(rng: &mut Rng) -> Turn {
    match some(rng, moment) {
        Some(not_before) => Turn::Ballot { not_before },
        None => Turn::Share,
    }
}

fn rival(rng: &mut Rng) -> Rival {
    Rival {
        pid: rng.i32(..),
        command: text(rng),
        passing: rng.bool(),
        crashed: rng.bool(),
    }
}

/// What a lease-join says; all but the description, which is for people.
pub fn tell(rng: &mut Rng) -> Tell {
    let index = rng.usize(..);
    match rng.u8(..16) {
        0 => Tell::Registered(Box::new(welcome(rng))),
        1 => Tell::Resumed {
            renewed: moment(rng),
        },
        2 => Tell::Refused { why: text(rng) },
        3 => Tell::Turn {
            index,
            how: turn(rng),
        },
        4 => Tell::Busy {
            index,
            by: rival(rng),
        },
        5 => Tell::Go {
            generation: Generation(number(rng)),
            renewed: moment(rng),
        },
        6 => Tell::ReleaseTurn {
            index,
            last: rng.bool(),
        },
        7 => Tell::Renewed {
            renewed: moment(rng),
        },
        8 => Tell::Lost { why: text(rng) },
        9 => Tell::NotGuarded { why: text(rng) },
        10 => Tell::Order {
            id: OrderId(number(rng)),
            order: order(rng),
        },
        11 => Tell::Withdrawn {
            id: OrderId(number(rng)),
        },
        12 => Tell::Ordered {
            outcome: outcome(rng),
        },
        13 => Tell::Claimed {
            index,
            hosts: Sightings::from(several(rng, sighting)),
        },
        14 => Tell::NotClaimed {
            index,
            why: text(rng),
        },
        _ => Tell::Stop,
    }
}
