//! A guarded command with a daemon that does all it can to be forgotten: forked twice, in a session
//! of its own, with no descriptor left, deaf to SIGTERM.
#![allow(clippy::expect_used, clippy::panic)] // A test's helper fails the test by panicking.

use crate::hosts::Host;
use crate::process::{Process, SOON, runs, together, wait_for_end, wait_until};
use lease_core::clock::Moment;
use lease_core::contain::{create_cgroup, remove_cgroup};
use lease_core::process::{self, ProcessId};
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

/// All ways to contain a command.
pub const CONTAINMENTS: [&str; 3] = ["cgroup", "pidns", "tree"];
/// Those that prove that nothing is left.
pub const PROVING: [&str; 2] = ["cgroup", "pidns"];

/// In a PID namespace `$$` is a number of that namespace; this one is the machine's.
pub const OWN_PID: &str = "read -r pid rest </proc/self/stat";

/// Plays a case in each of these containments, all at once.
pub fn in_each(containments: &[&str], play: impl Fn(&str) + Sync) {
    // Else they would all mount them.
    control_groups();
    together(containments, |c| (*c).to_owned(), |contain| play(contain));
}

/// A lease-hold with a command and a daemon of that command.
pub struct Family {
    /// The lease-hold.
    pub hold: Process,
    /// The command, which ends when it is asked to.
    pub command: i32,
    /// The daemon, which does not.
    pub daemon: i32,
    /// The daemon itself, whoever has its number later.
    handle: Option<process::Process>,
}

impl Family {
    /// Starts it on `host`, and waits until all of it runs.
    pub fn start(host: &Host, contain: &str, args: &[&str]) -> Self {
        Self::ending_with(host, contain, args, "exec sleep 1000")
    }

    /// The same, with something else for the command to do once all runs.
    pub fn ending_with(host: &Host, contain: &str, args: &[&str], last: &str) -> Self {
        if contain == "cgroup" {
            control_groups();
        }
        let daemon = format!(
            "trap \"\" TERM HUP INT; {OWN_PID}; echo \"daemon $pid\"; exec 0<&- 1>&- 2>&-; \
             exec sleep 1000"
        );
        let script =
            format!("(setsid sh -c '{daemon}' & ) ; {OWN_PID}; echo \"command $pid\"; {last}");
        let args: Vec<&str> = ["--contain", contain].iter().chain(args).copied().collect();
        let hold = host.start_hold(&args, &["sh", "-c", &script]);
        hold.wait_for_stdout("daemon ");
        hold.wait_for_stdout("command ");
        let (command, daemon) = wait_until("two pids", SOON, || {
            let text = hold.stdout();
            let of = |who: &str| {
                let mut lines = text.lines();
                lines.find_map(|line| line.strip_prefix(who)?.trim().parse().ok())
            };
            Some((of("command ")?, of("daemon ")?))
        });
        Self {
            hold,
            command,
            daemon,
            handle: ProcessId::of(daemon).and_then(ProcessId::open),
        }
    }

    /// Whether both run.
    pub fn runs(&self) -> bool {
        runs(self.command) && runs(self.daemon)
    }

    /// Kills the daemon.
    pub fn kill_daemon(&self) {
        self.handle.iter().for_each(process::Process::kill);
    }

    /// Waits until neither runs, and returns when the last one was seen gone.
    pub fn wait_for_end(&self, limit: Duration) -> Moment {
        let command = wait_for_end(self.command, limit);
        wait_for_end(self.daemon, limit).max(command)
    }

    /// Its control group is gone as well.
    pub fn assert_no_trace(&self) {
        assert!(!runs(self.command) && !runs(self.daemon), "something runs");
        assert_no_control_group(self.hold.pid());
    }
}

impl Drop for Family {
    fn drop(&mut self) {
        // As a tree only, it may have survived.
        self.kill_daemon();
    }
}

/// The directory of the control group that tests and tools run in. Where no cgroup2 file system
/// is mounted, mounts one, which needs root.
pub fn control_groups() -> PathBuf {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    let probe = || {
        let path = create_cgroup().ok()?;
        remove_cgroup(&path);
        Some(path.parent()?.to_owned())
    };
    let mount = || {
        let point = std::env::temp_dir().join("lease-tests-cgroup2");
        std::fs::create_dir_all(&point).expect("a mount point");
        let mut mount = Command::new("mount");
        let status = mount.args(["-t", "cgroup2", "none"]).arg(&point).status();
        assert!(
            status.is_ok_and(|status| status.success()),
            "control groups cannot be used here: tests need root and cgroup v2"
        );
        probe().expect("a control group can be made")
    };
    FOUND.get_or_init(|| probe().unwrap_or_else(mount)).clone()
}

/// No control group of this lease-hold is left.
pub fn assert_no_control_group(hold: i32) {
    let (groups, name) = (control_groups(), format!("lease-hold-{hold}-"));
    let is_its = |entry: &std::fs::DirEntry| {
        let entry = entry.file_name();
        entry.to_str().is_some_and(|entry| entry.starts_with(&name))
    };
    wait_until(&format!("{name}* is removed"), SOON, || {
        let mut entries = std::fs::read_dir(&groups).ok()?.flatten();
        (!entries.any(|entry| is_its(&entry))).then_some(())
    });
}
