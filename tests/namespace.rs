//! PID namespaces around lease-hold, and a /proc that shows little: what cannot be guarded is not
//! run, and who is guarded is ended whatever /proc shows. t = 1 and W = 10.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

use std::process::Command;
use support::family::{CONTAINMENTS, control_groups};
use support::hosts::Host;
use support::process::Process;
use support::storage::Storage;

/// A lease-hold that a shell executes as `"$@"`.
fn by_way_of(script: &str, hold: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", script, "sh"]);
    shell.arg(hold.get_program()).args(hold.get_args());
    shell
}

#[test]
fn where_proc_is_not_of_its_own_pid_namespace_nothing_is_run() {
    control_groups();
    let storage = Storage::new(2);
    let (a, _join) = Host::joined(&storage, 1);
    let resource = storage.resource(1);
    let elsewhere = [
        "unshare --pid --fork \"$@\"",
        "unshare --mount sh -c 'mount -t tmpfs none /proc && \"$@\"' sh \"$@\"",
        "unshare --mount sh -c 'umount -l /proc && \"$@\"' sh \"$@\"",
    ];
    for contain in CONTAINMENTS.iter().chain(&["auto"]) {
        let hold = a.hold_command(&["--contain", contain, &resource], &["echo", "run"]);
        let before = storage.area(1);
        let words = std::iter::once(hold.get_program()).chain(hold.get_args());
        let words: Vec<_> = words.collect();
        let other = storage.resource(2);
        let inside_another = a.hold_command(&["--contain", "pidns", &other], &words);
        let ways = elsewhere.map(|script| by_way_of(script, &hold));
        for mut command in ways.into_iter().chain([inside_another]) {
            let ran = Process::start(&mut command).finish();
            assert_eq!((ran.code, ran.stdout.as_str()), (78, ""), "{ran:?}");
            assert!(ran.stderr.contains("cannot guard echo: /proc"), "{ran:?}");
            assert_eq!(ran.stderr.lines().count(), 1, "{ran:?}");
            assert!(storage.area(1) == before);
        }
        let mounted = "unshare --pid --fork --mount-proc \"$@\"";
        let ran = Process::start(&mut by_way_of(mounted, &hold)).finish();
        assert_eq!((ran.code, ran.stdout.as_str()), (0, "run\n"), "{ran:?}");
    }
}
