//! lease-hold --auto-disks: the leases of a QEMU's disks, as libvirt's own lock manager has them,
//! beside hosts of ours and beside the real sanlock daemon; and RESOURCE strings in a file. The
//! QEMU is a script: nothing but its name and its arguments count.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;
use support::files::{Ran, run};
use support::hosts::Host;
use support::process::{Process, SOON, together, wait_until};
use support::sanlock::Daemon;
use support::storage::Storage;

/// The lockspace's storage, a directory of leases, and a QEMU.
struct Scene {
    storage: Storage,
}

impl Scene {
    fn new() -> Self {
        let storage = Storage::new(1);
        let scene = Self { storage };
        std::fs::create_dir(scene.leases()).unwrap();
        let qemu = scene.qemu();
        std::fs::write(&qemu, "#!/bin/sh\necho held; exec sleep 1000\n").unwrap();
        std::fs::set_permissions(&qemu, PermissionsExt::from_mode(0o755)).unwrap();
        scene
    }

    fn leases(&self) -> PathBuf {
        self.storage.path().join("leases")
    }

    fn qemu(&self) -> PathBuf {
        self.storage.path().join("qemu-system-fake")
    }

    fn options(&self) -> [String; 3] {
        let leases = self.leases().display().to_string();
        [
            "--auto-disks".to_owned(),
            leases,
            "--lockspace=LS".to_owned(),
        ]
    }

    fn start(&self, host: &Host, arguments: &[&str]) -> Process {
        let options = self.options();
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let qemu = self.qemu().display().to_string();
        let command = [&[qemu.as_str()], arguments].concat();
        let mut command = host.hold_command(&options, &command);
        Process::start(command.current_dir(self.storage.path()))
    }

    fn holding(&self, host: &Host, arguments: &[&str]) -> Process {
        let process = self.start(host, arguments);
        process.wait_for_stdout("held");
        process
    }

    /// The RESOURCE string of a lease.
    fn resource(&self, md5: &str) -> String {
        format!("LS:{md5}:{}:0", self.leases().join(md5).display())
    }

    /// What lies in the directory of leases.
    fn made(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.leases()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }
}

/// `printf /srv/disk | md5sum`, and so on.
const DISK: (&str, &str) = ("/srv/disk", "85eca93ef35058f91740c65b19e30e4b");
const OTHER: (&str, &str) = ("/srv/other", "dcfd7281b9257fd0e0d2bf437536bd97");

#[test]
fn a_disk_that_is_written_has_one_holder() {
    let scene = Scene::new();
    let (a, _join_a) = Host::joined(&scene.storage, 1);
    let (b, _join_b) = Host::joined(&scene.storage, 2);
    let hold = scene.holding(&a, &["-hda", DISK.0, "-cdrom", "/srv/cd"]);
    assert_eq!(scene.made(), [DISK.1]);
    let file = std::fs::metadata(scene.leases().join(DISK.1)).unwrap();
    assert_eq!((file.len(), file.mode() & 0o777), (1 << 20, 0o600));
    // However it is written, it is the same disk.
    for other in [
        &["-drive", "file=/srv/disk,format=qcow2,if=virtio"][..],
        &[
            "-blockdev",
            r#"{"driver":"file","node-name":"n","filename":"/srv/disk"}"#,
        ],
        &["-hda", OTHER.0, "/srv/disk"],
    ] {
        let ran = scene.start(&b, other).finish();
        assert_eq!((ran.code, ran.stdout.as_str()), (75, ""), "{ran:?}");
        let named = format!("LS:{} (/srv/disk): held by host 1 (host1)", DISK.1);
        assert!(ran.stderr.contains(&named), "{ran:?}");
    }
    let _other = scene.holding(&b, &["-hda", OTHER.0]);
    let ran = scene
        .start(&b, &["-hda", DISK.0, "-incoming", "defer"])
        .finish();
    assert!(
        ran.code == 75 && ran.stderr.contains("sanlock plugin"),
        "{ran:?}"
    );
    hold.kill();
    wait_until("the lease is free", SOON, || {
        let ran = scene.start(&b, &["-hda", DISK.0]);
        let held = wait_until("it runs or is refused", SOON, || match ran.code() {
            Some(_) => Some(false),
            None => ran.stdout().contains("held").then_some(true),
        });
        held.then_some(())
    });
}

#[test]
fn a_disk_is_the_one_of_its_whole_path() {
    let scene = Scene::new();
    let (a, _join) = Host::joined(&scene.storage, 1);
    let whole = scene.storage.path().join("disk").display().to_string();
    let hold = scene.holding(&a, &["-hda", "disk"]);
    let ran = scene.start(&a, &["-hda", &whole]).finish();
    assert_eq!(ran.code, 75, "{ran:?}");
    drop(hold);
}

#[test]
fn a_shared_disk_has_many_holders_that_share_it() {
    let scene = Scene::new();
    let (a, _join_a) = Host::joined(&scene.storage, 1);
    let (b, _join_b) = Host::joined(&scene.storage, 2);
    let disk = "if=none,id=d,file=/srv/disk";
    let shared = [
        "-drive",
        disk,
        "-device",
        "virtio-blk-pci,drive=d,share-rw=on",
    ];
    let _one = scene.holding(&a, &shared);
    let _two = scene.holding(&b, &shared);
    let ran = scene.start(&b, &["-drive", disk]).finish();
    assert_eq!(ran.code, 75, "{ran:?}");
}

#[test]
fn a_host_with_sanlock_and_a_plain_qemu_exclude_each_other() {
    let scene = Scene::new();
    let (a, _join) = Host::joined(&scene.storage, 1);
    let daemon = Daemon::joined(&scene.storage, 2);
    // What the daemon holds was formatted by sanlock, as libvirt lets it do.
    let resource = scene.resource(DISK.1);
    std::fs::write(scene.leases().join(DISK.1), vec![0; 1 << 20]).unwrap();
    let ran = daemon.client(&["init", "-r", &resource]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let guest = daemon.register();
    assert_eq!(daemon.acquire(&resource, &guest), 0);
    let ran = scene.start(&a, &["-hda", DISK.0]).finish();
    assert!(ran.code == 75 && ran.stderr.contains("host 2"), "{ran:?}");
    daemon.release(&resource, &guest);
    let _hold = scene.holding(&a, &["-hda", DISK.0]);
    assert_eq!(daemon.acquire(&resource, &guest), -243);
    // And one of ours.
    let _other = scene.holding(&a, &["-hda", OTHER.0]);
    assert_eq!(daemon.acquire(&scene.resource(OTHER.1), &guest), -243);
}

#[test]
fn two_hosts_that_make_a_lease_at_the_same_time_end_with_one() {
    let scene = Scene::new();
    let hosts = [
        Host::joined(&scene.storage, 1),
        Host::joined(&scene.storage, 2),
    ];
    for round in 0..5 {
        let disk = format!("/srv/{round}");
        let starts: Vec<Process> = [0, 1, 0, 1]
            .iter()
            .map(|host: &usize| scene.start(&hosts[*host].0, &["-hda", &disk]))
            .collect();
        let outcome = |start: &Process| {
            wait_until("it runs or is refused", SOON, || match start.code() {
                None => start.stdout().contains("held").then_some(0),
                code => code,
            })
        };
        let mut outcomes: Vec<i32> = starts.iter().map(outcome).collect();
        outcomes.sort_unstable();
        let said: Vec<_> = starts.iter().map(Process::stderr).collect();
        assert_eq!(outcomes, [0, 75, 75, 75], "{said:?}");
        assert_eq!(scene.made().len(), round + 1, "{:?}", scene.made());
    }
}

#[test]
fn what_another_is_making_is_waited_for() {
    let scene = Scene::new();
    let (a, _join) = Host::joined(&scene.storage, 1);
    for (start, (disk, md5)) in [(vec![], DISK), (vec![0; 1 << 20], OTHER)] {
        let file = scene.leases().join(md5);
        std::fs::write(&file, &start).unwrap();
        let hold = scene.start(&a, &["-hda", disk]);
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(hold.code(), None, "{}", hold.stderr());
        let format = ["--create", "-r", &scene.resource(md5)];
        let ran = run(scene.storage.path(), "lease-init", &format);
        assert_eq!(ran.code, 0, "{ran:?}");
        hold.wait_for_stdout("held");
    }
    std::fs::write(scene.leases().join(THIRD.1), []).unwrap();
    let ran = scene.start(&a, &["-hda", THIRD.0]).finish();
    assert!(
        ran.code == 65 && ran.stderr.contains("nobody formats it"),
        "{ran:?}"
    );
}

const THIRD: (&str, &str) = ("/srv/third", "409228e1310d22288bad71f26c14e899");

#[test]
fn a_lease_belongs_to_whom_its_lockspace_belongs() {
    let scene = Scene::new();
    let (a, _join) = Host::joined(&scene.storage, 1);
    let lockspace = scene.leases().join("LS");
    std::fs::write(&lockspace, "").unwrap();
    std::fs::set_permissions(&lockspace, PermissionsExt::from_mode(0o660)).unwrap();
    chown(&lockspace, Some(65534), Some(1)).unwrap();
    let _hold = scene.holding(&a, &["-hda", DISK.0]);
    let made = std::fs::metadata(scene.leases().join(DISK.1)).unwrap();
    assert_eq!(
        (made.uid(), made.gid(), made.mode() & 0o777),
        (65534, 1, 0o660)
    );
}

#[test]
fn what_cannot_be_told_costs_nothing() {
    let scene = Scene::new();
    let (a, _join) = Host::joined(&scene.storage, 1);
    for arguments in [
        &["-hda", "/srv/disk", "-drive", "file=rbd:pool/image"][..],
        &["-hda", "/srv/disk", "-readconfig", "/srv/file"],
        &["-hda", "/srv/disk", "-unheard-of", "/srv/other"],
    ] {
        let ran = scene.start(&a, arguments).finish();
        assert_eq!((ran.code, ran.stdout.as_str()), (64, ""), "{ran:?}");
        assert!(
            ran.stderr
                .starts_with("lease-hold: cannot tell the disks of "),
            "{ran:?}"
        );
    }
    let options = scene.options();
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let ran = a.hold(&options, &["sh", "-c", "echo held", "/srv/disk"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (64, ""), "{ran:?}");
    let ran = a.hold(&["--lockspace=LS", "LS:R1:/nowhere:0"], &["true"]);
    assert_eq!(ran.code, 64, "{ran:?}");
    assert_eq!(scene.made(), [""; 0]);
    std::fs::remove_dir(scene.leases()).unwrap();
    let ran = scene.start(&a, &["-hda", "/srv/disk"]).finish();
    assert!(
        ran.code == 66 && ran.stderr.contains("the lease of /srv/disk"),
        "{ran:?}"
    );
}

#[test]
fn a_guest_that_writes_no_disk_runs_without_a_lease() {
    let scene = Scene::new();
    // Nobody has joined, and nobody has to.
    let nobody = Host::new(&scene.storage, 1);
    let hold = scene.holding(
        &nobody,
        &["-cdrom", "/srv/cd", "-drive", "file=/a,snapshot=on"],
    );
    hold.wait_for_stderr("qemu-system-fake writes no disk: it runs without a lease");
    // It is that process from then on, until the end of its script.
    wait_until("it has become the guest", SOON, || {
        let name = std::fs::read_to_string(format!("/proc/{}/comm", hold.pid()));
        (name.unwrap().trim() == "sleep").then_some(())
    });
}

#[test]
fn resources_can_stand_in_a_file() {
    let storage = Storage::new(3);
    let (a, _join) = Host::joined(&storage, 1);
    let list = storage.path().join("list").display().to_string();
    let lines = |lines: &[&str]| std::fs::write(&list, lines.join("\n")).unwrap();
    let show = ["sh", "-c", "echo $LEASE_LEASES"];
    lines(&[
        "# two",
        "",
        &storage.resource(1),
        &format!("  {}\r", storage.resource(2)),
        "",
    ]);
    let ran = a.hold(&[&format!("@{list}"), &storage.resource(3)], &show);
    assert_eq!(ran.code, 0, "{ran:?}");
    for name in ["R1", "R2", "R3"] {
        assert!(ran.stdout.contains(&format!("\"{name}\"")), "{ran:?}");
    }
    let refused = |code: i32, part: &str| {
        let ran: Ran = a.hold(&[&format!("@{list}")], &show);
        assert!(ran.code == code && ran.stderr.contains(part), "{ran:?}");
        assert_eq!(ran.stdout, "");
    };
    lines(&["# one", "LS:R1"]);
    refused(64, &format!("LS:R1 in line 2 of {list}"));
    lines(&["# none"]);
    refused(64, "there is no RESOURCE");
    std::fs::remove_file(&list).unwrap();
    refused(66, &format!("cannot read @{list}"));
}

#[test]
fn libvirts_own_lockspace_is_the_one_of_default() {
    let scene = Scene::new();
    let leases = scene.leases().display().to_string();
    let lockspace = |id: u64| format!("__LIBVIRT__DISKS__:{id}:{leases}/__LIBVIRT__DISKS__:0");
    let format = ["--create", "-o", "1", "-s", &lockspace(0)];
    let ran = run(scene.storage.path(), "lease-init", &format);
    assert_eq!(ran.code, 0, "{ran:?}");
    let host = Host::new(&scene.storage, 1);
    let mut join = host.tool("lease-join");
    let join = Process::start(join.args(["--watchdog-timeout", "2", &lockspace(1)]));
    join.wait_for_stdout("joined");
    let qemu = scene.qemu().display().to_string();
    let hold = host.start_hold(&["--auto-disks", &leases], &[&qemu, "-hda", DISK.0]);
    hold.wait_for_stdout("held");
    let ran = run(Path::new("/"), "lease-dump", &[scene.leases().join(DISK.1)]);
    for part in ["__LIBVIRT__DISKS__", DISK.1] {
        assert!(ran.code == 0 && ran.stdout.contains(part), "{ran:?}");
    }
}

#[test]
fn many_disks_are_held_or_none() {
    let scene = Scene::new();
    let hosts = [
        Host::joined(&scene.storage, 1),
        Host::joined(&scene.storage, 2),
    ];
    let arguments: Vec<String> = (0..12).map(|n| format!("file=/srv/{n}")).collect();
    let drives = arguments
        .iter()
        .flat_map(|drive| ["-drive", drive.as_str()]);
    let drives: Vec<&str> = drives.collect();
    let _hold = scene.holding(&hosts[0].0, &drives);
    assert_eq!(scene.made().len(), 12);
    let each: Vec<usize> = (0..12).collect();
    together(&each, usize::to_string, |n| {
        let ran = scene.start(&hosts[1].0, &drives[2 * n..2 * n + 2]).finish();
        assert_eq!(ran.code, 75, "{ran:?}");
    });
}
