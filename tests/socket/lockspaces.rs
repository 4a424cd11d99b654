//! Lockspaces that clients add outlive whoever serves them, and are watched over by the next.

use lease_core::id::Name;
use lease_core::registry::asking;
use lease_core::registry::place::Place;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::process::{SOON, runs, wait_until};
use support::served::{Served, Server};
use support::storage::Storage;

/// The lease-join of the lockspace, and its generation.
fn joined(served: &Served) -> Option<(i32, u64)> {
    let place = Place::open(&served.run_dir(), &Name::new(b"LS").unwrap()).ok()?;
    let (says, pid) = asking::describe(&place, SOON).ok()?;
    Some((pid, says.generation.0))
}

fn wait_for_join(served: &Served) -> (i32, u64) {
    wait_until("a lease-join serves the lockspace", SOON, || joined(served))
}

#[test]
fn a_lockspace_outlives_whoever_serves_and_is_watched_over_by_the_next() {
    let storage = Storage::new(1);
    let lockspace = storage.lockspace(1);
    let mut served = Served::promising(Server::Ours, "HOST1", 10);
    let ran = served.client(&["add_lockspace", "-s", &lockspace, "-o", "1"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let (first, generation) = wait_for_join(&served);

    // Killed, it is there again, in the same life.
    kill(Pid::from_raw(first), Signal::SIGKILL).unwrap();
    let next = wait_until("another one goes on", SOON, || {
        joined(&served).filter(|(pid, _)| *pid != first)
    });
    assert_eq!(next.1, generation);

    served.process.kill();
    assert!(runs(next.0));
    served.start_again();
    let asked = ["inq_lockspace", "-s", &lockspace];
    let ran = wait_until("it is known again", SOON, || {
        let ran = served.client(&asked);
        (ran.code == 0).then_some(ran)
    });
    assert!(ran.stdout.contains("inq_lockspace done 0"), "{ran:?}");
    assert_eq!(joined(&served), Some(next));
    let ran = served.client(&["status"]);
    assert!(ran.stdout.contains(&format!("s {lockspace}\n")), "{ran:?}");

    kill(Pid::from_raw(next.0), Signal::SIGKILL).unwrap();
    let last = wait_until("another one goes on", SOON, || {
        joined(&served).filter(|(pid, _)| *pid != next.0)
    });
    assert_eq!(last.1, generation);
    let ran = served.client(&["rem_lockspace", "-s", &lockspace]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(!runs(last.0));
    assert!(storage.heartbeat(1).is_free());
    assert_eq!(served.client(&["shutdown"]).code, 0);
    assert_eq!(served.process.finish().code, 0);
}

#[test]
fn what_is_in_use_by_a_host_of_ours_is_refused_with_the_daemons_number() {
    let storage = Storage::new(0);
    let lockspace = storage.lockspace(1);
    let [first, second] = ["HOST1", "HOST2"].map(|name| Served::start(Server::Ours, name));
    let add = ["add_lockspace", "-s", &lockspace, "-o", "1"];
    assert_eq!(first.client(&add).code, 0);
    let ran = second.client(&add);
    assert!(
        ran.stdout.contains("add_lockspace_timeout done -262"),
        "{ran:?}"
    );
    // The first watches for a change over a renewal, and no longer.
    assert!(first.client(&["status"]).stdout.contains(&lockspace));
    assert!(!second.client(&["status"]).stdout.contains(&lockspace));
}
