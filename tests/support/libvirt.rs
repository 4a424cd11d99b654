//! Hosts that run a real libvirtd, each in namespaces of its own: processes, mounts, a host name.
//! Two of them on one machine are two hosts to libvirt, to sanlock, and to us. libvirt and QEMU
//! must be installed.
#![allow(clippy::expect_used, clippy::panic)] // A test's helper fails the test by panicking.

use crate::files::{Ran, binary, bytes, directory, patch};
use crate::process::{Process, SOON, wait_until};
use md5::{Digest, Md5};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// The first sector of a disk: a guest that has no other software. It reads sector 1, remembers
/// what it finds there, and at each tick of its clock, 18 times a second, writes another value.
/// What it does not find as it wrote it, somebody else has written: it counts that.
const GUEST: &[u8] = b"\
    \xfa\x31\xc0\x8e\xd8\x8e\xc0\x8e\xd0\xbc\x00\x7c\xfb\x88\x16\x65\x7c\xe8\x33\x00\x66\x8b\x2e\
    \x00\x80\xf4\xe8\x2a\x00\x66\x39\x2e\x00\x80\x74\x05\x66\xff\x06\x08\x80\x0f\x31\x66\x83\xc8\
    \x01\x66\x39\xe8\x74\xf5\x66\xa3\x00\x80\x66\x89\xc5\x66\xff\x06\x04\x80\xb4\x43\xe8\x04\x00\
    \xeb\xd2\xb4\x42\x30\xc0\x8a\x16\x65\x7c\xbe\x55\x7c\xcd\x13\xc3\x10\x00\x01\x00\x00\x80\x00\
    \x00\x01\x00\x00\x00\x00\x00\x00\x00\x00";
/// Where its sector lies.
const SECTOR: usize = 512;
/// How long a command of virsh may take: a start waits until a host that is gone must be dead.
const PATIENCE: Duration = Duration::from_secs(150);
/// libvirt does not see that the directory is shared, and migrates only if told to. In two parts:
/// the word is looked for in sources.
const FORCED: &str = concat!("--un", "safe");
/// A disk of libvirt's tests.
const DISK_BYTES: u64 = 16 << 20;

/// What several hosts share: a directory with disks and leases.
pub struct Site {
    dir: TempDir,
}

impl Default for Site {
    fn default() -> Self {
        let dir = directory();
        for name in ["disks", "leases"] {
            std::fs::create_dir(dir.path().join(name)).expect("a directory");
        }
        Self { dir }
    }
}

impl Site {
    /// The directory.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Where the leases lie.
    pub fn leases(&self) -> PathBuf {
        self.path().join("leases")
    }

    /// QEMU without the locks that it has of its own: hosts of one kernel share them, and others do
    /// not.
    pub fn qemu(&self) -> PathBuf {
        let path = self.path().join("qemu-system-x86_64");
        let script = "#!/bin/sh\n\
            for word; do\n\
            set -- \"$@\" \"$(printf %s \"$word\" |\n\
            sed 's/^{\"driver\":\"file\",/&\"locking\":\"off\",/')\"\n\
            shift\n\
            done\n\
            exec /usr/bin/qemu-system-x86_64 \"$@\"\n";
        if !path.exists() {
            write_program(&path, script);
        }
        path
    }

    /// The file of a disk's lease.
    pub fn lease(&self, disk: &Path) -> PathBuf {
        let digest = Md5::digest(disk.as_os_str().as_bytes());
        let name: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        self.leases().join(name)
    }

    /// A disk with the guest on it; made if it is not there.
    pub fn disk(&self, name: &str) -> PathBuf {
        let path = self.path().join("disks").join(name);
        if !path.exists() {
            let file = std::fs::File::create(&path).expect("a file");
            file.set_len(DISK_BYTES).expect("it is long enough");
            patch(&path, 0, GUEST);
            patch(&path, 510, b"\x55\xaa");
        }
        path
    }

    /// What the guest has written on a disk.
    pub fn written(&self, disk: &Path) -> Written {
        let sector = &bytes(disk)[SECTOR..SECTOR + 12];
        let number = |at: usize| {
            let bytes = sector[at..at + 4].try_into().expect("four bytes");
            u32::from_le_bytes(bytes)
        };
        Written {
            times: number(4),
            by_others: number(8),
        }
    }

    /// Waits until the guest on a disk has written once more, and then some.
    pub fn wait_for_guest(&self, disk: &Path) {
        let before = self.written(disk).times;
        wait_until("the guest writes", SOON, || {
            (self.written(disk).times > before + 3).then_some(())
        });
    }

    /// Fails if anything writes on a disk.
    pub fn assert_no_guest(&self, disk: &Path) {
        let before = self.written(disk);
        std::thread::sleep(Duration::from_secs(1));
        assert_eq!(self.written(disk), before, "a guest runs");
    }

    /// Fails if two guests ever ran on a disk at the same time.
    pub fn assert_never_two(&self, disk: &Path) {
        assert_eq!(self.written(disk).by_others, 0, "two guests have run");
    }
}

/// Writes a program. Not by this process: a child that another thread forks meanwhile would have it
/// open for writing, and then it cannot be executed.
pub fn write_program(path: &Path, text: &str) {
    let mut shell = Command::new("sh");
    shell.args([
        "-c",
        "printf %s \"$1\" >\"$2\" && chmod 755 \"$2\"",
        "sh",
        text,
    ]);
    let status = shell.arg(path).status();
    assert!(status.is_ok_and(|status| status.success()), "it is written");
}

/// What the guest says on its disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// How often it has written.
    pub times: u32,
    /// How often it found what it had not written.
    pub by_others: u32,
}

/// Who keeps the leases of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manager {
    /// Nobody.
    None,
    /// The real sanlock daemon.
    Sanlock,
    /// `lease-join --sanlock-socket`.
    Lease,
}

/// A host with a libvirtd.
pub struct VirtualHost {
    /// Its name.
    pub name: String,
    base: PathBuf,
    manager: Manager,
    /// The daemons; they end before the namespaces do.
    libvirtd: Option<Process>,
    keeper: Option<Process>,
    namespaces: Process,
}

impl VirtualHost {
    /// Host `id`, with nothing running on it. `libvirt`: lines of qemu-sanlock.conf; none: libvirt
    /// has no lock manager.
    pub fn new(site: &Site, id: u64, manager: Manager, libvirt: &[&str]) -> Self {
        let name = format!("host{id}");
        let base = site.path().join(&name);
        for part in [
            "run/libvirt",
            "run/sanlock",
            "run/lease",
            "etc",
            "lib",
            "log",
            "cache",
        ] {
            std::fs::create_dir_all(base.join(part)).expect("a directory");
        }
        configure(&base, id, libvirt);
        let mut command = Command::new("unshare");
        command.args(["--mount", "--uts", "--pid", "--fork", "--mount-proc"]);
        command.args(["--kill-child=KILL", "sh", "-ec", SET_UP, "sh", &name]);
        let namespaces = Process::start(command.arg(&base));
        namespaces.wait_for_stdout("up");
        Self {
            name,
            base,
            manager,
            libvirtd: None,
            keeper: None,
            namespaces,
        }
    }

    /// Lets libvirt run QEMU as it does where nobody has configured anything: by a user of its own,
    /// in a private /dev.
    pub fn with_stock_user(self) -> Self {
        let path = self.base.join("etc/qemu.conf");
        let lines = std::fs::read_to_string(&path).expect("it was written");
        let kept = lines.lines().filter(|line| {
            let changed = ["user =", "group =", "namespaces =", "remember_owner ="];
            !changed.iter().any(|start| line.starts_with(start))
        });
        let kept: Vec<&str> = kept.collect();
        std::fs::write(&path, kept.join("\n")).expect("it is written");
        self
    }

    /// Starts what keeps its leases, and libvirtd; waits until both answer.
    pub fn start(&mut self) {
        self.start_keeper();
        self.start_libvirtd();
    }

    /// Starts what keeps its leases, and waits until it answers.
    pub fn start_keeper(&mut self) {
        let mut command = match self.manager {
            Manager::None => return,
            Manager::Sanlock => {
                let mut command = self.command("sanlock");
                command.args([
                    "daemon", "-D", "-w", "0", "-h", "0", "-l", "0", "-U", "root",
                ]);
                command.args(["-G", "root", "-e", &self.name]);
                command.env("SANLOCK_PRIVILEGED", "0");
                command
            }
            Manager::Lease => {
                let mut command = self.command(binary("lease-join"));
                command.args(["--sanlock-socket", "-e", &self.name]);
                command
            }
        };
        let keeper = Process::start(&mut command);
        wait_until("the lock manager answers", SOON, || {
            let status = Process::start(self.command("sanlock").args(["client", "status"]));
            assert_eq!(keeper.code(), None, "{}", keeper.stderr());
            (status.finish().code == 0).then_some(())
        });
        self.keeper = Some(keeper);
    }

    /// Starts libvirtd, and waits until it answers.
    pub fn start_libvirtd(&mut self) {
        let tools = binary("lease-hold");
        let tools = tools.parent().expect("its directory").display();
        let mut command = self.command("libvirtd");
        // What it starts gets its search path.
        let path = std::env::var("PATH").unwrap_or_default();
        let libvirtd = Process::start(command.env("PATH", format!("{tools}:{path}")));
        wait_until("libvirtd answers", Duration::from_secs(90), || {
            assert_eq!(libvirtd.code(), None, "{}", self.log());
            (self.virsh(&["list"]).code == 0).then_some(())
        });
        self.libvirtd = Some(libvirtd);
    }

    /// Kills libvirtd alone.
    pub fn kill_libvirtd(&mut self) {
        kill_inner(&self.libvirtd.take().expect("it was started"));
    }

    /// Kills what answers libvirt about leases, alone.
    pub fn kill_keeper(&mut self) {
        kill_inner(&self.keeper.take().expect("it was started"));
    }

    /// Kills a process of this host, by its number outside.
    pub fn kill(&self, pid: i32) {
        kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it runs");
    }

    /// What is held on this host, as the lock manager says.
    pub fn held(&self) -> String {
        let status = self.run("sanlock", &["client", "status"]);
        let lines = status.stdout.lines().filter(|line| line.starts_with("r "));
        lines.collect::<Vec<_>>().join("\n")
    }

    /// A command on this host.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        let first = self.namespaces.children();
        let first = first.first().expect("the first process of the host");
        command.args([
            "--mount",
            "--uts",
            "--pid",
            "--target",
            &first.to_string(),
            "--",
        ]);
        command.arg(program);
        command
    }

    /// Runs a command on this host to its end.
    pub fn run(&self, program: impl AsRef<OsStr>, args: &[&str]) -> Ran {
        Process::start(self.command(program).args(args)).finish()
    }

    /// How libvirt's clients reach it.
    pub fn uri(&self) -> String {
        let socket = self.base.join("run/libvirt/libvirt-sock");
        format!("qemu+unix:///system?socket={}", socket.display())
    }

    /// A virsh command.
    pub fn virsh_command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("virsh");
        command.args(["-q", "-c", &self.uri()]).args(args);
        command
    }

    /// Runs a virsh command to its end.
    pub fn virsh(&self, args: &[&str]) -> Ran {
        Process::start(&mut self.virsh_command(args)).finish_within(PATIENCE)
    }

    /// Runs a virsh command that must succeed, and returns what it says.
    pub fn ask(&self, args: &[&str]) -> String {
        let ran = self.virsh(args);
        assert_eq!(ran.code, 0, "virsh {args:?}: {ran:?}\n{}", self.log());
        ran.stdout.trim().to_owned()
    }

    /// Starts a domain.
    pub fn create(&self, domain: &Domain) -> Ran {
        let path = self.base.join(format!("{}.xml", domain.name));
        std::fs::write(&path, domain.xml()).expect("it is written");
        self.virsh(&["create", &path.display().to_string()])
    }

    /// The state of a domain; empty if it is not known.
    pub fn state(&self, domain: &Domain) -> String {
        let ran = self.virsh(&["domstate", &domain.name]);
        match ran.code {
            0 => ran.stdout.trim().to_owned(),
            _ => String::new(),
        }
    }

    /// Migrates a running domain to another host.
    pub fn migrate(&self, domain: &Domain, to: &Self) -> Ran {
        let mut command = self.migrate_command(domain, to);
        Process::start(&mut command).finish_within(PATIENCE)
    }

    /// That as a command.
    pub fn migrate_command(&self, domain: &Domain, to: &Self) -> Command {
        let (name, uri) = (&domain.name, to.uri());
        self.virsh_command(&["migrate", "--live", FORCED, name, &uri, "tcp://127.0.0.1"])
    }

    /// What libvirtd complained of.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.base.join("log/libvirtd.log")).unwrap_or_default()
    }

    /// What a domain's QEMU was started with, and what it and its wrapper said.
    pub fn log_of(&self, domain: &Domain) -> String {
        let path = self.base.join(format!("log/qemu/{}.log", domain.name));
        std::fs::read_to_string(path).unwrap_or_default()
    }

    /// The number of a process of this host outside.
    pub fn outer_pid(&self, inner: &str) -> i32 {
        let space = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let first = self.namespaces.children();
        let own = space(&first.first().expect("the first process").to_string());
        let numbers = std::fs::read_dir("/proc").expect("/proc").flatten();
        let names = numbers.filter_map(|entry| entry.file_name().into_string().ok());
        let mut here = names.filter(|pid| pid.parse::<i32>().is_ok() && space(pid) == own);
        let is_it = |pid: &String| {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status"));
            let status = status.unwrap_or_default();
            let line = status.lines().find(|line| line.starts_with("NSpid:"));
            line.and_then(|line| line.split_whitespace().last()) == Some(inner)
        };
        let found = here.find(is_it).expect("a process of this host");
        found.parse().expect("a number")
    }

    /// The process that libvirt has started for a domain, as this host numbers it.
    pub fn pid_of(&self, domain: &Domain) -> String {
        let path = self
            .base
            .join(format!("run/libvirt/qemu/{}.pid", domain.name));
        let text = std::fs::read_to_string(path).expect("a file with its pid");
        text.trim().to_owned()
    }
}

/// Kills what runs on a host, where `outer` waits for it.
fn kill_inner(outer: &Process) {
    for inner in outer.children() {
        kill(Pid::from_raw(inner), Signal::SIGKILL).expect("it runs");
    }
    outer.finish();
}

/// Of a host with that name and directory: its first process, which takes in the orphans.
const SET_UP: &str = "\
    hostname \"$1\"; \
    mount --bind \"$2/run\" /run; \
    for part in etc lib log cache; do \
        case $part in etc) to=/etc;; *) to=/var/$part;; esac; \
        mkdir -p $to/libvirt; mount --bind \"$2/$part\" $to/libvirt; \
    done; \
    echo up; sleep infinity & wait";

/// The files of /etc/libvirt.
fn configure(base: &Path, id: u64, sanlock: &[&str]) {
    let log = base.join("log/libvirtd.log");
    // Ports of its own, for what is migrated to it.
    let port = 20_000 + u64::from(std::process::id() % 1000) * 30 + id * 10;
    let mut qemu = vec![
        "stdio_handler = \"file\"".to_owned(),
        "user = \"root\"".to_owned(),
        "group = \"root\"".to_owned(),
        "security_driver = \"none\"".to_owned(),
        "cgroup_controllers = [ ]".to_owned(),
        "namespaces = [ ]".to_owned(),
        "remember_owner = 0".to_owned(),
        format!("migration_port_min = {port}"),
        format!("migration_port_max = {}", port + 9),
    ];
    if !sanlock.is_empty() {
        qemu.push("lock_manager = \"sanlock\"".to_owned());
    }
    let libvirtd = [
        format!(
            "host_uuid = \"{:08x}-0000-4000-8000-{id:012x}\"",
            std::process::id()
        ),
        "auth_unix_rw = \"none\"".to_owned(),
        format!("log_outputs = \"3:file:{}\"", log.display()),
    ];
    let write = |name: &str, lines: &str| {
        std::fs::write(base.join("etc").join(name), lines).expect("it is written");
    };
    write("qemu.conf", &qemu.join("\n"));
    write("libvirtd.conf", &libvirtd.join("\n"));
    write("qemu-sanlock.conf", &sanlock.join("\n"));
}

/// A domain: 64 MiB, and nothing but disks.
#[derive(Debug, Clone)]
pub struct Domain {
    /// Its name.
    pub name: String,
    emulator: String,
    devices: String,
    settings: String,
}

impl Domain {
    /// With one disk, from which it boots.
    pub fn on(disk: &Path) -> Self {
        let name = disk.file_name().expect("a name").to_string_lossy();
        Self {
            name: name.into_owned(),
            emulator: "/usr/bin/qemu-system-x86_64".to_owned(),
            devices: disk_xml(disk, "hda", ""),
            settings: String::new(),
        }
    }

    /// The same with another name.
    pub fn called(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// The same with another emulator.
    pub fn by(mut self, emulator: &Path) -> Self {
        self.emulator = emulator.display().to_string();
        self
    }

    /// The same with one more device, as XML.
    pub fn with(mut self, device: &str) -> Self {
        self.devices += device;
        self
    }

    /// The same with one more setting, as XML.
    pub fn set(mut self, setting: &str) -> Self {
        self.settings += setting;
        self
    }

    /// The same without the disk that it boots from.
    pub fn without_disks(mut self) -> Self {
        self.devices.clear();
        self
    }

    fn xml(&self) -> String {
        format!(
            "<domain type='qemu'><name>{}</name><memory unit='MiB'>64</memory>\
             <vcpu>1</vcpu><os><type arch='x86_64' machine='pc'>hvm</type></os>{}\
             <devices><emulator>{}</emulator>{}<controller type='usb' model='qemu-xhci'/>\
             <memballoon model='none'/></devices></domain>",
            self.name, self.settings, self.emulator, self.devices
        )
    }
}

/// A disk, as XML. `more` stands in it: `<shareable/>`, `<readonly/>`.
pub fn disk_xml(path: &Path, target: &str, more: &str) -> String {
    let bus = match &target[..2] {
        "hd" => "ide",
        "sd" => "usb",
        _ => "virtio",
    };
    format!(
        "<disk type='file' device='disk'><driver name='qemu' type='raw' cache='none'/>\
         <source file='{}'/><target dev='{target}' bus='{bus}'/>{more}</disk>",
        path.display()
    )
}
