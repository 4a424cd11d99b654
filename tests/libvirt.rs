//! A real libvirtd with its own lock manager plugin for sanlock, and a real QEMU: each thing that
//! libvirt does with leases, and what must come of it. What answers the plugin is the real sanlock
//! daemon or `lease-join --sanlock-socket`, on one host this and on the other that.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use support::files::Ran;
use support::libvirt::{Domain, Manager, Site, VirtualHost, disk_xml};
use support::path::StoragePath;
use support::process::{Process, SOON, now, together, wait_until};
use support::storage::Storage;

/// Who keeps the leases of the two hosts.
type Managers = (Manager, Manager);

const BUSY: &str = "Failed to acquire lock: Lease is held by another host";

/// qemu-sanlock.conf with a lease for each disk.
fn automatic(site: &Site, id: u64) -> Vec<String> {
    let mut lines = manual(site, id);
    lines[0] = "auto_disk_leases = 1".to_owned();
    lines
}

/// qemu-sanlock.conf with the leases that a domain names.
fn manual(site: &Site, id: u64) -> Vec<String> {
    vec![
        "auto_disk_leases = 0".to_owned(),
        format!("disk_lease_dir = \"{}\"", site.leases().display()),
        format!("host_id = {id}"),
        "io_timeout = 1".to_owned(),
    ]
}

fn host_with(site: &Site, id: u64, manager: Manager, lines: &[String]) -> VirtualHost {
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let mut host = VirtualHost::new(site, id, manager, &lines);
    host.start();
    host
}

fn host(site: &Site, id: u64, manager: Manager) -> VirtualHost {
    host_with(site, id, manager, &automatic(site, id))
}

/// Two hosts, a guest's disk, and its domain.
struct Pair {
    site: Site,
    a: VirtualHost,
    b: VirtualHost,
    disk: PathBuf,
    domain: Domain,
}

impl Pair {
    fn start(managers: Managers) -> Self {
        let site = Site::default();
        let (a, b) = (host(&site, 1, managers.0), host(&site, 2, managers.1));
        Self::of(site, a, b)
    }

    fn of(site: Site, a: VirtualHost, b: VirtualHost) -> Self {
        let disk = site.disk("guest");
        let domain = Domain::on(&disk).by(&site.qemu());
        Self {
            site,
            a,
            b,
            disk,
            domain,
        }
    }

    fn run_on(&self, host: &VirtualHost) {
        let ran = host.create(&self.domain);
        assert_eq!(ran.code, 0, "{ran:?} {}", host.log());
        self.site.wait_for_guest(&self.disk);
    }

    fn refused_on(&self, host: &VirtualHost, why: &str) {
        refused(&host.create(&self.domain), why);
    }

    /// Another domain, with a disk of its own.
    fn other(&self, name: &str) -> (PathBuf, Domain) {
        let disk = self.site.disk(name);
        let domain = Domain::on(&disk).by(&self.site.qemu());
        (disk, domain)
    }

    /// A device in a file, for attach-device and detach-device.
    fn device(&self, name: &str, xml: &str) -> String {
        let path = self.site.path().join(name);
        std::fs::write(&path, xml).unwrap();
        path.display().to_string()
    }
}

fn refused(ran: &Ran, why: &str) {
    assert!(ran.code != 0 && ran.stderr.contains(why), "{why}: {ran:?}");
}

/// Libvirt forgets a guest that has ended a moment later.
fn wait_until_gone(host: &VirtualHost, domain: &Domain) {
    wait_until("libvirt sees its end", SOON, || {
        host.state(domain).is_empty().then_some(())
    });
}

fn one_host(managers: Managers) {
    let pair = Pair::start(managers);
    pair.run_on(&pair.a);
    pair.refused_on(&pair.b, BUSY);
    pair.site.wait_for_guest(&pair.disk);
    // The same disk in another domain of the same host.
    let twice = Domain::on(&pair.disk).by(&pair.site.qemu()).called("twice");
    refused(&pair.a.create(&twice), "Failed to acquire lock");
    pair.a.ask(&["destroy", "guest"]);
    pair.run_on(&pair.b);
    pair.refused_on(&pair.a, BUSY);
    // QEMU crashes.
    let qemu = pair.b.outer_pid(&pair.b.pid_of(&pair.domain));
    pair.b.kill(qemu);
    wait_until_gone(&pair.b, &pair.domain);
    wait_until("its lease is free", SOON, || {
        (pair.a.create(&pair.domain).code == 0).then_some(())
    });
    pair.site.wait_for_guest(&pair.disk);
    pair.site.assert_never_two(&pair.disk);
}

fn suspended(managers: Managers) {
    let pair = Pair::start(managers);
    pair.run_on(&pair.a);
    pair.a.ask(&["suspend", "guest"]);
    pair.site.assert_no_guest(&pair.disk);
    // It has no lease now.
    pair.run_on(&pair.b);
    refused(&pair.a.virsh(&["resume", "guest"]), BUSY);
    assert_eq!(pair.a.state(&pair.domain), "paused");
    pair.site.assert_never_two(&pair.disk);
    pair.b.ask(&["destroy", "guest"]);
    pair.site.assert_no_guest(&pair.disk);
    pair.a.ask(&["resume", "guest"]);
    pair.site.wait_for_guest(&pair.disk);
    pair.refused_on(&pair.b, BUSY);
    // It goes on with what it remembers, and finds what the other one wrote last. Once.
    assert!(pair.site.written(&pair.disk).by_others <= 1);
}

fn migrated(managers: Managers) {
    let pair = Pair::start(managers);
    pair.run_on(&pair.a);
    for (from, to) in [(&pair.a, &pair.b), (&pair.b, &pair.a)] {
        let ran = from.migrate(&pair.domain, to);
        assert_eq!(ran.code, 0, "{ran:?} {} {}", from.log(), to.log());
        pair.site.wait_for_guest(&pair.disk);
        assert_eq!(
            (
                from.state(&pair.domain).as_str(),
                to.state(&pair.domain).as_str()
            ),
            ("", "running")
        );
        pair.refused_on(from, BUSY);
    }
    // The target does not get the lease: it finds another one in its place.
    let lease = pair.site.lease(&pair.disk);
    let (other, domain) = pair.other("other");
    assert_eq!(pair.a.create(&domain).code, 0);
    pair.a.ask(&["destroy", "other"]);
    let other = pair.site.lease(&other).display().to_string();
    let bind = ["--bind", &other, &lease.display().to_string()];
    assert_eq!(pair.b.run("mount", &bind).code, 0);
    refused(
        &pair.a.migrate(&pair.domain, &pair.b),
        "Failed to acquire lock",
    );
    assert_eq!(pair.a.state(&pair.domain), "running");
    assert_eq!(pair.b.state(&pair.domain), "");
    pair.site.wait_for_guest(&pair.disk);
    assert_eq!(pair.b.run("umount", &bind[2..]).code, 0);
    pair.refused_on(&pair.b, BUSY);
    pair.site.assert_never_two(&pair.disk);
}

fn attached(managers: Managers) {
    let pair = Pair::start(managers);
    pair.run_on(&pair.a);
    let (extra, extra_domain) = pair.other("extra");
    let device = pair.device("extra.xml", &disk_xml(&extra, "sdb", ""));
    pair.a.ask(&["attach-device", "guest", &device]);
    refused(&pair.b.create(&extra_domain), BUSY);
    pair.a.ask(&["detach-device", "guest", &device]);
    assert_eq!(pair.b.create(&extra_domain).code, 0);
    pair.site.wait_for_guest(&extra);
    refused(&pair.a.virsh(&["attach-device", "guest", &device]), BUSY);
    // The lease of the first disk was not touched.
    pair.refused_on(&pair.b, BUSY);
    pair.b.ask(&["destroy", "extra"]);
    // What is only read needs no lease, and takes none away.
    let read = pair.device("read.xml", &disk_xml(&extra, "sdb", "<readonly/>"));
    pair.a.ask(&["attach-device", "guest", &read]);
    assert_eq!(pair.b.create(&extra_domain).code, 0);
    pair.a.ask(&["detach-device", "guest", &read]);
    pair.refused_on(&pair.b, BUSY);
    pair.site.assert_never_two(&pair.disk);
    pair.site.assert_never_two(&extra);
}

fn shared_disks(managers: Managers) {
    let pair = Pair::start(managers);
    let shared = pair.site.disk("shared");
    let read = pair.site.disk("read");
    let with = |name: &str| {
        Domain::on(&pair.site.disk(name))
            .by(&pair.site.qemu())
            .with(&disk_xml(&shared, "vdb", "<shareable/>"))
            .with(&disk_xml(&read, "vdc", "<readonly/>"))
    };
    assert_eq!(pair.a.create(&with("one")).code, 0);
    let ran = pair.b.create(&with("two"));
    assert_eq!(ran.code, 0, "{ran:?}");
    refused(
        &pair.b.create(&Domain::on(&shared).by(&pair.site.qemu())),
        "Failed to acquire lock",
    );
    assert_eq!(
        pair.b.create(&Domain::on(&read).by(&pair.site.qemu())).code,
        0
    );
}

fn restarted(managers: Managers) {
    let mut pair = Pair::start(managers);
    pair.run_on(&pair.a);
    pair.a.kill_libvirtd();
    pair.refused_on(&pair.b, BUSY);
    pair.a.start_libvirtd();
    assert_eq!(pair.a.state(&pair.domain), "running");
    pair.refused_on(&pair.b, BUSY);
    pair.a.ask(&["suspend", "guest"]);
    pair.site.assert_no_guest(&pair.disk);
    pair.a.ask(&["resume", "guest"]);
    pair.site.wait_for_guest(&pair.disk);
    pair.refused_on(&pair.b, BUSY);
    pair.a.ask(&["destroy", "guest"]);
    pair.run_on(&pair.b);
    pair.site.assert_never_two(&pair.disk);
}

fn snapshots(managers: Managers) {
    let pair = Pair::start(managers);
    pair.run_on(&pair.a);
    let overlay = pair.site.path().join("disks/overlay").display().to_string();
    let spec = format!("hda,file={overlay},snapshot=external");
    let snapshot = [
        "snapshot-create-as",
        "guest",
        "s1",
        "--disk-only",
        "--no-metadata",
        "--diskspec",
        &spec,
    ];
    pair.a.ask(&snapshot);
    assert!(pair.a.ask(&["domblklist", "guest"]).contains("overlay"));
    // The disk is only read from now on, and what is written has a lease of its own.
    pair.site.assert_no_guest(&pair.disk);
    let held = |disk: &Path| {
        let name = pair.site.lease(disk);
        let name = name.file_name().unwrap().to_string_lossy().into_owned();
        pair.a.held().contains(&name)
    };
    let overlay = PathBuf::from(overlay);
    assert!(held(&overlay) && !held(&pair.disk), "{}", pair.a.held());
    let commit = [
        "blockcommit",
        "guest",
        "hda",
        "--active",
        "--pivot",
        "--wait",
    ];
    pair.a.ask(&commit);
    assert!(held(&pair.disk) && !held(&overlay), "{}", pair.a.held());
    pair.site.wait_for_guest(&pair.disk);
    pair.refused_on(&pair.b, BUSY);
    pair.site.assert_never_two(&pair.disk);
}

fn named_leases(managers: Managers) {
    let site = Site::default();
    let hosts = [(1, managers.0), (2, managers.1)];
    let lockspace = site.leases().join("LS");
    let place = |id: u64| format!("LS:{id}:{}:0", lockspace.display());
    let resource = |name: &str| format!("LS:{name}:{}:0", site.leases().join(name).display());
    let hosts = hosts.map(|(id, manager)| host_with(&site, id, manager, &manual(&site, id)));
    let format = [
        "--create",
        "-o",
        "1",
        "-s",
        &place(0),
        "-r",
        &resource("R1"),
        "-r",
        &resource("R2"),
    ];
    let ran = support::files::run(Path::new("/"), "lease-init", &format);
    assert_eq!(ran.code, 0, "{ran:?}");
    for (host, id) in hosts.iter().zip(1..) {
        let ran = host.run(
            "sanlock",
            &["client", "add_lockspace", "-s", &place(id), "-o", "1"],
        );
        assert_eq!(ran.code, 0, "{ran:?}");
    }
    let [a, b] = hosts;
    let lease = |name: &str| {
        let path = site.leases().join(name);
        format!(
            "<lease><lockspace>LS</lockspace><key>{name}</key><target path='{}' offset='0'/></lease>",
            path.display()
        )
    };
    let (first, second) = (lease("R1"), lease("R2"));
    let mut pair = Pair::of(site, a, b);
    pair.domain = pair.domain.with(&first);
    pair.run_on(&pair.a);
    pair.refused_on(&pair.b, BUSY);
    let device = pair.device("lease.xml", &second);
    pair.a.ask(&["attach-device", "guest", &device]);
    let (_, other) = pair.other("other");
    let other = other.with(&second);
    refused(&pair.b.create(&other), BUSY);
    pair.a.ask(&["detach-device", "guest", &device]);
    let ran = pair.b.create(&other);
    assert_eq!(ran.code, 0, "{ran:?}");
    refused(&pair.a.virsh(&["attach-device", "guest", &device]), BUSY);
    let ran = pair.a.migrate(&pair.domain, &pair.b);
    assert_eq!(ran.code, 0, "{ran:?}");
    pair.refused_on(&pair.a, BUSY);
    pair.site.wait_for_guest(&pair.disk);
    pair.site.assert_never_two(&pair.disk);
}

fn cleaned_up(managers: Managers) {
    let pair = Pair::start(managers);
    pair.run_on(&pair.a);
    let (other, domain) = pair.other("other");
    assert_eq!(pair.a.create(&domain).code, 0);
    pair.a.ask(&["destroy", "other"]);
    let ran = pair.a.run("virt-sanlock-cleanup", &[]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(!pair.site.lease(&other).exists(), "nobody holds it");
    assert!(pair.site.lease(&pair.disk).exists(), "it is held");
    pair.refused_on(&pair.b, BUSY);
    assert_eq!(pair.b.create(&domain).code, 0);
}

fn lost(managers: Managers) {
    let ways = [("poweroff", ""), ("pause", "paused")];
    // With ours, what libvirt has paused is killed after the grace.
    let ways = match managers.0 {
        Manager::Lease => &ways[..1],
        _ => &ways,
    };
    together(
        ways,
        |(action, _)| (*action).to_owned(),
        |way| lost_by(managers.0, *way),
    );
}

/// Nothing can be renewed any more: the storage of the lockspace fails.
fn lost_by(manager: Manager, (action, expected): (&str, &str)) {
    let storage = Storage::new(1);
    let path = StoragePath::to(&storage);
    let site = Site::default();
    let a = host_with(&site, 1, manager, &manual(&site, 1));
    let place = path.disk().display().to_string();
    let lockspace = format!("LS:1:{place}:0");
    let join = ["client", "add_lockspace", "-s", &lockspace, "-o", "1"];
    let ran = a.run("sanlock", &join);
    assert_eq!(ran.code, 0, "{ran:?}");
    let disk = site.disk("guest");
    let domain = Domain::on(&disk).by(&site.qemu()).with(&format!(
        "<lease><lockspace>LS</lockspace><key>R1</key><target path='{place}' offset='{}'/></lease>",
        storage.offset(1)
    ));
    let domain = domain.set(&format!("<on_lockfailure>{action}</on_lockfailure>"));
    let ran = a.create(&domain);
    assert_eq!(ran.code, 0, "{ran:?} {}", a.log());
    site.wait_for_guest(&disk);
    path.refuse();
    let is_dealt_with = || (a.state(&domain) == expected).then_some(());
    wait_until(
        "the guest is dealt with",
        Duration::from_secs(60),
        is_dealt_with,
    );
    site.assert_no_guest(&disk);
    // What is paused has no lease, and is left alone: longer than any grace.
    std::thread::sleep(Duration::from_secs(45));
    assert_eq!(a.state(&domain), expected);
    site.assert_no_guest(&disk);
}

/// What only ours can do: who answers libvirt is killed, and started again, and no guest notices.
const OURS: Managers = (Manager::Lease, Manager::Lease);

#[test]
#[ignore = "tests/libvirt runs it"]
fn who_answers_libvirt_can_be_killed_while_a_guest_runs() {
    let mut pair = Pair::start(OURS);
    pair.run_on(&pair.a);
    for _ in 0..2 {
        pair.a.kill_keeper();
        pair.site.wait_for_guest(&pair.disk);
        pair.refused_on(&pair.b, BUSY);
        pair.a.start_keeper();
        pair.refused_on(&pair.b, BUSY);
        pair.a.ask(&["suspend", "guest"]);
        assert_eq!(pair.a.held(), "");
        pair.a.ask(&["resume", "guest"]);
        pair.refused_on(&pair.b, BUSY);
    }
    let ran = pair.a.migrate(&pair.domain, &pair.b);
    assert_eq!(ran.code, 0, "{ran:?}");
    pair.refused_on(&pair.a, BUSY);
    // The guest ends while nobody answers.
    pair.b.kill_keeper();
    pair.b.ask(&["destroy", "guest"]);
    wait_until("its lease is free", SOON, || {
        (pair.a.create(&pair.domain).code == 0).then_some(())
    });
    pair.site.wait_for_guest(&pair.disk);
    pair.site.assert_never_two(&pair.disk);
}

#[test]
#[ignore = "tests/libvirt runs it"]
fn who_answers_libvirt_can_be_killed_while_a_guest_is_suspended() {
    let mut pair = Pair::start(OURS);
    pair.run_on(&pair.a);
    pair.a.ask(&["suspend", "guest"]);
    pair.a.kill_keeper();
    pair.a.start_keeper();
    pair.a.ask(&["resume", "guest"]);
    pair.site.wait_for_guest(&pair.disk);
    pair.refused_on(&pair.b, BUSY);
    // Nobody answers any more: what holds no lease could be resumed without one, and is ended.
    pair.a.ask(&["suspend", "guest"]);
    pair.a.kill_keeper();
    wait_until_gone(&pair.a, &pair.domain);
    pair.run_on(&pair.b);
    pair.site.assert_never_two(&pair.disk);
}

#[test]
#[ignore = "tests/libvirt runs it"]
fn who_answers_libvirt_can_be_killed_while_a_guest_is_migrated() {
    let mut pair = Pair::start(OURS);
    pair.run_on(&pair.a);
    for end in [0, 1] {
        let arguments = pair.a.migrate_command(&pair.domain, &pair.b);
        let migration = Process::start(&mut { arguments });
        wait_until("the target's QEMU", SOON, || {
            (migration.code().is_some() || !pair.b.state(&pair.domain).is_empty()).then_some(())
        });
        match end {
            0 => pair.a.kill_keeper(),
            _ => pair.b.kill_keeper(),
        }
        migration.finish_within(Duration::from_secs(120));
        match end {
            0 => pair.a.start_keeper(),
            _ => pair.b.start_keeper(),
        }
        // Wherever it is now, it is there alone, or nowhere.
        pair.site.assert_never_two(&pair.disk);
        for host in [&pair.a, &pair.b] {
            host.virsh(&["destroy", "guest"]);
        }
        wait_until("the guest can be started", SOON, || {
            (pair.a.create(&pair.domain).code == 0).then_some(())
        });
        pair.site.wait_for_guest(&pair.disk);
        pair.refused_on(&pair.b, BUSY);
    }
    pair.site.assert_never_two(&pair.disk);
}

#[test]
#[ignore = "tests/libvirt runs it"]
fn a_host_that_is_gone_is_waited_for() {
    let Pair {
        site,
        a,
        b,
        disk,
        domain,
    } = Pair::start(OURS);
    assert_eq!(a.create(&domain).code, 0);
    site.wait_for_guest(&disk);
    drop(a);
    let gone = now();
    // Alive, as far as its last heartbeat says; then one start waits until it must be dead.
    wait_until("the guest can be started", Duration::from_secs(150), || {
        (b.create(&domain).code == 0).then_some(())
    });
    assert!(now().since(gone) > Duration::from_secs(60), "too early");
    site.wait_for_guest(&disk);
    site.assert_never_two(&disk);
}

#[test]
fn two_guests_on_one_disk_are_seen() {
    let site = Site::default();
    let disk = site.disk("guest");
    let drive = format!(
        "file={},format=raw,cache=none,file.locking=off",
        disk.display()
    );
    let start = || {
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args([
            "-accel",
            "tcg",
            "-m",
            "64",
            "-display",
            "none",
            "-nodefaults",
            "-drive",
            &drive,
        ]);
        Process::start(&mut qemu)
    };
    let _one = start();
    site.wait_for_guest(&disk);
    site.assert_never_two(&disk);
    let _two = start();
    wait_until("that there are two", SOON, || {
        (site.written(&disk).by_others > 0).then_some(())
    });
}

/// Every scenario with these lock managers on the two hosts. The first is short.
macro_rules! with {
    ($($module:ident: $managers:expr;)*) => { $(
        mod $module {
            use super::*;

            #[test]
            fn a_guest_runs_on_one_host() {
                one_host($managers);
            }

            each! { $managers,
                a_guest_that_is_suspended_has_no_lease: suspended;
                a_guest_is_migrated_alive_or_stays: migrated;
                a_disk_that_is_attached_has_a_lease: attached;
                shared_disks_are_shared: shared_disks;
                libvirtd_can_be_restarted: restarted;
                what_is_written_has_the_lease_in_a_snapshot_and_after_it: snapshots;
                leases_that_a_domain_names_are_held: named_leases;
                what_nobody_holds_is_cleaned_up: cleaned_up;
                a_guest_is_powered_off_or_paused_when_its_lease_is_lost: lost;
            }
        }
    )* };
}

macro_rules! each {
    ($managers:expr, $($name:ident: $play:ident;)*) => { $(
        #[test]
        #[ignore = "tests/libvirt runs it"]
        fn $name() {
            $play($managers);
        }
    )* };
}

with! {
    sanlock: (Manager::Sanlock, Manager::Sanlock);
    ours: (Manager::Lease, Manager::Lease);
    from_sanlock: (Manager::Sanlock, Manager::Lease);
    to_sanlock: (Manager::Lease, Manager::Sanlock);
}
