//! A real libvirtd whose domains have lease-hold, with a real QEMU, as their emulator: each thing
//! that libvirt does, and what must come of it. There is no lock manager but lease-join.
#![allow(clippy::unwrap_used, clippy::panic)]

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;
use support::files::binary;
use support::libvirt::{Domain, Manager, Site, VirtualHost, write_program};
use support::process::{Process, SOON, now, runs, wait_for_end, wait_until};

/// A host with libvirtd, lease-join, and the emulator.
struct Host {
    libvirt: VirtualHost,
    join: Process,
}

/// The wrapper as it is shipped, with the places of this test.
fn emulator(site: &Site) -> PathBuf {
    let shipped = include_str!("../lease-hold/libvirt/lease-qemu");
    let mut wrapper = shipped.to_owned();
    for (name, place, own) in [
        ("leases", "/var/lib/libvirt/leases", site.leases()),
        ("qemu", "/usr/bin/qemu-system-x86_64", site.qemu()),
    ] {
        let line = format!("{name}={place}");
        assert!(wrapper.contains(&line), "{line}");
        wrapper = wrapper.replace(&line, &format!("{name}={}", own.display()));
    }
    let path = site.path().join("lease-qemu");
    if !path.exists() {
        write_program(&path, &wrapper);
    }
    path
}

impl Host {
    fn start(site: &Site, id: u64) -> Self {
        Self::on(VirtualHost::new(site, id, Manager::None, &[]), site, id)
    }

    fn on(mut libvirt: VirtualHost, site: &Site, id: u64) -> Self {
        let at = site.leases().join("__LIBVIRT__DISKS__");
        let lockspace = |id: u64| format!("__LIBVIRT__DISKS__:{id}:{}:0", at.display());
        if !at.exists() {
            let format = ["--create", "-o", "1", "-s", &lockspace(0)];
            let ran = libvirt.run(binary("lease-init"), &format);
            assert_eq!(ran.code, 0, "{ran:?}");
        }
        let mut join = libvirt.command("setpriv");
        let run_dir = site.path().join(&libvirt.name).join("run/lease");
        let user = std::fs::metadata(run_dir).unwrap().uid();
        join.arg(format!("--reuid={user}"))
            .args(["--clear-groups", "--"]);
        join.arg(binary("lease-join"));
        let name = libvirt.name.clone();
        join.args(["-e", &name, "--watchdog-timeout", "2", &lockspace(id)]);
        let join = Process::start(&mut join);
        join.wait_for_stdout("joined");
        libvirt.start();
        Self { libvirt, join }
    }
}

/// Two hosts, a guest's disk, and its domain.
struct Pair {
    site: Site,
    a: Host,
    b: Host,
    disk: PathBuf,
    domain: Domain,
}

impl Pair {
    fn start() -> Self {
        let site = Site::default();
        let (a, b) = (Host::start(&site, 1), Host::start(&site, 2));
        let disk = site.disk("guest");
        let domain = Domain::on(&disk).by(&emulator(&site));
        Self {
            site,
            a,
            b,
            disk,
            domain,
        }
    }

    /// Starts the guest, and waits until it runs.
    fn run_on(&self, host: &Host) {
        let ran = host.libvirt.create(&self.domain);
        let said = || host.libvirt.log_of(&self.domain);
        assert_eq!(ran.code, 0, "{ran:?} {}", said());
        self.site.wait_for_guest(&self.disk);
    }

    /// The guest cannot be started, for the reason that is on the screen.
    fn refused_on(&self, host: &Host, why: &str) {
        let ran = host.libvirt.create(&self.domain);
        assert!(ran.code != 0 && ran.stderr.contains(why), "{why}: {ran:?}");
    }

    /// The processes of the guest on a host: lease-hold, and QEMU.
    fn processes(&self, host: &Host) -> (i32, i32) {
        let inner = host.libvirt.pid_of(&self.domain);
        let hold = host.libvirt.outer_pid(&inner);
        let qemu = wait_until("lease-hold's child", SOON, || {
            let children = std::fs::read_to_string(format!("/proc/{hold}/task/{hold}/children"));
            let children = children.unwrap_or_default();
            let children = children.split_whitespace().map(|pid| pid.parse().unwrap());
            let named = |pid: &i32| {
                let path = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
                path.to_string_lossy().contains("qemu-system")
            };
            children.into_iter().find(named)
        });
        (hold, qemu)
    }
}

fn signal(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).unwrap();
}

#[test]
fn a_domain_runs_on_one_host_and_is_handed_on_when_it_ends() {
    let pair = Pair::start();
    pair.run_on(&pair.a);
    // The pid that libvirt knows is lease-hold's, and QEMU has the sockets that it was passed.
    let (hold, qemu) = pair.processes(&pair.a);
    let name = std::fs::read_to_string(format!("/proc/{hold}/comm")).unwrap();
    assert_eq!(name.trim(), "lease-hold");
    let why = "held by host 1 (host1)";
    pair.refused_on(&pair.b, why);
    // libvirt asks with SIGTERM, and does not wait after the process is gone.
    pair.a.libvirt.ask(&["destroy", "guest"]);
    assert!(!runs(hold) && !runs(qemu));
    pair.run_on(&pair.b);
    pair.refused_on(&pair.a, "held by host 2 (host2)");
    // QEMU ends by itself.
    let quit = ["qemu-monitor-command", "guest", "--hmp", "quit"];
    pair.b.libvirt.virsh(&quit);
    wait_until("libvirt sees its end", SOON, || {
        pair.b.libvirt.state(&pair.domain).is_empty().then_some(())
    });
    pair.run_on(&pair.a);
    // QEMU is killed.
    let (hold, qemu) = pair.processes(&pair.a);
    signal(qemu, Signal::SIGKILL);
    wait_for_end(hold, SOON);
    pair.run_on(&pair.b);
    pair.site.assert_never_two(&pair.disk);
}

#[test]
#[ignore = "tests/libvirt runs it"]
fn what_libvirt_does_to_lease_hold_reaches_qemu() {
    let pair = Pair::start();
    pair.run_on(&pair.a);
    // Killed, as libvirt does it to what does not end within 10 seconds.
    let (hold, qemu) = pair.processes(&pair.a);
    signal(hold, Signal::SIGKILL);
    wait_for_end(qemu, SOON);
    pair.site.assert_no_guest(&pair.disk);
    run_when_it_can_be(&pair, &pair.b);
    // A QEMU that does not react any more: after SIGTERM comes SIGKILL, and then it is gone.
    let (hold, qemu) = pair.processes(&pair.b);
    signal(qemu, Signal::SIGSTOP);
    pair.b.libvirt.ask(&["destroy", "guest"]);
    wait_for_end(hold, SOON);
    wait_for_end(qemu, SOON);
    run_when_it_can_be(&pair, &pair.a);
    pair.site.assert_never_two(&pair.disk);
}

/// lease-join ends what a lease-hold that was killed has left, then the lease is free.
fn run_when_it_can_be(pair: &Pair, host: &Host) {
    wait_until("the guest can be started", SOON, || {
        (host.libvirt.create(&pair.domain).code == 0).then_some(())
    });
    pair.site.wait_for_guest(&pair.disk);
}

#[test]
fn libvirt_finds_out_what_qemu_can_do_without_a_lease() {
    let site = Site::default();
    // There is no lease-join, and no place for leases.
    let mut host = VirtualHost::new(&site, 1, Manager::None, &[]);
    host.start();
    let emulator = emulator(&site).display().to_string();
    let can = host.ask(&[
        "domcapabilities",
        "--emulatorbin",
        &emulator,
        "--virttype",
        "qemu",
    ]);
    assert!(can.contains("<domain>qemu</domain>"), "{can}");
    let made = std::fs::read_dir(site.leases()).unwrap().count();
    assert_eq!(made, 0);
    let domain = Domain::on(&site.disk("guest")).by(Path::new(&emulator));
    let ran = host.create(&domain);
    assert!(ran.stderr.contains("no live lease-join"), "{ran:?}");
    // A guest without a disk of its own needs none.
    let ran = host.create(&domain.without_disks());
    assert_eq!(ran.code, 0, "{ran:?}");
}

#[test]
#[ignore = "tests/libvirt runs it"]
fn a_start_waits_until_a_host_that_is_gone_must_be_dead() {
    let Pair {
        site,
        a,
        b,
        disk,
        domain,
    } = Pair::start();
    assert_eq!(a.libvirt.create(&domain).code, 0);
    site.wait_for_guest(&disk);
    // The host is gone, with all that ran on it.
    let gone = now();
    drop(a);
    // It is alive for as long as its last heartbeat says so; then one start waits for the rest.
    wait_until("the guest can be started", SOON, || {
        (b.libvirt.create(&domain).code == 0).then_some(())
    });
    assert!(now().since(gone) >= Duration::from_secs(7), "too early");
    site.wait_for_guest(&disk);
    site.assert_never_two(&disk);
}

#[test]
#[ignore = "tests/libvirt runs it"]
fn a_guest_is_killed_before_another_host_takes_its_lease() {
    let pair = Pair::start();
    pair.run_on(&pair.a);
    let (hold, qemu) = pair.processes(&pair.a);
    // Its host loses the lockspace: nothing is renewed any more.
    pair.a
        .join
        .children()
        .iter()
        .for_each(|join| signal(*join, Signal::SIGSTOP));
    run_when_it_can_be(&pair, &pair.b);
    assert!(!runs(qemu), "two guests");
    wait_for_end(hold, SOON);
    pair.site.assert_never_two(&pair.disk);
}

#[test]
#[ignore = "tests/libvirt runs it"]
fn a_live_migration_is_refused_and_names_the_plugin() {
    let pair = Pair::start();
    pair.run_on(&pair.a);
    let ran = pair.a.libvirt.migrate(&pair.domain, &pair.b.libvirt);
    assert!(
        ran.code != 0 && ran.stderr.contains("libvirt's sanlock plugin"),
        "{ran:?}"
    );
    assert_eq!(pair.a.libvirt.state(&pair.domain), "running");
    pair.site.wait_for_guest(&pair.disk);
    // What is saved holds nothing, and can be restored on another host.
    let saved = pair.site.path().join("saved").display().to_string();
    pair.a.libvirt.ask(&["save", "guest", &saved]);
    pair.b.libvirt.ask(&["restore", &saved]);
    pair.site.wait_for_guest(&pair.disk);
    pair.refused_on(&pair.a, "held by host 2");
    pair.site.assert_never_two(&pair.disk);
}

#[test]
#[ignore = "tests/libvirt runs it"]
fn the_user_that_libvirt_has_for_guests_can_hold_leases() {
    const USER: &str = "libvirt-qemu";
    let site = Site::default();
    let user = nix::unistd::User::from_name(USER).unwrap().unwrap();
    let own = |path: &Path| chown(path, Some(user.uid.as_raw()), None).unwrap();
    std::fs::set_permissions(site.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let libvirt = VirtualHost::new(&site, 1, Manager::None, &[]).with_stock_user();
    own(&site.leases());
    own(&site.path().join("host1/run/lease"));
    let at = site.leases().join("__LIBVIRT__DISKS__");
    let lockspace = format!("__LIBVIRT__DISKS__:0:{}:0", at.display());
    let ran = libvirt.run(
        binary("lease-init"),
        &["--create", "-o", "1", "-s", &lockspace],
    );
    assert_eq!(ran.code, 0, "{ran:?}");
    own(&at);
    let a = Host::on(libvirt, &site, 1);
    let b = Host::start(&site, 2);
    let disk = site.disk("guest");
    let domain = Domain::on(&disk).by(&emulator(&site));
    let pair = Pair {
        site,
        a,
        b,
        disk,
        domain,
    };
    pair.run_on(&pair.a);
    let (hold, _) = pair.processes(&pair.a);
    let owner = std::fs::metadata(format!("/proc/{hold}")).unwrap().uid();
    assert_eq!(owner, user.uid.as_raw());
    pair.refused_on(&pair.b, "held by host 1");
    pair.a.libvirt.ask(&["destroy", "guest"]);
    pair.site.assert_never_two(&pair.disk);
}

#[test]
#[ignore = "tests/libvirt runs it"]
fn libvirtd_can_be_restarted_under_its_guests() {
    let mut pair = Pair::start();
    pair.run_on(&pair.a);
    pair.a.libvirt.kill_libvirtd();
    pair.a.libvirt.start_libvirtd();
    assert_eq!(pair.a.libvirt.state(&pair.domain), "running");
    pair.site.wait_for_guest(&pair.disk);
    pair.refused_on(&pair.b, "held by host 1");
    pair.a.libvirt.ask(&["suspend", "guest"]);
    pair.site.assert_no_guest(&pair.disk);
    // A guest that is suspended keeps its lease.
    pair.refused_on(&pair.b, "held by host 1");
    pair.a.libvirt.ask(&["resume", "guest"]);
    pair.site.wait_for_guest(&pair.disk);
    pair.a.libvirt.ask(&["destroy", "guest"]);
    pair.run_on(&pair.b);
    pair.site.assert_never_two(&pair.disk);
}

#[test]
fn the_emulator_and_the_plugin_with_sanlock_exclude_each_other() {
    let site = Site::default();
    let leases = site.leases();
    let plugin = [
        "auto_disk_leases = 1".to_owned(),
        format!("disk_lease_dir = \"{}\"", leases.display()),
        "host_id = 2".to_owned(),
        "io_timeout = 1".to_owned(),
    ];
    let plugin: Vec<&str> = plugin.iter().map(String::as_str).collect();
    let a = Host::start(&site, 1);
    let mut b = VirtualHost::new(&site, 2, Manager::Sanlock, &plugin);
    b.start();
    let with = |disk: &Path| {
        let domain = Domain::on(disk);
        (domain.clone().by(&emulator(&site)), domain.by(&site.qemu()))
    };
    let disk = site.disk("guest");
    let (ours, theirs) = with(&disk);
    let busy = "Failed to acquire lock: Lease is held by another host";
    let ran = a.libvirt.create(&ours);
    assert_eq!(ran.code, 0, "{ran:?}");
    let ran = b.create(&theirs);
    assert!(ran.code != 0 && ran.stderr.contains(busy), "{ran:?}");
    a.libvirt.ask(&["destroy", "guest"]);
    let ran = b.create(&theirs);
    assert_eq!(ran.code, 0, "{ran:?}");
    let ran = a.libvirt.create(&ours);
    assert!(
        ran.code != 0 && ran.stderr.contains("held by host 2"),
        "{ran:?}"
    );
    site.wait_for_guest(&disk);
    site.assert_never_two(&disk);
    // Both make the lease of a disk at the same time.
    for name in ["one", "two", "three"] {
        let disk = site.disk(name);
        let (ours, theirs) = with(&disk);
        let started = std::thread::scope(|scope| {
            let theirs = scope.spawn(|| b.create(&theirs).code == 0);
            [a.libvirt.create(&ours).code == 0, theirs.join().unwrap()]
        });
        assert_ne!(started, [true, true], "{name}");
        // libvirt gives up where another was faster to make it, and is then asked again.
        if started == [true, false] {
            let ran = b.create(&theirs);
            assert!(ran.stderr.contains(busy), "{ran:?}");
        }
        site.wait_for_guest(&disk);
        site.assert_never_two(&disk);
    }
}
