//! The value block of a lease, from one holder to the next: by way of the file of `--value`, and
//! between our tools and the real daemon. t = 1, W = 2.
#![allow(clippy::unwrap_used, clippy::panic)]

use lease_core::layout::Geometry;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use std::path::{Path, PathBuf};
use std::time::Duration;
use support::files::{Ran, bytes, patch};
use support::hosts::Host;
use support::path::StoragePath;
use support::process::{Process, SOON, now, wait_until};
use support::sanlock::Daemon;
use support::storage::Storage;

const SECTOR: usize = 512;

fn block(storage: &Storage, number: u64) -> Vec<u8> {
    storage.area(number)[2002 * SECTOR..2003 * SECTOR].to_vec()
}

/// A whole block that begins with this.
fn padded(text: &str) -> Vec<u8> {
    let mut block = text.as_bytes().to_vec();
    block.resize(SECTOR, 0);
    block
}

fn file_in(storage: &Storage) -> PathBuf {
    storage.path().join("value")
}

/// Runs a shell command under the lease; `$F` is its file.
fn run(host: &Host, (file, resource): (&Path, &str), script: &str) -> Ran {
    let value = file.to_str().unwrap();
    let args = ["--value", value, resource];
    let mut command = host.hold_command(&args, &["sh", "-c", script]);
    Process::start(command.env("F", value)).finish()
}

#[test]
fn what_a_command_leaves_in_the_file_is_what_the_next_finds_on_another_host() {
    let storage = Storage::new(1);
    let hosts = [1, 2].map(|id| Host::joined(&storage, id));
    let [one, other] = ["one", "other"].map(|name| storage.path().join(name));
    let resource = storage.resource(1);
    let count = "n=$(cat $F); echo $((n + 1)) >$F";
    for number in 1..=4 {
        let (host, file) = match number % 2 {
            1 => (&hosts[0].0, &one),
            _ => (&hosts[1].0, &other),
        };
        let ran = run(host, (file, &resource), count);
        assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
        assert_eq!(block(&storage, 1), padded(&format!("{number}\n")));
    }
    // Another file in its place, by way of a link, and more of it.
    let link = storage.path().join("link");
    std::os::unix::fs::symlink(&one, &link).unwrap();
    let renamed = "mv $F $F.old; printf %0512d 7 >$F.new; mv $F.new $F";
    assert_eq!(run(&hosts[0].0, (&link, &resource), renamed).code, 0);
    assert_eq!(block(&storage, 1), format!("{:0512}", 7).into_bytes());
    let seen = run(&hosts[1].0, (&other, &resource), "wc -c <$F; : >$F");
    assert_eq!((seen.code, seen.stdout.trim()), (0, "512"));
    assert_eq!(block(&storage, 1), padded(""));
}

#[test]
fn shared_it_is_only_read_and_what_ends_without_a_release_hands_nothing_on() {
    let storage = Storage::new(1);
    let (host, join) = Host::joined(&storage, 1);
    let (file, resource) = (file_in(&storage), storage.resource(1));
    assert_eq!(run(&host, (&file, &resource), "echo first >$F").code, 0);
    let shared = format!("{resource}:SH");
    let ran = run(&host, (&file, &shared), "cat $F; echo second >$F");
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "first\n"));
    assert_eq!(block(&storage, 1), padded("first\n"));
    let write = "echo second >$F; echo held; exec sleep 100";
    let value = file.to_str().unwrap();
    let start = || {
        let args = ["--value", value, &resource];
        let mut command = host.hold_command(&args, &["sh", "-c", write]);
        let hold = Process::start(command.env("F", value));
        hold.wait_for_stdout("held");
        hold
    };
    // By whoever gives it back for the dead,
    start().kill();
    wait_until("it is given back", SOON, || {
        storage.owner(1).0.is_none().then_some(())
    });
    assert_eq!(block(&storage, 1), padded("first\n"));
    // and at a loss.
    let hold = start();
    join.kill();
    assert_eq!(hold.finish().code, 124, "{}", hold.stderr());
    assert_eq!(block(&storage, 1), padded("first\n"));
    // Asked to end it does so in time, and what it has made is handed on.
    let _join = host.join();
    let hold = start();
    hold.signal(Signal::SIGTERM);
    assert_eq!(hold.finish().code, 143);
    assert_eq!(block(&storage, 1), padded("second\n"));
}

#[test]
fn a_file_that_cannot_be_used_is_refused_before_anything_is_acquired() {
    let storage = Storage::new(2);
    let (host, _join) = Host::joined(&storage, 1);
    let at = |name: &str| storage.path().join(name).display().to_string();
    std::fs::create_dir(at("directory")).unwrap();
    nix::unistd::mkfifo(Path::new(&at("pipe")), Mode::S_IRWXU).unwrap();
    std::os::unix::fs::symlink("/nowhere/at/all", at("astray")).unwrap();
    let (disk, lockspace) = (storage.file().display().to_string(), storage.lockspace(1));
    let before = bytes(storage.file()).len();
    let (one, two) = (storage.resource(1), storage.resource(2));
    for (file, resources, code, part) in [
        (at("directory"), vec![&one], 73, "it is not a regular file"),
        (at("pipe"), vec![&one], 73, "it is not a regular file"),
        (at("no/file"), vec![&one], 73, "No such file or directory"),
        (
            at("astray/file"),
            vec![&one],
            73,
            "No such file or directory",
        ),
        (disk, vec![&one], 64, "leases lie in that file"),
        (at("f"), vec![&one, &two], 64, "--value is of one RESOURCE"),
    ] {
        let mut args = vec!["--value", &file];
        args.extend(resources.iter().map(|resource| resource.as_str()));
        let ran = host.hold(&args, &["touch", &at("ran")]);
        assert_eq!(ran.code, code, "{file} {lockspace}: {ran:?}");
        assert!(ran.stderr.contains(part), "{part:?} is not in {ran:?}");
    }
    assert_eq!(storage.owner(1), (None, 0), "nothing was acquired");
    assert_eq!(bytes(storage.file()).len(), before);
    assert!(!Path::new(&at("ran")).exists() && !Path::new(&at("f")).exists());
}

#[test]
fn where_areas_have_no_room_for_a_value_it_is_refused() {
    let [_, small, .., large] = Geometry::ALL;
    let storage = Storage::of(small, 1);
    let (host, _join) = Host::joined(&storage, 1);
    let ran = run(&host, (&file_in(&storage), &storage.resource(1)), "true");
    assert_eq!(ran.code, 78, "{ran:?}");
    assert!(ran.stderr.contains("its areas have no room for one"));
    assert_eq!(storage.owner(1), (None, 0));
    let storage = Storage::of(large, 1);
    let (host, _join) = Host::joined(&storage, 1);
    let (file, resource) = (file_in(&storage), storage.resource(1));
    let ran = run(&host, (&file, &resource), "printf %04096d 7 >$F");
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(storage.area(1)[2002 * 4096..].starts_with(&b"0".repeat(4095)));
    let ran = run(&host, (&file, &resource), "wc -c <$F");
    assert_eq!(ran.stdout.trim(), "4096", "{ran:?}");
}

#[test]
fn what_cannot_be_handed_on_is_said_and_the_lease_is_released_all_the_same() {
    let storage = Storage::new(1);
    let (host, _join) = Host::joined(&storage, 1);
    let (file, resource) = (file_in(&storage), storage.resource(1));
    assert_eq!(run(&host, (&file, &resource), "echo kept >$F").code, 0);
    for (number, (script, code, part)) in [
        (
            "printf %0513d 1 >$F",
            65,
            "its file has more than 512 bytes",
        ),
        (
            "printf %0513d 1 >$F; exit 3",
            3,
            "its file has more than 512",
        ),
        ("rm $F", 66, "No such file or directory"),
        ("rm $F; mkfifo $F", 66, "it is not a regular file any more"),
        ("rm $F; mkdir $F", 66, "it is not a regular file any more"),
        ("rm -r $F; ln -s $F $F", 74, "ymbolic links"),
    ]
    .into_iter()
    .enumerate()
    {
        if number > 0 {
            let _ = std::fs::remove_file(&file);
            let _ = std::fs::remove_dir(&file);
        }
        let ran = run(&host, (&file, &resource), script);
        assert_eq!(ran.code, code, "{script}: {ran:?}");
        let said = "lease-hold: cannot hand on the value of LS:R1: ";
        assert!(ran.stderr.starts_with(said), "{script}: {ran:?}");
        assert!(ran.stderr.contains(part), "{script}: {ran:?}");
        assert_eq!(block(&storage, 1), padded("kept\n"), "{script}");
        assert_eq!(storage.owner(1).0, None, "{script}");
    }
}

#[test]
fn a_file_that_cannot_be_written_in_the_end_runs_nothing() {
    let storage = Storage::new(1);
    let (host, _join) = Host::joined(&storage, 1);
    let resource = storage.resource(1);
    patch(storage.file(), storage.offset(1) + 2002 * 512, b"some");
    let full = "mount -t tmpfs -o size=4k tmpfs \"$1\" && head -c 4096 /dev/zero >\"$1/f\"; shift
        exec \"$@\"";
    let directory = storage.path().join("full");
    std::fs::create_dir(&directory).unwrap();
    let directory = directory.to_str().unwrap();
    let value = format!("{directory}/value");
    let args = ["--contain", "tree", "--value", &value, &resource];
    let hold = host.hold_command(&args, &["touch", &format!("{directory}/../ran")]);
    let mut command = std::process::Command::new("unshare");
    command.args(["-m", "sh", "-c", full, "sh", directory]);
    command.arg(hold.get_program()).args(hold.get_args());
    let ran = Process::start(&mut command).finish();
    assert_eq!(ran.code, 73, "{ran:?}");
    assert!(ran.stderr.contains("No space left on device"), "{ran:?}");
    assert!(!storage.path().join("ran").exists());
    assert_eq!(storage.owner(1).0, None, "it was released");
    assert_eq!(block(&storage, 1), padded("some"));
}

#[test]
fn a_value_that_is_no_text_is_shown_as_bytes_and_where_there_is_no_room_there_is_none() {
    let shown = |storage: &Storage| {
        let file = storage.file().display().to_string();
        let ran = support::files::run(storage.path(), "lease-dump", &[file + ":1048576"]);
        serde_json::from_str::<serde_json::Value>(&ran.stdout).unwrap()["value"].clone()
    };
    let storage = Storage::new(1);
    let at = storage.offset(1) + 2002 * 512;
    for (bytes, base64) in [(&b"a\0b"[..], "YQBi"), (b"\xff\xfe", "//4=")] {
        patch(storage.file(), at, bytes);
        let expected = serde_json::json!({"base64": base64, "text": null});
        assert_eq!(shown(&storage), expected);
        patch(storage.file(), at, &[0; 3]);
    }
    // The sector where others have it is past the end of this area.
    let storage = Storage::of(Geometry::ALL[1], 9);
    patch(storage.file(), storage.offset(1) + 2002 * 4096, b"x");
    assert_eq!(shown(&storage), serde_json::Value::Null);
}

/// What python3-sanlock does with the value of R1, which this process acquires.
fn daemon_does(daemon: &Daemon, storage: &Storage, what: &str) -> Ran {
    let disk = storage.file().display().to_string();
    let script = format!(
        "import sanlock\n\
         name = (b'LS', b'R1', [({disk:?}, {})])\n\
         fd = sanlock.register()\n\
         sanlock.acquire(*name, slkfd=fd, lvb=True)\n\
         {what}\n\
         sanlock.release(*name, slkfd=fd)\n",
        storage.offset(1)
    );
    let ran = Process::start(&mut daemon.python(&script)).finish();
    assert_eq!(ran.code, 0, "{ran:?}");
    ran
}

#[test]
fn the_daemon_finds_what_we_hand_on_and_we_what_it_does() {
    let storage = Storage::new(1);
    let daemon = Daemon::joined(&storage, 1);
    let (host, _join) = Host::joined(&storage, 2);
    let (file, resource) = (file_in(&storage), storage.resource(1));
    let ours = |script: &str| {
        let mut ran = None;
        // Its release is done some time after it has said so.
        wait_until("we get it", SOON, || {
            let now = run(&host, (&file, &resource), script);
            (now.code == 0).then(|| ran = Some(now))
        });
        ran.unwrap().stdout
    };
    ours("printf 'from us' >$F");
    let seen = daemon_does(
        &daemon,
        &storage,
        "print(sanlock.get_lvb(*name, 512).rstrip(b'\\0').decode())\n\
         sanlock.set_lvb(*name, b'theirs\\0\\xff'.ljust(512, b'\\0'))",
    );
    assert_eq!(seen.stdout, "from us\n");
    assert_eq!(ours("od -An -c $F | tr -d ' \\n'; : >$F"), "theirs\\0377");
    let seen = daemon_does(&daemon, &storage, "print(sanlock.get_lvb(*name, 512))");
    assert_eq!(seen.stdout.matches("\\x00").count(), 512);
}

/// R1 on three disks.
fn on_three(disks: &[Storage; 3]) -> String {
    let [first, others @ ..] = disks;
    let place = |disk: &Storage| format!(":{}:{}", disk.file().display(), disk.offset(1));
    first.resource(1) + &others.iter().map(place).collect::<String>()
}

#[test]
fn on_three_disks_a_majority_says_what_was_last_and_the_others_come_to_have_it() {
    let disks = [(); 3].map(|()| Storage::new(1));
    let (host, _join) = Host::joined(&disks[0], 1);
    let (file, resource) = (file_in(&disks[0]), on_three(&disks));
    let put = |disk: usize, text: &str| {
        let at = disks[disk].offset(1) + 2002 * 512;
        patch(disks[disk].file(), at, &padded(text));
    };
    let all = || disks.each_ref().map(|disk| block(disk, 1));
    assert_eq!(run(&host, (&file, &resource), "printf one >$F").code, 0);
    assert_eq!(all(), [(); 3].map(|()| padded("one")));
    // One that was down, whichever it is.
    for stale in 0..3 {
        put(stale, "stale");
        let ran = run(&host, (&file, &resource), "cat $F");
        assert_eq!((ran.code, ran.stdout.as_str()), (0, "one"), "{stale}");
        assert_eq!(all(), [(); 3].map(|()| padded("one")));
    }
    // Shared, nothing is written.
    put(0, "stale");
    let shared = format!("{resource}:SH");
    assert_eq!(run(&host, (&file, &shared), "cat $F").stdout, "one");
    assert_eq!(all(), ["stale", "one", "one"].map(padded));
    // Where the one that would tell cannot be read, nothing is run and nothing is lost.
    let away = disks[1].path().join("away");
    std::fs::rename(disks[1].file(), &away).unwrap();
    let ran = run(&host, (&file, &resource), "echo ran");
    assert_eq!((ran.code, ran.stdout.as_str()), (74, ""), "{ran:?}");
    assert!(ran.stderr.contains("different value blocks"), "{ran:?}");
    std::fs::rename(&away, disks[1].file()).unwrap();
    assert_eq!(run(&host, (&file, &resource), "cat $F").stdout, "one");
    // Which resource it is matters.
    assert_eq!(all(), [(); 3].map(|()| padded("one")));
}

/// A host whose path to the storage can fail.
fn far(storage: &Storage, path: &Path) -> (Host, Process, Host) {
    let host = Host::new(storage, 1);
    let join = host.join();
    let far = Host::new(storage, 1).by_way_of(storage, path);
    (host, join, far)
}

/// A write that may land later keeps the lease until it cannot: the next holder's value would be
/// written over. One that is known to have failed does not.
#[test]
fn a_value_whose_write_has_failed_may_still_land_before_the_lease_is_anybody_elses() {
    let storage = Storage::new(1);
    let path = StoragePath::to(&storage);
    let (host, _join, far) = far(&storage, &path.disk());
    let (file, resource) = (file_in(&storage), far.resource(&storage, 1));
    let value = file.to_str().unwrap();
    let script = "read line; echo new >$F";
    let mut command = host.hold_command(&["--value", value, &resource], &["sh", "-c", script]);
    let mut hold = Process::start_with(command.env("F", value), std::process::Stdio::piped());
    wait_until("it runs", SOON, || {
        (!host.describe()["holders"][0]["guarded"].is_null()).then_some(())
    });
    path.refuse_writes();
    let ended = now();
    hold.say("go\n");
    let ran = hold.finish();
    path.heal();
    assert_eq!(ran.code, 74, "{ran:?}");
    let said = "cannot hand on the value of LS:R1: ";
    assert!(ran.stderr.contains(said), "{ran:?}");
    assert!(ran.stderr.contains("that write may still land"), "{ran:?}");
    assert_eq!(storage.owner(1).0, Some(1), "it stays owned");
    wait_until("lease-join gives it back", Duration::from_secs(60), || {
        storage.owner(1).0.is_none().then_some(())
    });
    let took = now().since(ended);
    assert!(took >= host.dead_after(), "{took:?}");
    assert_eq!(block(&storage, 1), padded(""));
    // It was not handed on: whoever asks next begins with what was there before.
    let ran = run(&host, (&file, &storage.resource(1)), "cat $F");
    assert_eq!((ran.code, ran.stdout.as_str()), (0, ""));
}
