//! Hosts of ours beside hosts that run the real sanlock daemon, in one lockspace. t = 1; W is 60
//! for the daemon and by the daemon, so a takeover takes more than 68 s.
#![allow(clippy::unwrap_used, clippy::panic)]

use lease_core::id::{BallotNumber, Generation, Lver};
use lease_core::record::ballot::{Ballot, BallotSector};
use lease_core::record::leader::Stamp;
use nix::sys::signal::Signal;
use std::time::Duration;
use support::files::Ran;
use support::hosts::Host;
use support::process::{Process, SOON, now, wait_until};
use support::sanlock::{Daemon, TAKEOVER, WATCHDOG};
use support::storage::{Storage, host_id};

const HELD_BY_ANOTHER: i32 = -243;
const SHARED_BY_OTHERS: i32 = -11;

fn refused(ran: &Ran, part: &str) {
    assert_eq!(ran.code, 75, "{ran:?}");
    assert!(ran.stderr.contains(part), "{part:?} is not in {ran:?}");
}

/// Seconds since host `host` renewed last, with fractions.
#[allow(clippy::cast_precision_loss)]
fn silence(storage: &Storage, host: u64) -> f64 {
    Duration::from_nanos(now().0).as_secs_f64() - storage.heartbeat(host).timestamp() as f64
}

/// The daemon tries again until it gets the lease. Right after a release elsewhere, or of its own,
/// it may still be refused.
fn acquire_in_time(daemon: &Daemon, resource: &str, process: &Process, limit: Duration) {
    wait_until("the daemon gets the lease", limit, || {
        (daemon.acquire(resource, process) == 0).then_some(())
    });
}

#[test]
fn each_sees_the_other_alive_refuses_what_it_holds_and_takes_what_it_released() {
    let storage = Storage::new(1);
    let resource = storage.resource(1);
    let daemon = Daemon::joined(&storage, 1);
    let (ours, _join) = Host::joined(&storage, 2);
    let process = daemon.register();

    // It sees our timestamps as we write them.
    let seen = || {
        daemon
            .host_status()
            .into_iter()
            .find(|(host, _)| *host == 2)
    };
    let first = wait_until("the daemon sees us", SOON, seen);
    wait_until("the daemon sees us renew", SOON, || {
        seen().filter(|now| *now > first)
    });
    assert_eq!(daemon.opinion(2), "LIVE");

    for lver in [0, 2, 4] {
        assert_eq!(storage.owner(1), (None, lver));
        acquire_in_time(&daemon, &resource, &process, SOON);
        assert_eq!(storage.owner(1), (Some(1), lver + 1));
        refused(
            &ours.hold(&[&resource], &["true"]),
            "held by host 1; --wait waits for it [-243]",
        );
        let waiting = ours.start_hold(&["-w", "60", &resource], &["true"]);
        daemon.release(&resource, &process);
        waiting.finish();
        assert_eq!(storage.owner(1), (None, lver + 2));
    }

    let hold = ours.holding(&[&resource]);
    assert_eq!(storage.owner(1), (Some(2), 7));
    assert_eq!(daemon.acquire(&resource, &process), HELD_BY_ANOTHER);
    assert_eq!(
        daemon.acquire(&format!("{resource}:SH"), &process),
        HELD_BY_ANOTHER
    );
    hold.signal(Signal::SIGTERM);
    assert_eq!(hold.finish().code, 143);
    assert_eq!(daemon.acquire(&resource, &process), 0);
    assert_eq!(storage.owner(1), (Some(1), 8));
}

#[test]
fn what_a_killed_daemon_held_is_ours_when_it_must_be_dead() {
    let storage = Storage::new(2);
    let [exclusive, shared] = [1, 2].map(|n| storage.resource(n));
    let daemon = Daemon::joined(&storage, 1);
    let (ours, _join) = Host::joined(&storage, 2);
    let process = daemon.register();
    acquire_in_time(&daemon, &exclusive, &process, SOON);
    acquire_in_time(&daemon, &format!("{shared}:SH"), &process, SOON);
    assert_eq!(storage.sharers(2, 2), [1]);
    refused(
        &ours.hold(&[&shared], &["true"]),
        "held shared by host 1; --wait waits for it [-11]",
    );
    let lvers = [1, 2].map(|n| storage.owner(n).1);

    daemon.process.kill();
    process.kill();
    let takes =
        [&exclusive, &shared].map(|resource| ours.start_hold(&["-w", "200", resource], &["true"]));
    for take in takes {
        assert_eq!(take.finish_within(TAKEOVER).code, 0);
        let silence = silence(&storage, 1);
        assert!(silence > 8.0 + WATCHDOG as f64, "taken after {silence} s");
        assert!(silence < 85.0, "taken after {silence} s");
    }
    assert_eq!(
        [1, 2].map(|n| storage.owner(n)),
        lvers.map(|lver| (None, lver + 1))
    );
}

#[test]
fn what_our_killed_host_held_is_the_daemons_when_it_must_be_dead() {
    let storage = Storage::new(2);
    let [exclusive, shared] = [1, 2].map(|n| storage.resource(n));
    let daemon = Daemon::joined(&storage, 1);
    let (ours, join) = Host::joined(&storage, 2);
    let process = daemon.register();
    let hold = ours.holding(&[&exclusive, &format!("{shared}:SH")]);
    wait_until("the daemon sees us alive", SOON, || {
        (daemon.opinion(2) == "LIVE").then_some(())
    });
    assert_eq!(daemon.acquire(&shared, &process), SHARED_BY_OTHERS);
    assert_eq!(daemon.acquire(&exclusive, &process), HELD_BY_ANOTHER);
    let lvers = [1, 2].map(|n| storage.owner(n).1);

    join.kill();
    hold.kill();
    acquire_in_time(&daemon, &exclusive, &process, TAKEOVER);
    let silence = silence(&storage, 2);
    assert!((68.0..95.0).contains(&silence), "taken after {silence} s");
    acquire_in_time(&daemon, &shared, &process, TAKEOVER);
    assert_eq!(storage.owner(1), (Some(1), lvers[0] + 1));
    assert_eq!(storage.owner(2).0, Some(1));
    assert!(storage.owner(2).1 > lvers[1]);
    assert_eq!(storage.sharers(2, 2), [] as [u64; 0]);
}

#[test]
fn both_kinds_share_and_the_last_to_leave_frees() {
    let storage = Storage::new(1);
    let (exclusive, shared) = (storage.resource(1), format!("{}:SH", storage.resource(1)));
    let daemon = Daemon::joined(&storage, 1);
    let (ours, _join_ours) = Host::joined(&storage, 2);
    let (third, _join_third) = Host::joined(&storage, 3);
    let other = Daemon::joined(&storage, 4);
    let [process, wanting] = [&daemon, &other].map(Daemon::register);
    for id in [1, 2] {
        let alive = || (other.opinion(id) == "LIVE").then_some(());
        wait_until("the other daemon sees them alive", SOON, alive);
    }

    acquire_in_time(&daemon, &shared, &process, SOON);
    let hold = ours.holding(&[&shared]);
    assert_eq!(storage.sharers(1, 4), [1, 2]);
    refused(
        &third.hold(&[&exclusive], &["true"]),
        "held shared by hosts 1, 2; --wait waits for it [-11]",
    );
    assert_eq!(other.acquire(&exclusive, &wanting), SHARED_BY_OTHERS);

    daemon.release(&exclusive, &process);
    wait_until("the daemon has released", SOON, || {
        (storage.sharers(1, 4) == [2]).then_some(())
    });
    refused(
        &third.hold(&[&exclusive], &["true"]),
        "held shared by host 2; --wait waits for it [-11]",
    );
    assert_eq!(other.acquire(&exclusive, &wanting), SHARED_BY_OTHERS);

    hold.signal(Signal::SIGTERM);
    assert_eq!(hold.finish().code, 143);
    assert_eq!(storage.sharers(1, 4), [] as [u64; 0]);
    let ran = third.hold(&["-w", "10", &exclusive], &["true"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    acquire_in_time(&other, &exclusive, &wanting, SOON);

    // And back: the daemon's exclusive lease bars our share.
    refused(
        &ours.hold(&[&shared], &["true"]),
        "held by host 4; --wait waits for it [-243]",
    );
    other.release(&exclusive, &wanting);
    let hold = ours.start_hold(&["-w", "60", &shared], &support::hosts::STAY);
    hold.wait_for_stdout("held");
    acquire_in_time(&daemon, &shared, &process, SOON);
    assert_eq!(storage.sharers(1, 4), [1, 2]);
}

/// A ballot of our former life was decided and never committed. The daemon compares host ids
/// only, and would take it for its own.
#[test]
fn a_value_of_our_former_life_is_not_ours() {
    let storage = Storage::new(1);
    let resource = storage.resource(1);
    let daemon = Daemon::joined(&storage, 1);
    let process = daemon.register();
    let (ours, join) = Host::joined(&storage, 2);
    join.signal(Signal::SIGTERM);
    assert_eq!(join.finish().code, 0);
    let _join = ours.join();
    let generation = storage.heartbeat(2).generation();
    assert!(generation > Generation(1));

    let stale = Ballot {
        mbal: BallotNumber(2),
        bal: BallotNumber(2),
        value: Some(Stamp {
            host: host_id(2),
            generation: Generation(1),
            timestamp: 5,
        }),
        lver: Lver(1),
    };
    storage.put_ballot(
        1,
        2,
        &BallotSector {
            ballot: stale,
            ..BallotSector::default()
        },
    );
    let script = "echo $LEASE_GENERATION $LEASE_LVER held; exec sleep 100";
    let hold = ours.start_hold(&[&resource], &["sh", "-c", script]);
    hold.wait_for_stdout("held");
    // The old value was decided for version 1; ours is version 2, by a ballot of its own.
    assert_eq!(hold.stdout(), format!("{generation} 2 held\n"));
    let owner = storage.leader(1).owner().unwrap();
    assert!(owner.same_life(host_id(2), generation), "{owner:?}");
    wait_until("the daemon sees us alive", SOON, || {
        (daemon.opinion(2) == "LIVE").then_some(())
    });
    assert_eq!(daemon.acquire(&resource, &process), HELD_BY_ANOTHER);
}
