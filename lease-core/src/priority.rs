//! Being there in time: memory that is not swapped out, a turn before others, no death by the
//! out-of-memory killer. All of it as far as this process is allowed to; what is not, is not said.

use ioprio::{BePriorityLevel, Class, Pid, Priority, Target};
use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use std::fs;
use thread_priority::{
    RealtimeThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy,
    set_thread_priority_and_policy, thread_native_id, thread_schedule_policy,
};

/// Lock pages when they are first touched, not all that could ever be (`MCL_ONFAULT`).
const ON_FAULT: i32 = 4;
/// The lowest real-time priority: before everything that has none.
const LOWEST: u8 = 1;

/// How likely the out-of-memory killer is to choose a process, as `/proc` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OomScore(String);

/// Raises this process, from this thread on: before others are started. Returns what a process
/// that is started for somebody else is to have again.
pub fn raise() -> Option<OomScore> {
    go_first();
    lock_memory();
    stay_alive()
}

/// The out-of-memory killer chooses another. Returns as [`raise`].
pub fn stay_alive() -> Option<OomScore> {
    let before = fs::read_to_string("/proc/self/oom_score_adj").ok();
    let _ = fs::write("/proc/self/oom_score_adj", "-1000");
    before.map(OomScore)
}

/// This thread, and those that it starts, have their turn before all others.
pub fn go_first() {
    if let Ok(lowest) = ThreadPriority::try_from(LOWEST) {
        let policy = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::RoundRobin);
        let _ = set_thread_priority_and_policy(thread_native_id(), lowest, policy);
    }
}

/// The I/O of this thread has its turn among that of others, the first of the usual class.
///
/// Unless something else was asked for (ionice(1)), the I/O of a real-time thread is of the
/// real-time class. A scheduler may let nothing else through while such a request is under way
/// (mq-deadline: none for 10 s), so one write of ours that hangs would hold up all that the guarded
/// command writes to that disk. Among the others ours waits too, but for the seconds at most after
/// which each of them has its turn.
pub fn queue_with_others() {
    let this_thread = Target::Process(Pid::from_raw(0));
    let real_time = matches!(
        thread_schedule_policy(),
        Ok(ThreadSchedulePolicy::Realtime(_))
    );
    let asked_for = ioprio::get_priority(this_thread).is_ok_and(|now| now.class().is_some());
    if real_time && !asked_for {
        let usual = Class::BestEffort(BePriorityLevel::highest());
        let _ = ioprio::set_priority(this_thread, Priority::new(usual));
    }
}

/// What this process has in memory is not swapped out. Where there is a limit on locked memory,
/// locking what is to come would make allocations fail.
pub fn lock_memory() {
    let unlimited =
        getrlimit(Resource::RLIMIT_MEMLOCK).is_ok_and(|(soft, _)| soft == RLIM_INFINITY);
    if unlimited || nix::unistd::geteuid().is_root() {
        let flags = MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE;
        let _ = mlockall(flags | MlockAllFlags::from_bits_retain(ON_FAULT));
    }
}

impl OomScore {
    /// Gives it to a process.
    pub fn give_to(&self, pid: i32) {
        let _ = fs::write(format!("/proc/{pid}/oom_score_adj"), self.0.trim());
    }
}
