//! A host that is run by systemd: the real one, as process 1 of a PID namespace, with control
//! groups, a /run, an /etc, a /usr/sbin and a /mnt of its own. Needs root.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use support::files::{Ran, binary, directory};
use support::process::{Process, SOON, runs, wait_until};
use tempfile::TempDir;

/// Where Debian keeps what systemd comes with.
const SHIPPED: &str = "/lib/systemd/system";

/// Makes the namespaces and their process 1. $1 is the host's directory, $2 that of the tools.
///
/// Its control groups lie below the one of this test, which it cannot see. Layers of an overlay
/// that has no upper one cannot be written to: what systemd might note in /etc stays away from that
/// of the machine.
const BOOT: &str = r#"
set -eu
mount --make-rprivate /
mount -t cgroup2 groups "$1/groups"
group="$1/groups$(sed -n 's/^0:://p' /proc/self/cgroup)/lease-test-$$"
mkdir "$group"
echo $$ >"$group/cgroup.procs"
exec unshare --cgroup --pid --uts --ipc --net --fork --kill-child --mount-proc sh -euc '
	umount "$1/groups"
	umount -R /sys/fs/cgroup
	mount -t cgroup2 groups /sys/fs/cgroup
	mount -t overlay -o "lowerdir=$1/etc:/etc" etc /etc
	mount -t overlay -o "lowerdir=$2:/usr/sbin" sbin /usr/sbin
	mount --bind "$1/mnt" /mnt
	mount -t tmpfs run /run
	exec env -i container=test PATH="$PATH" SYSTEMD_UNIT_PATH=/mnt/units /lib/systemd/systemd \
		--unit=multi-user.target --show-status=no --log-target=null
' sh "$1" "$2"
"#;

/// Removes the control groups of one that has ended. $2 is the process that made them.
const CLEAR: &str = r#"
set -eu
mount -t cgroup2 groups "$1/groups"
group="$1/groups$(sed -n 's/^0:://p' /proc/self/cgroup)/lease-test-$2"
find "$group" -depth -type d -exec rmdir {} \;
"#;

/// A host that is run by systemd, or will be.
pub(crate) struct Systemd {
    dir: TempDir,
    running: Option<(Process, i32)>,
}

impl Systemd {
    /// Not running yet, with the targets that a host has and nothing else.
    pub(crate) fn installed() -> Self {
        let host = Self {
            dir: directory(),
            running: None,
        };
        for dir in ["groups", "etc/lease", "mnt/units/multi-user.target.wants"] {
            fs::create_dir_all(host.dir.path().join(dir)).unwrap();
        }
        for entry in fs::read_dir(SHIPPED).expect("systemd is installed") {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            if name.ends_with(".target") {
                let text = fs::read_to_string(entry.path()).unwrap();
                host.write(&format!("/mnt/units/{name}"), &text);
            }
        }
        // What a unit says has nowhere else to go.
        let log = "[Service]\nStandardOutput=append:/mnt/log\nStandardError=append:/mnt/log\n";
        fs::create_dir(host.path("/mnt/units/service.d")).unwrap();
        host.write("/mnt/units/service.d/log.conf", log);
        host
    }

    /// From here, what it sees as this path below /mnt or /etc/lease.
    pub(crate) fn path(&self, seen: &str) -> PathBuf {
        self.dir.path().join(seen.strip_prefix('/').unwrap())
    }

    /// Writes a file.
    pub(crate) fn write(&self, seen: &str, text: &str) {
        fs::write(self.path(seen), text).unwrap();
    }

    /// Installs a unit.
    pub(crate) fn unit(&self, name: &str, text: &str) {
        self.write(&format!("/mnt/units/{name}"), text);
    }

    /// What systemctl enable does for a unit that says `WantedBy=multi-user.target`.
    pub(crate) fn enable(&self, name: &str, unit: &str) {
        let link = self.path("/mnt/units/multi-user.target.wants").join(name);
        std::os::unix::fs::symlink(format!("../{unit}"), link).unwrap();
    }

    /// Starts it, and waits until it answers.
    pub(crate) fn boot(&mut self) {
        let mut boot = Command::new("unshare");
        boot.args(["--mount", "sh", "-c", BOOT, "sh"])
            .arg(self.dir.path())
            .arg(binary("lease-join").parent().unwrap());
        let process = Process::start(&mut boot);
        let init = wait_until("process 1", SOON, || {
            assert_eq!(process.code(), None, "{}", process.stderr());
            let comm = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/comm"));
            let is_systemd = |pid: &i32| comm(pid).is_ok_and(|comm| comm == "systemd\n");
            process.children().into_iter().find(is_systemd)
        });
        self.running = Some((process, init));
        wait_until("systemd", SOON, || {
            let (process, _) = self.running.as_ref().unwrap();
            assert_eq!(process.code(), None, "{}", process.stderr());
            let asked = self.systemctl(&["is-system-running"]);
            ["starting", "running", "degraded"]
                .contains(&asked.stdout.trim())
                .then_some(())
        });
    }

    /// Runs a command on it.
    pub(crate) fn command(&self, program: &str) -> Command {
        let (_, init) = self.running.as_ref().expect("it runs");
        let mut command = Command::new("nsenter");
        command.args(["--all", "--target", &init.to_string(), program]);
        command
    }

    /// Runs systemctl on it.
    pub(crate) fn systemctl(&self, args: &[&str]) -> Ran {
        Process::start(self.command("systemctl").args(args)).finish_within(2 * SOON)
    }

    /// Runs systemctl on it, which must succeed.
    pub(crate) fn does(&self, args: &[&str]) {
        let ran = self.systemctl(args);
        assert_eq!(ran.code, 0, "{args:?}: {ran:?}");
    }

    /// A property of a unit.
    pub(crate) fn show(&self, unit: &str, property: &str) -> String {
        let ran = self.systemctl(&["show", "--value", "-p", property, unit]);
        ran.stdout.trim().to_owned()
    }

    /// A moment that is a property of a unit, in microseconds; 0 before it.
    pub(crate) fn moment(&self, unit: &str, property: &str) -> u64 {
        let moment = self.show(unit, &format!("{property}TimestampMonotonic"));
        moment.parse().expect("a number")
    }

    /// Waits until a property of a unit is this.
    pub(crate) fn wait_for(&self, unit: &str, property: &str, value: &str) {
        let what = format!("{property}={value} of {unit}");
        let is_so = || (self.show(unit, property) == value).then_some(());
        wait_until(&what, 3 * SOON, is_so);
    }

    /// What its units have said.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("/mnt/log")).unwrap_or_default()
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("what the units have said:\n{}", self.log());
        }
        let Some((process, init)) = self.running.take() else {
            return;
        };
        process.kill();
        wait_until("the end of process 1", SOON, || (!runs(init)).then_some(()));
        let clear = || {
            let mut clear = Command::new("unshare");
            clear.args(["--mount", "sh", "-c", CLEAR, "sh"]);
            clear.arg(self.dir.path()).arg(process.pid().to_string());
            let cleared = clear.output().expect("unshare");
            cleared.status.success().then_some(())
        };
        wait_until("no control groups any more", SOON, clear);
    }
}
