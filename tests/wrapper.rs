//! lease-hold in front of a command: the command finds all as it would without it, signals reach
//! it, and it is ended as asked for when the lease is lost.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::ffi::OsStr;
use std::process::{Command, Stdio};
use std::time::Duration;
use support::family::{CONTAINMENTS, Family, OWN_PID, control_groups, in_each};
use support::hosts::{Host, STAY};
use support::path::StoragePath;
use support::process::{Process, SOON, now, runs, state, wait_for_end, wait_until};
use support::storage::Storage;

#[test]
fn every_signal_that_can_be_caught_reaches_the_command() {
    in_each(&CONTAINMENTS, |contain| {
        let storage = Storage::new(1);
        let (a, _join) = Host::joined(&storage, 1);
        // It starts nothing: every SIGCHLD is one that was sent. It reads what never comes.
        let numbers: Vec<i32> = (1..=31).filter(|n| ![9, 19].contains(n)).collect();
        let words: Vec<String> = numbers.iter().map(i32::to_string).collect();
        let script = format!(
            "for n in {}; do trap \"echo got $n.\" $n; done; echo held; \
                 while :; do read -r x; done",
            words.join(" ")
        );
        let resource = storage.resource(1);
        let mut command =
            a.hold_command(&["--contain", contain, &resource], &["sh", "-c", &script]);
        let hold = Process::start_with(&mut command, Stdio::piped());
        hold.wait_for_stdout("held");
        for number in numbers {
            hold.signal(Signal::try_from(number).unwrap_or_else(|_| panic!("{number}")));
            hold.wait_for_stdout(&format!("got {number}."));
        }
        assert_eq!(hold.code(), None);
    });
}

/// How a lease-hold is called in a shell.
fn in_words(hold: &Command) -> String {
    let words = std::iter::once(hold.get_program()).chain(hold.get_args());
    let words: Vec<_> = words.map(|word| word.to_str().unwrap()).collect();
    words.join(" ")
}

#[test]
fn a_hangup_that_the_leader_of_a_session_alone_hears_of_reaches_the_command() {
    in_each(&CONTAINMENTS, |contain| {
        let storage = Storage::new(1);
        let (a, _join) = Host::joined(&storage, 1);
        let resource = storage.resource(1);
        let script = format!("'{OWN_PID}; echo pid $pid.; exec sleep 1000'");
        let hold = a.hold_command(&["--contain", contain, &resource], &["sh", "-c", &script]);
        let line = format!("exec {}", in_words(&hold));
        let mut terminal = Command::new("script");
        let terminal = Process::start(terminal.args(["-qfec", &line, "/dev/null"]));
        let pid = wait_until("its pid", SOON, || {
            let text = terminal.stdout();
            text.split_once("pid ")?.1.split_once('.')?.0.parse().ok()
        });
        // With its other end, the terminal is gone.
        terminal.kill();
        wait_for_end(pid, SOON);
        wait_until("the lease is free", SOON, || {
            storage.owner(1).0.is_none().then_some(())
        });
    });
}

#[test]
fn an_alarm_that_was_set_before_lease_hold_was_executed_ends_the_command() {
    let storage = Storage::new(1);
    let (a, _join) = Host::joined(&storage, 1);
    let hold = a.hold_command(&[&storage.resource(1)], &STAY);
    let mut perl = Command::new("perl");
    perl.args(["-e", "alarm 8; exec @ARGV"]);
    let ran = Process::start(perl.arg(hold.get_program()).args(hold.get_args())).finish();
    assert_eq!((ran.code, ran.stdout.as_str()), (142, "held\n"), "{ran:?}");
}

/// Runs `command` after the shell has done `preparation`, alone and under a lease, and returns what
/// it wrote.
fn with_and_without(
    host: &Host,
    args: &[&str],
    preparation: &str,
    command: &[&str],
) -> [String; 2] {
    let script = format!("{preparation}; exec \"$@\"");
    let start = |words: Vec<&OsStr>| {
        let mut shell = Command::new("sh");
        shell.args(["-c", &script, "sh"]).args(words);
        shell
            .env("KEPT", "a value\nof two lines")
            .env("LEASE_RUN_DIR", "/nowhere");
        let ran = Process::start(&mut shell).finish();
        assert_eq!(ran.code, 0, "{ran:?}");
        ran.stdout
    };
    let alone = start(command.iter().map(OsStr::new).collect());
    let hold = host.hold_command(args, command);
    let words = std::iter::once(hold.get_program()).chain(hold.get_args());
    [alone, start(words.collect())]
}

#[test]
fn the_command_finds_all_as_it_would_without_a_lease() {
    control_groups();
    let storage = Storage::new(1);
    let (a, _join) = Host::joined(&storage, 1);
    let resource = storage.resource(1);
    let masks =
        "grep -E '^Sig(Pnd|Blk|Ign|Cgt)' /proc/self/status | sed 's/0.*\\(.......\\)$/\\1/'";
    for contain in CONTAINMENTS {
        let args = ["--contain", contain, &resource];
        let same = |preparation: &str, script: &str| {
            let command = ["sh", "-c", script];
            let [alone, held] = with_and_without(&a, &args, preparation, &command);
            assert_eq!(alone, held, "{contain}: {script}");
            assert!(!alone.is_empty());
        };
        same("umask 027; cd /usr", "umask; pwd");
        same(":", "env | grep -v ^LEASE_ | sort");
        same("ulimit -n 77; ulimit -c 0", "ulimit -n; ulimit -c");
        // Pending, blocked, ignored and caught, up to signal 28; those of threads are libc's.
        same("trap '' USR1 INT QUIT HUP PIPE CHLD", masks);
        same(":", masks);
        // By number, and no other.
        let opened = "exec 5</etc/passwd 9</etc/group";
        let files = "for n in 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 64; do \
            [ -e /proc/self/fd/$n ] && echo $n; done; readlink /proc/self/fd/5 /proc/self/fd/9; :";
        same(opened, files);
        same("exec 0<&-", files);
        same("exec 2>&-", files);
    }
}

#[test]
fn a_shell_under_a_lease_is_usable() {
    let storage = Storage::new(1);
    let (a, _join) = Host::joined(&storage, 1);
    let mut command = a.hold_command(&[&storage.resource(1)], &["sh"]);
    let mut shell = Process::start_with(&mut command, Stdio::piped());
    shell.say("echo \"$LEASE_RESOURCE\" is $((40 + 2))\n");
    shell.wait_for_stdout("R1 is 42");
    assert_eq!(storage.owner(1).0, Some(1));
    shell.say("false || echo again; exit 3\n");
    let ran = shell.finish();
    assert_eq!(
        (ran.code, ran.stdout.as_str()),
        (3, "R1 is 42\nagain\n"),
        "{ran:?}"
    );
    assert_eq!(storage.owner(1).0, None);
}

#[test]
fn told_to_end_it_is_gone_at_once_with_the_lease() {
    let storage = Storage::new(1);
    let (a, _join) = Host::joined(&storage, 1);
    for contain in CONTAINMENTS {
        control_groups();
        let hold = a.holding(&["--contain", contain, &storage.resource(1)]);
        let told = now();
        hold.signal(Signal::SIGTERM);
        assert_eq!(hold.finish().code, 143);
        assert!(now().since(told) < Duration::from_secs(10));
        assert_eq!(storage.owner(1).0, None);
    }
}

#[test]
fn what_a_command_that_was_told_to_end_leaves_behind_ends_too() {
    in_each(&CONTAINMENTS, |contain| {
        let storage = Storage::new(1);
        let (a, _join) = Host::joined(&storage, 1);
        let resource = storage.resource(1);
        // What hears it goes at once; no shell hands it on.
        for signal in [Signal::SIGTERM, Signal::SIGHUP] {
            let script = format!("{OWN_PID}; echo pid $pid.; sleep 1000; true");
            let hold = a.start_hold(&["--contain", contain, &resource], &["sh", "-c", &script]);
            hold.wait_for_stdout("pid ");
            let told = now();
            hold.signal(signal);
            assert_eq!(hold.finish().code, 128 + signal as i32);
            assert!(now().since(told) < Duration::from_secs(9), "{contain}");
        }
        // What does not is killed after 10 s.
        let family = Family::start(&a, contain, &[&resource]);
        family.hold.signal(Signal::SIGTERM);
        let command = wait_for_end(family.command, SOON);
        let took = wait_for_end(family.daemon, SOON).since(command);
        assert!(took > Duration::from_secs(9), "{contain}: {took:?}");
        let ran = family.hold.finish();
        let said = format!("sh has ended (143); ending pid {} (sleep)", family.daemon);
        assert!(ran.code == 143 && ran.stderr.contains(&said), "{ran:?}");
        assert_eq!(storage.owner(1).0, None);
        family.assert_no_trace();
    });
}

#[test]
fn what_a_command_leaves_that_ends_by_itself_is_named_and_ends_when_that_is_asked_for() {
    in_each(&CONTAINMENTS, |contain| {
        let storage = Storage::new(2);
        let (a, _join) = Host::joined(&storage, 1);
        let family = Family::ending_with(&a, contain, &[&storage.resource(1)], "exit 3");
        let daemon = family.daemon;
        let said = format!("sh has ended (3); waiting for pid {daemon} (sleep)");
        family.hold.wait_for_stderr(&said);
        let guarded = a.describe()["holders"][0]["processes"].clone();
        assert_eq!(
            guarded,
            serde_json::json!([{"pid": daemon, "command": "sleep"}])
        );
        family.hold.signal(Signal::SIGINT);
        let ran = family.hold.finish();
        assert_eq!((ran.code, runs(daemon)), (3, false), "{ran:?}");
        assert_eq!(ran.stderr.matches("has ended").count(), 1, "{ran:?}");

        let args = ["--end-rest", &storage.resource(2)];
        let go = storage.path().join("go");
        let last = format!("until [ -e {} ]; do sleep 0.05; done; exit 3", go.display());
        let family = Family::ending_with(&a, contain, &args, &last);
        std::fs::write(&go, "").unwrap();
        let ran = family.hold.finish();
        assert_eq!((ran.code, runs(family.daemon)), (3, false), "{ran:?}");
        assert_eq!([1, 2].map(|number| storage.owner(number).0), [None; 2]);
    });
}

#[test]
fn rule_19_a_loss_is_announced_as_asked_for_and_the_grace_kept() {
    in_each(&CONTAINMENTS, |contain| {
        let storage = Storage::new(1);
        let a = Host::new(&storage, 1).promising(20);
        let join = a.join();
        let script = format!(
            "trap 'echo asked' USR1; trap 'echo wrong' TERM; {OWN_PID}; echo pid $pid; \
             while :; do sleep 0.05; done"
        );
        let resource = storage.resource(1);
        let args = [
            "--contain",
            contain,
            "--kill-signal",
            "usr1",
            "--grace",
            "4",
        ];
        let on_loss = ["--on-loss", "echo lost $LEASE_RESOURCE", &resource];
        let args: Vec<&str> = args.into_iter().chain(on_loss).collect();
        let hold = a.start_hold(&args, &["sh", "-c", &script]);
        let pid = wait_until("its pid", SOON, || {
            hold.stdout()
                .lines()
                .find_map(|l| l.strip_prefix("pid ")?.parse().ok())
        });
        a.wait_for_renewal();
        join.kill();
        let renewed = a.renewed();
        let ended = wait_for_end(pid, SOON).since(renewed).as_secs_f64();
        println!("{contain}: killed {ended:.1} s after the last renewal");
        // A grace of 4 s from the loss on, 8 s after the renewal; less what clocks step by.
        // Half of W would be 10 s.
        assert!((11.5..17.5).contains(&ended), "{ended} s");
        let ran = hold.finish();
        assert_eq!(ran.code, 124, "{ran:?}");
        for (part, count) in [("asked\n", 1), ("lost R1\n", 1), ("wrong", 0)] {
            assert_eq!(ran.stdout.matches(part).count(), count, "{part}: {ran:?}");
        }
    });
}

/// What is to be the same for whoever is started: scheduling, what the out-of-memory killer makes
/// of it, signals, locked memory.
const STANDING: &str = "cut -d' ' -f 41 /proc/self/stat; cat /proc/self/oom_score_adj; \
    grep -E '^(Sig(Pnd|Blk|Ign)|VmLck)' /proc/self/status";

#[test]
fn who_announces_a_loss_is_an_ordinary_process() {
    let storage = Storage::new(1);
    let (a, join) = Host::joined(&storage, 1);
    let [own, other] = ["own", "other"].map(|name| storage.path().join(name));
    let into = |path: &std::path::Path| format!("({STANDING}) >{}", path.display());
    let resource = storage.resource(1);
    let script = format!("{}; echo held; exec sleep 1000", into(&own));
    let on_loss = into(&other);
    let hold = a.start_hold(&["--on-loss", &on_loss, &resource], &["sh", "-c", &script]);
    hold.wait_for_stdout("held");
    join.kill();
    assert_eq!(hold.finish().code, 124);
    let [own, other] = [own, other].map(|path| std::fs::read_to_string(path).unwrap());
    assert!(own.starts_with("0\n"), "{own}");
    assert_eq!(own, other);
}

#[test]
fn the_command_is_scheduled_as_lease_hold_was_started() {
    let storage = Storage::new(CONTAINMENTS.len() as u64);
    let (a, _join) = Host::joined(&storage, 1);
    for (contain, number) in CONTAINMENTS.iter().zip(1..) {
        for (how, policy) in [("-o", "0"), ("-b", "3"), ("-f", "1")] {
            let args = ["--contain", contain, &storage.resource(number)];
            let tool = a.hold_command(&args, &["cut", "-d ", "-f", "41", "/proc/self/stat"]);
            let mut by_chrt = Command::new("chrt");
            let priority = if how == "-f" { "5" } else { "0" };
            by_chrt.args([how, priority]).arg(tool.get_program());
            let ran = Process::start(by_chrt.args(tool.get_args())).finish();
            let said = (ran.code, ran.stdout.trim());
            assert_eq!(said, (0, policy), "{contain} {how}: {ran:?}");
        }
    }
}

#[test]
fn whoever_carries_the_last_deadline_has_its_turn_before_others() {
    in_each(&CONTAINMENTS, |contain| {
        let storage = Storage::new(1);
        let (a, _join) = Host::joined(&storage, 1);
        let hold = a.holding(&["--contain", contain, &storage.resource(1)]);
        let goes_first = |child: &i32| policies(*child).contains(&nix::libc::SCHED_RR);
        wait_until("one goes first", SOON, || {
            hold.children().iter().any(goes_first).then_some(())
        });
    });
}

#[test]
fn lease_io_queues_with_that_of_others_unless_ionice_says_otherwise() {
    let storage = Storage::new(1);
    let a = Host::new(&storage, 1);
    let by_ionice = |class: &str, tool: &Command| {
        let mut command = Command::new("ionice");
        command.args(["-c", class]).arg(tool.get_program());
        command.args(tool.get_args());
        command
    };
    let resource = storage.resource(1);
    // As a shell starts them, and idle: 0 is none, 3 is idle.
    for (class, own) in [("0", "best-effort: prio 0"), ("3", "idle")] {
        let join = Process::start(&mut by_ionice(class, &a.join_command()));
        join.wait_for_stdout("joined");
        let hold = a.hold_command(&[&resource], &["sh", "-c", "echo held; ionice; read x"]);
        let hold = Process::start_with(&mut by_ionice(class, &hold), Stdio::piped());
        hold.wait_for_stdout("held");
        for tool in [&join, &hold] {
            let classes = io_classes(tool.pid());
            assert!(classes.iter().any(|class| class == own), "{classes:?}");
            // What is not said is real-time, as the thread is; that thread does no I/O on a disk.
            let known = |class: &String| class == own || class.starts_with("none");
            assert!(classes.iter().all(known), "{classes:?}");
        }
        let before = if class == "0" { "none" } else { own };
        wait_until("the command's class", SOON, || {
            let said = hold.stdout();
            let said = said.lines().nth(1)?;
            assert!(said.starts_with(before), "{said}");
            Some(())
        });
        drop(hold);
        join.signal(Signal::SIGTERM);
        assert_eq!(join.finish().code, 0);
    }
}

/// The class of I/O of each thread of a process, as ionice shows it.
fn io_classes(pid: i32) -> Vec<String> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let threads = threads.map(|thread| thread.unwrap().file_name());
    let class = |thread| {
        let shown = Command::new("ionice").arg("-p").arg(thread).output();
        String::from_utf8_lossy(&shown.unwrap().stdout)
            .trim()
            .to_owned()
    };
    threads.map(class).collect()
}

/// How each thread of a process is scheduled.
fn policies(pid: i32) -> Vec<i32> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let policy = |thread: std::io::Result<std::fs::DirEntry>| {
        let stat = std::fs::read_to_string(thread.unwrap().path().join("stat")).unwrap();
        // The 41st, of which the third is the first after the name.
        let policy = stat.rsplit_once(") ").unwrap().1.split(' ').nth(38);
        policy.unwrap().parse().unwrap()
    };
    threads.map(policy).collect()
}

#[test]
fn a_loss_that_is_noticed_late_is_announced_all_the_same() {
    in_each(&CONTAINMENTS, |contain| {
        let storage = Storage::new(1);
        let a = Host::new(&storage, 1).promising(20);
        let join = a.join();
        let args = ["--contain", contain, "--grace", "0.1"];
        let on_loss = ["--on-loss", "sleep 0.3; echo lost", &storage.resource(1)];
        let args: Vec<&str> = args.into_iter().chain(on_loss).collect();
        let hold = a.holding(&args);
        hold.signal(Signal::SIGSTOP);
        join.kill();
        let late = a.renewed().after(Duration::from_secs(10));
        wait_until("the grace is over", SOON, || (now() > late).then_some(()));
        hold.signal(Signal::SIGCONT);
        let ran = hold.finish();
        assert_eq!(
            (ran.code, ran.stdout.as_str()),
            (124, "held\nlost\n"),
            "{ran:?}"
        );
    });
}

#[test]
fn a_loss_that_is_noticed_too_late_is_not_announced() {
    in_each(&CONTAINMENTS, |contain| {
        let storage = Storage::new(1);
        let a = Host::new(&storage, 1).promising(4);
        let join = a.join();
        let file = storage.path().join("announced");
        let on_loss = format!("touch {}", file.display());
        let resource = storage.resource(1);
        let hold = a.holding(&["--contain", contain, "--on-loss", &on_loss, &resource]);
        hold.signal(Signal::SIGSTOP);
        join.kill();
        let late = a.renewed().after(Duration::from_secs(12));
        wait_until("everything is over", SOON, || (now() > late).then_some(()));
        hold.signal(Signal::SIGCONT);
        let ran = hold.finish();
        assert_eq!(ran.code, 124, "{ran:?}");
        assert!(ran.stderr.contains("too late for the command"), "{ran:?}");
        assert!(!file.exists());
    });
}

#[test]
fn a_lease_hold_that_is_not_to_hear_of_a_hangup_does_not() {
    let storage = Storage::new(1);
    let (a, _join) = Host::joined(&storage, 1);
    let resource = storage.resource(1);
    let first = a.holding(&[&resource]);
    let hold = a.hold_command(&["-w", "60", &resource], &["sh", "-c", "echo mine; exit 3"]);
    let words = std::iter::once(hold.get_program()).chain(hold.get_args());
    let mut shell = Command::new("sh");
    shell
        .args(["-c", "trap '' HUP CHLD; exec \"$@\"", "sh"])
        .args(words);
    let waits = Process::start(&mut shell);
    waits.wait_for_stderr("trying for");
    waits.signal(Signal::SIGHUP);
    first.signal(Signal::SIGTERM);
    assert_eq!(first.finish().code, 143);
    let ran = waits.finish();
    assert_eq!((ran.code, ran.stdout.as_str()), (3, "mine\n"), "{ran:?}");
}

/// Waits until signals reach a process as events: it has blocked them.
fn wait_until_it_hears(hold: &Process) {
    wait_until("it hears", SOON, || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", hold.pid())).ok()?;
        let blocked = status.lines().find_map(|l| l.strip_prefix("SigBlk:"))?;
        let blocked = u64::from_str_radix(blocked.trim(), 16).ok()?;
        (blocked & (1 << (Signal::SIGTERM as i32 - 1)) != 0).then_some(())
    });
}

#[test]
fn it_can_be_ended_before_lease_join_or_the_storage_has_answered() {
    let storage = Storage::new(1);
    // They can end once the path is gone.
    let mut all = Vec::new();
    let path = StoragePath::to(&storage);
    let (a, join) = Host::joined(&storage, 1);
    let before = storage.area(1);
    let far = Host::new(&storage, 1).by_way_of(&storage, &path.disk());
    path.hang();
    join.signal(Signal::SIGSTOP);
    let [near, far] = [storage.resource(1), far.resource(&storage, 1)];
    for signal in [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGQUIT,
    ] {
        all.extend([&near, &far].map(|resource| a.start_hold(&[resource], &["echo", "run"])));
        let holds = &all[all.len() - 2..];
        for hold in holds {
            wait_until_it_hears(hold);
            hold.signal(Signal::SIGTSTP);
            wait_until("it stops", SOON, || {
                (state(hold.pid()) == Some('T')).then_some(())
            });
            hold.signal(Signal::SIGCONT);
            hold.signal(signal);
            // Threads of it may be left, inside the read that hangs.
            wait_for_end(hold.pid(), SOON);
        }
        path.go_on();
        for hold in holds {
            let ran = hold.finish();
            let said = (ran.code, ran.stdout.as_str(), ran.stderr.as_str());
            assert_eq!(said, (128 + signal as i32, "", ""), "{signal}");
        }
        path.hang();
    }
    path.go_on();
    assert!(storage.area(1) == before);
}

#[test]
fn a_lease_hold_that_waits_can_be_stopped_from_the_terminal() {
    let storage = Storage::new(1);
    let (a, _join) = Host::joined(&storage, 1);
    let resource = storage.resource(1);
    let first = a.holding(&[&resource]);
    let waits = a.start_hold(&["-w", "100", &resource], &["echo", "mine"]);
    waits.wait_for_stderr("trying for");
    waits.signal(Signal::SIGTSTP);
    wait_until("it stops", SOON, || {
        (state(waits.pid()) == Some('T')).then_some(())
    });
    // Longer than a lease lasts.
    let start = now();
    while a.wait_for_renewal().since(start) < Duration::from_secs(10) {}
    waits.signal(Signal::SIGCONT);
    wait_until("it goes on", SOON, || {
        (state(waits.pid()) != Some('T')).then_some(())
    });
    a.wait_for_renewal();
    assert_eq!(waits.code(), None, "{}", waits.stderr());
    first.signal(Signal::SIGTERM);
    let ran = waits.finish();
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "mine\n"), "{ran:?}");
}

#[test]
fn a_grace_that_does_not_fit_is_refused_before_anything_is_written() {
    let storage = Storage::new(1);
    let (a, _join) = Host::joined(&storage, 1);
    let before = storage.area(1);
    let resource = storage.resource(1);
    for grace in ["1.6", "2", "60", "1e9"] {
        let ran = a.hold(&["--grace", grace, &resource], &["echo", "run"]);
        assert_eq!((ran.code, ran.stdout.as_str()), (64, ""), "{ran:?}");
        assert!(ran.stderr.contains("does not fit the 2 s"), "{ran:?}");
        assert!(storage.area(1) == before);
    }
    for grace in ["0", "1.5"] {
        let ran = a.hold(&["--grace", grace, &resource], &["true"]);
        assert_eq!(ran.code, 0, "{ran:?}");
    }
}

#[test]
fn what_is_left_of_a_stopped_command_can_be_ended() {
    in_each(&CONTAINMENTS, |contain| {
        let storage = Storage::new(1);
        let (a, join) = Host::joined(&storage, 1);
        let script = format!("{OWN_PID}; echo $pid; exec sleep 1000");
        let hold = a.start_hold(
            &["--contain", contain, &storage.resource(1)],
            &["sh", "-c", &script],
        );
        let pid: i32 = wait_until("its pid", SOON, || hold.stdout().trim().parse().ok());
        kill(Pid::from_raw(pid), Signal::SIGSTOP).unwrap();
        // lease-join leaves: the stopped command is woken to hear that it has to end.
        join.signal(Signal::SIGTERM);
        wait_for_end(pid, Duration::from_secs(8));
        assert_eq!(hold.finish().code, 143);
        assert_eq!(join.finish().code, 0);
        assert_eq!(storage.owner(1).0, None);
    });
}
