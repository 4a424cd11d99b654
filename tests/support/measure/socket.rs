//! One host whose clients are served by ours and one by the daemon: what a client waits for.

use crate::Bench;
use crate::table::{Aim, beside};
use crate::watch::{middle, milliseconds, resident, timed};
use std::time::Duration;
use support::process::{Process, SOON, wait_until};
use support::served::{Served, Server};
use support::storage::Storage;

/// A host that has joined storage of its own.
struct Host {
    storage: Storage,
    served: Served,
}

impl Host {
    fn joined(server: Server) -> Self {
        let storage = Storage::new(1);
        let served = Served::start(server, "HOST1");
        let lockspace = storage.lockspace(1);
        let ran = served.client(&["add_lockspace", "-s", &lockspace, "-o", "1"]);
        assert_eq!(ran.code, 0, "{ran:?}");
        Self { storage, served }
    }

    /// A process that has registered.
    fn register(&self) -> Process {
        let mut command = self.served.command(&["command", "-c", "/bin/sleep", "300"]);
        let process = Process::start(&mut command);
        let line = format!("p {} ", process.pid());
        wait_until("the process is registered", SOON, || {
            let status = self.served.client(&["status"]).stdout;
            status.contains(&line).then_some(())
        });
        process
    }

    /// How long a client waits for this change.
    fn change(&self, how: &str, process: &Process) -> Duration {
        let (resource, pid) = (self.storage.resource(1), process.pid().to_string());
        timed(|| {
            let ran = self.served.client(&[how, "-r", &resource, "-p", &pid]);
            assert!(ran.stdout.contains("done 0"), "{ran:?}");
        })
    }

    /// The first acquire of a process, up to the end of that process.
    fn first(&self) -> Duration {
        let process = self.register();
        let took = self.change("acquire", &process);
        drop(process);
        wait_until("its lease is given back", SOON, || {
            self.storage.owner(1).0.is_none().then_some(())
        });
        // The leader is written before the daemon has forgotten the lease.
        std::thread::sleep(Duration::from_millis(20));
        took
    }
}

/// Acquires and releases through the socket, as `sanlock client` asks for them.
pub(crate) fn socket(bench: &Bench) {
    let hosts = [Server::Ours, Server::Daemon].map(Host::joined);
    let mut first = [Vec::new(), Vec::new()];
    for _ in 0..bench.rounds {
        for (host, times) in hosts.iter().zip(&mut first) {
            times.push(host.first());
        }
    }
    let first = first.map(|times| milliseconds(middle(times)));
    beside(
        "socket: first acquire of a process, ms",
        first,
        Aim::Most(1.0),
    );
    let processes = [hosts[0].register(), hosts[1].register()];
    let mut times = [[Vec::new(), Vec::new()], [Vec::new(), Vec::new()]];
    for _ in 0..bench.rounds {
        for ((host, process), times) in hosts.iter().zip(&processes).zip(&mut times) {
            times[0].push(host.change("acquire", process));
            times[1].push(host.change("release", process));
        }
    }
    let [ours, theirs] = times.map(|both| both.map(|times| milliseconds(middle(times))));
    beside("  a later one, ms", [ours[0], theirs[0]], Aim::Most(1.0));
    beside("  a release, ms", [ours[1], theirs[1]], Aim::Any);
    let memory = [0, 1].map(|host: usize| resident(hosts[host].served.process.pid()));
    beside("  whoever serves: resident memory, MiB", memory, Aim::Any);
}
