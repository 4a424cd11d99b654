//! Two hosts in one lockspace, one with the real daemon and one with ours: each command in both
//! directions; and a host that is moved from one to the other while another one runs on.

use super::held::{STAY, acquire, acquire_in_time, join, registered, release};
use support::process::{SOON, wait_until};
use support::served::{Served, Server};
use support::storage::Storage;

fn says_live(served: &Served, id: u64) {
    let start = format!("h {id} ");
    wait_until("it sees the other alive", SOON, || {
        let hosts = served.client(&["gets", "-h", "1"]).stdout;
        let mut lines = hosts.lines();
        lines
            .any(|line| line.starts_with(&start) && line.ends_with("LIVE"))
            .then_some(())
    });
}

#[test]
fn each_refuses_what_the_other_holds_and_takes_what_it_gave_back() {
    let storage = Storage::new(2);
    let hosts = [Server::Daemon, Server::Ours].map(|server| Served::start(server, "HOST"));
    join(&hosts[0], &storage, 1);
    join(&hosts[1], &storage, 2);
    says_live(&hosts[0], 2);
    says_live(&hosts[1], 1);
    let processes = [
        registered(&hosts[0], "", STAY),
        registered(&hosts[1], "", STAY),
    ];
    let exclusive = storage.resource(1);
    let shared = format!("{}:SH", storage.resource(2));
    for (one, other) in [(0, 1), (1, 0), (0, 1)] {
        let (host, beside) = (&hosts[one], &hosts[other]);
        acquire_in_time(host, &exclusive, &processes[one]);
        let said = acquire(beside, &exclusive, &processes[other]);
        assert!(said.contains("done -243"), "{other}: {said}");
        let said = acquire(beside, &format!("{exclusive}:SH"), &processes[other]);
        assert!(said.contains("done -243"), "{other}: {said}");
        // Both share the second one.
        acquire_in_time(host, &shared, &processes[one]);
        acquire_in_time(beside, &shared, &processes[other]);
        let said = acquire(beside, &storage.resource(2), &processes[other]);
        assert!(said.contains("done -17"), "{other}: {said}");
        assert!(release(host, &shared, &processes[one]).contains("done 0"));
        // One still shares.
        let said = acquire(host, &storage.resource(2), &processes[one]);
        assert!(said.contains("done -11"), "{one}: {said}");
        assert!(release(beside, &shared, &processes[other]).contains("done 0"));
        assert!(release(host, &exclusive, &processes[one]).contains("done 0"));
    }
    let owners = |served: &Served| served.client(&["read", "-r", &exclusive]).stdout;
    assert_eq!(owners(&hosts[0]), owners(&hosts[1]));
}

#[test]
fn a_host_is_moved_from_the_daemon_to_ours_while_another_one_runs_on() {
    let storage = Storage::new(2);
    let [mut moved, other] = ["HOST1", "HOST2"].map(|name| Served::start(Server::Daemon, name));
    join(&moved, &storage, 1);
    join(&other, &storage, 2);
    let [guest, beside] = [&moved, &other].map(|served| registered(served, "", STAY));
    acquire_in_time(&moved, &storage.resource(1), &guest);
    acquire_in_time(&other, &storage.resource(2), &beside);
    let kept = storage.owner(2);

    // The guest is stopped, or has gone to another host.
    guest.kill();
    wait_until("its lease is given back", SOON, || {
        storage.owner(1).0.is_none().then_some(())
    });
    // What systemctl stop sanlock does.
    let ran = moved.client(&["shutdown", "-f", "1"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(moved.process.finish().code, 0);
    // What systemctl start lease-sanlock does, and whoever adds the lockspace.
    moved.replace_by(Server::Ours);
    join(&moved, &storage, 1);
    let guest = registered(&moved, "", STAY);
    acquire_in_time(&moved, &storage.resource(1), &guest);
    assert_eq!(storage.owner(1).0, Some(1));
    let said = acquire(&moved, &storage.resource(2), &guest);
    assert!(said.contains("done -243"), "{said}");
    assert_eq!(storage.owner(2), kept);
    assert_eq!(beside.code(), None);
    says_live(&other, 1);
    says_live(&moved, 2);
    let said = acquire(&other, &storage.resource(1), &beside);
    assert!(said.contains("done -243"), "{said}");
}
