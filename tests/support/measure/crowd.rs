//! Six hundred holders on one host: what they weigh, what lease-join does for them while they are
//! idle, and how long one more takes.

use crate::Bench;
use crate::table::{Aim, alone, beside};
use crate::watch::{cpu, median, milliseconds, proportional, run};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use support::hosts::Host;
use support::process::wait_until;
use support::storage::Storage;

const HOLDERS: u64 = 600;
/// Resources of one that holds many, on three disks.
const MANY: u64 = 64;
/// From one renewal to the next at t = 2.
const RENEWED_EVERY: Duration = Duration::from_secs(4);
/// So many of them are watched.
const RENEWALS: u32 = 4;
/// How long all of them may take to have their leases.
const ALL_WITHIN: Duration = Duration::from_secs(300);

/// Holders that end with this.
struct Crowd(Vec<Child>);

impl Drop for Crowd {
    fn drop(&mut self) {
        for child in &self.0 {
            let _ = kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM);
        }
        for child in &mut self.0 {
            let _ = child.wait();
        }
    }
}

/// All of it.
pub(crate) fn crowd(bench: &Bench) {
    let rounds = bench.rounds;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, soft.max(hard), hard).expect("it is raised");
    let storage = Storage::small(HOLDERS + 1);
    let disks = [(); 3].map(|()| Storage::small(MANY));
    let run_dir = tempfile::tempdir_in("/dev/shm").expect("a directory");
    let mut host = Host::new(&storage, 1).with_io_timeout(2);
    host.run_dir = run_dir.path().join("run");
    let join = host.join();
    let last = storage.resource(HOLDERS + 1);
    let one_more = || run(&mut host.hold_command(&[&last], &["/bin/true"]));
    let alone_on_it = median(rounds, one_more);

    let hold = |resources: &[String]| {
        let resources: Vec<&str> = resources.iter().map(String::as_str).collect();
        let command = &mut host.hold_command(&resources, &["sleep", "1000"]);
        quietly(command)
    };
    let mut all = Crowd(
        (1..=HOLDERS)
            .map(|n| hold(&[storage.resource(n)]))
            .collect(),
    );
    let on_three = |number: u64| {
        let places = disks.each_ref().map(|disk| {
            let (file, offset) = (disk.file(), disk.offset(number));
            format!("{}:{offset}", file.display())
        });
        format!("LS:R{number}:{}", places.join(":"))
    };
    let many: Vec<String> = (1..=MANY).map(on_three).collect();
    all.0.push(hold(&many));
    let guarded = || {
        let description = host.describe();
        let holders = description["holders"].as_array().expect("a list");
        let guarded = holders.iter().filter(|one| one["guarded"].is_number());
        guarded.count() as u64 == HOLDERS + 1
    };
    wait_until("all hold", ALL_WITHIN, || guarded().then_some(()));
    // At a renewal each of them has looked at its resources.
    host.wait_for_renewal();
    host.wait_for_renewal();

    let weight = |child: &Child| {
        let pid = child.id().cast_signed();
        proportional(pid) + keeper(pid).map_or(0.0, proportional)
    };
    let (last_one, others) = all.0.split_last().expect("a holder");
    let light: f64 = others.iter().map(weight).sum::<f64>() / others.len() as f64;
    alone("a holder of one resource, MiB", light, Aim::Most(0.5));
    let what = "a holder of 64 resources on 3 disks, MiB";
    alone(what, weight(last_one), Aim::Most(1.0));
    let before = cpu(join.pid());
    std::thread::sleep(RENEWED_EVERY * RENEWALS);
    let spent = milliseconds((cpu(join.pid()) - before) / RENEWALS);
    let what = "lease-join with 600 holders: CPU a renewal, ms";
    alone(what, spent, Aim::Most(3.0));
    let beside_all = median(rounds, one_more);
    let times = [beside_all, alone_on_it].map(milliseconds);
    beside(
        "an acquire beside 600 holders / alone, ms",
        times,
        Aim::Most(1.3),
    );
}

fn quietly(command: &mut Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command.spawn().expect("it starts")
}

/// The process that a lease-hold has for itself, if it has one.
fn keeper(pid: i32) -> Option<i32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let children = children.expect("it runs");
    let mut children = children.split_whitespace().flat_map(str::parse);
    children.find(|child: &i32| {
        let name = std::fs::read_to_string(format!("/proc/{child}/comm"));
        name.is_ok_and(|name| name.starts_with("lease-hold"))
    })
}
