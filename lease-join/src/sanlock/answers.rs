//! What is known of the daemon that we stand for, its clients, lockspaces, leases, hosts.

use super::known::{Known, is_held};
use super::peer::errno;
use super::spaces::{Added, State};
use super::storage;
use super::told::Told;
use lease_core::clock::BootClock;
use lease_core::id::Name;
use lease_core::layout::Geometry;
use lease_core::registry::message::{DescribedClaim, DescribedHolder, DescribedHost, Phase};
use lease_core::sanlock::part::{self, Host, Lockspace, Resource, host_state};
use lease_core::sanlock::reply::Reply;
use lease_core::sanlock::status::{Entry, Kind, Line, resource_tail};
use lease_core::spec::{Mode, ResourceSpec};
use lease_core::storage::{Access, Volume};
use lease_core::survey::{self, Content};
use nix::errno::Errno;

impl Told {
    /// 5: entries of these kinds until the connection ends.
    pub(super) fn status(&self, level: i32) -> Reply {
        let last = match level {
            1..=3 => level.cast_unsigned(),
            _ => Kind::Resource as u32,
        };
        let spaces = self.all_spaces();
        let mut entries = vec![self.daemon()];
        entries.extend(self.clients.entries());
        entries.extend(spaces.iter().map(lockspace));
        // The newest first.
        let leases = spaces.iter().flat_map(leases).collect::<Vec<_>>();
        entries.extend(leases.into_iter().rev());
        entries.retain(|entry| entry.kind as u32 <= last);
        stream(&entries)
    }

    /// 22.
    pub(super) fn get_lockspaces(&self) -> Reply {
        let spaces = self.all_spaces();
        let count = i32::try_from(spaces.len()).unwrap_or(i32::MAX);
        let shown = spaces
            .iter()
            .flat_map(|space| space.added.shown(space.state).encode(0));
        Reply::of(0).and(count).with(shown.collect()).last()
    }

    /// 23.
    pub(super) fn get_hosts(&self, asked: &Lockspace) -> Reply {
        let known = asked
            .name
            .and_then(|name| Known::look(&self.options.run_dir, &name));
        let Some(known) = known else {
            return errno(Errno::ENOENT).last();
        };
        let mut hosts = hosts(&known);
        if asked.host_id != 0 {
            hosts.retain(|seen| seen.host.host_id == asked.host_id);
            if hosts.is_empty() {
                hosts.push(Seen::never(asked.host_id));
            }
        }
        let count = i32::try_from(hosts.len()).unwrap_or(i32::MAX);
        let body = hosts.iter().flat_map(|seen| seen.host.encode());
        Reply::of(0).and(count).with(body.collect()).last()
    }

    /// 15.
    pub(super) fn host_status(&self, name: Option<Name>) -> Reply {
        let known = name.and_then(|name| Known::look(&self.options.run_dir, &name));
        let Some(known) = known else {
            return errno(Errno::ENOSPC).last();
        };
        let entries: Vec<Entry> = hosts(&known).iter().map(Seen::entry).collect();
        stream(&entries)
    }

    /// 34.
    pub(super) fn renewal(&self, name: Option<Name>) -> Reply {
        let known = name.and_then(|name| Known::look(&self.options.run_dir, &name));
        let Some(known) = known else {
            return errno(Errno::ENOSPC).last();
        };
        let renewals = &known.says.renewals;
        let next = renewals.iter().skip(1).map(|renewal| renewal.failures);
        let next = next.chain(std::iter::once(0));
        let entries: Vec<Entry> = renewals.iter().zip(next).map(renewal_entry).collect();
        stream(&entries).and(i32::from(known.says.io_timeout))
    }

    /// Those that clients have added, and those that were joined without them.
    fn all_spaces(&self) -> Vec<Space> {
        let mut known = Known::all(&self.options.run_dir);
        let mut spaces: Vec<Space> = Vec::new();
        for (added, state) in self.spaces.all() {
            let found = known.iter().position(|it| it.says.lockspace == added.name);
            spaces.push(Space {
                known: found.map(|index| known.swap_remove(index)),
                added,
                state,
            });
        }
        spaces.extend(known.into_iter().map(|known| Space {
            added: Added::of(&known.says),
            state: State::Joined,
            known: Some(known),
        }));
        spaces
    }

    fn daemon(&self) -> Entry {
        let options = &self.options;
        let line = Line::default()
            .with("our_host_name", options.host_name)
            .with("use_watchdog", u8::from(options.watchdog.is_some()))
            .with("high_priority", 1)
            .with("mlock_level", 1)
            .with("quiet_fail", 1)
            .with("debug_renew", 0)
            .with("debug_clients", 0)
            .with("debug_cmds", "0x0")
            .with("renewal_history_size", 180)
            .with("gid", nix::unistd::getegid())
            .with("uid", nix::unistd::geteuid())
            .with("sh_retries", 8)
            .with("max_sectors_kb_ignore", 0)
            .with("max_sectors_kb_align", 0)
            .with("max_sectors_kb_num", 0)
            .with("max_worker_threads", 0)
            .with("write_init_io_timeout", storage::LIMIT.as_secs())
            .with("use_aio", 0)
            .with("kill_grace_seconds", options.watchdog_timeout / 2)
            .with("helper_pid", 0)
            .with("helper_kill_fd", -1)
            .with("helper_full_count", 0)
            .with("helper_last_status", 0)
            .with("monotime", seconds())
            .with("version_str", "3.8.5")
            .with("version_num", "3.8.5")
            .with("version_hex", "03080500")
            .with("smproto_hex", "00000001");
        Entry {
            name: Some(options.host_name),
            line,
            ..Entry::new(Kind::Daemon)
        }
    }
}

/// A lockspace, with what its lease-join says if there is one that answers.
struct Space {
    added: Added,
    state: State,
    known: Option<Known>,
}

impl Space {
    fn geometry(&self) -> Geometry {
        self.added.geometry.unwrap_or(Geometry::ALL[0])
    }

    fn sector_size(&self) -> u32 {
        self.geometry().sector_bytes() as u32
    }
}

/// Entries until the connection ends.
fn stream(entries: &[Entry]) -> Reply {
    let mut body = Vec::new();
    entries.iter().for_each(|entry| entry.encode(&mut body));
    Reply::of(0).with(body).uncounted().last()
}

/// Seconds of the clock that timestamps are of.
fn seconds() -> u64 {
    BootClock::boot_time().0 / 1_000_000_000
}

fn lockspace(space: &Space) -> Entry {
    let added = &space.added;
    let says = space.known.as_ref().map(|known| &known.says);
    let is_lost = space.known.as_ref().is_some_and(|known| !known.is_alive());
    let list = match space.state {
        State::Joined => "spaces",
        State::Adding => "add",
        State::Removing => "rem",
    };
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let renewed = says.map_or(0, |says| seconds().saturating_sub(says.renewed as u64));
    let failures = says
        .and_then(|says| says.renewals.last())
        .map_or(0, |last| last.failures);
    let killing = space
        .known
        .iter()
        .filter(|_| is_lost)
        .flat_map(Known::claims);
    let line = Line::default()
        .with("list", list)
        .with("space_id", 1)
        .with("io_timeout", added.io_timeout)
        .with("sector_size", space.sector_size())
        .with("align_size", space.geometry().align().bytes())
        .with("host_generation", says.map_or(0, |says| says.generation.0))
        .with("renew_fail", failures)
        .with("space_dead", u8::from(is_lost))
        .with("killing_pids", u8::from(killing.count() > 0))
        .with("used_retries", 0)
        .with("external_used", u8::from(added.used))
        .with("used_by_orphans", 0)
        .with("renewal_read_extend_sec", added.io_timeout)
        .with("set_max_sectors_kb", 0)
        .with("corrupt_result", 0)
        .with("acquire_last_result", u8::from(says.is_some()))
        .with("renewal_last_result", u8::from(says.is_some()))
        .with("acquire_last_attempt", renewed)
        .with("acquire_last_success", renewed)
        .with("renewal_last_attempt", renewed)
        .with("renewal_last_success", renewed);
    Entry {
        data: added.host.get(),
        name: Some(added.name),
        line,
        tail: added.shown(State::Joined).encode(space.sector_size()),
        ..Entry::new(Kind::Lockspace)
    }
}

fn leases(space: &Space) -> Vec<Entry> {
    let claims = space.known.iter().flat_map(Known::claims);
    let entries = claims.filter_map(|(holder, claim)| lease(space, holder, claim));
    entries.collect()
}

fn lease(space: &Space, holder: &DescribedHolder, claim: &DescribedClaim) -> Option<Entry> {
    let (lver, list) = match claim.phase {
        Phase::Held(lver) | Phase::Leaving(lver) => (lver.0, "held"),
        Phase::Acquiring => (0, "add"),
        Phase::Idle | Phase::Releasing | Phase::Doubt => return None,
    };
    let spec = ResourceSpec::parse(&claim.spec.clone().into()).ok()?;
    let shared = claim.mode == Mode::Shared;
    let held = is_held(claim.phase);
    let geometry = space.geometry();
    let line = Line::default()
        .with("list", list)
        .with("flags", u8::from(shared))
        .with("sector_size", if held { space.sector_size() } else { 0 })
        .with(
            "align_size",
            if held { geometry.align().bytes() } else { 0 },
        )
        .with("lver", lver)
        .with("reused", 0)
        .with("res_id", 1)
        .with("token_id", 1);
    let resource = Resource {
        lockspace: Some(spec.lockspace),
        name: Some(spec.name),
        lver: 0,
        flags: if shared { part::SHARED } else { 0 },
        num_disks: spec.places.len() as u32,
        places: spec.places,
    };
    Some(Entry {
        number: holder.guarded.unwrap_or(holder.pid),
        data: lver,
        name: Some(spec.name),
        line,
        tail: resource_tail(&resource, space.sector_size()),
        ..Entry::new(Kind::Resource)
    })
}

/// A host as it was seen.
struct Seen {
    host: Host,
    name: Option<Name>,
    last_check: u64,
    last_live: u64,
}

impl Seen {
    /// An id that nobody ever had.
    fn never(host_id: u64) -> Self {
        let host = Host {
            host_id,
            generation: 0,
            timestamp: 0,
            io_timeout: 0,
            state: host_state::FREE,
        };
        Self {
            host,
            name: None,
            last_check: 0,
            last_live: 0,
        }
    }

    fn entry(&self) -> Entry {
        let host = &self.host;
        let name = self.name.map(|name| name.to_string());
        let line = Line::default()
            .with("last_check", self.last_check)
            .with("last_live", self.last_live)
            .with("last_req", 0)
            .with("owner_id", host.host_id)
            .with("owner_generation", host.generation)
            .with("timestamp", host.timestamp)
            .with("io_timeout", host.io_timeout)
            .with("owner_name", name.unwrap_or_default());
        Entry {
            number: i32::try_from(host.host_id).unwrap_or(i32::MAX),
            data: host.timestamp,
            line,
            ..Entry::new(Kind::Host)
        }
    }
}

/// Every host that ever joined, as its heartbeat stands on the disk.
fn hosts(known: &Known) -> Vec<Seen> {
    let says = &known.says;
    let Ok(device) = storage::open(&says.path, Access::Read, Errno::ENODEV) else {
        return Vec::new();
    };
    let area = survey::read_area(&device, says.offset, device.size());
    let Ok(Some(Content::Lockspace(hosts))) = area.map(|area| area.map(|area| area.content)) else {
        return Vec::new();
    };
    let now = seconds();
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let ago = |age: f64| now.saturating_sub(age as u64);
    let joined = hosts
        .heartbeats
        .iter()
        .filter(|(_, record)| record.generation().0 > 0);
    let seen = joined.map(|(id, record)| {
        let of = says.hosts.iter().find(|host| host.host_id == *id);
        let ours = *id == says.host_id;
        let state = match (record.is_free(), ours) {
            (true, _) => host_state::FREE,
            (false, true) if known.is_alive() => host_state::LIVE,
            (false, true) => host_state::FAIL,
            (false, false) => of.map_or(host_state::UNKNOWN, |host| {
                state_of(host, record.io_timeout())
            }),
        };
        let last_live = match (of, ours) {
            (Some(host), _) => ago(host.unchanged),
            (None, true) => ago(says.renewed),
            (None, false) => 0,
        };
        Seen {
            host: Host {
                host_id: id.get(),
                generation: record.generation().0,
                timestamp: record.timestamp(),
                io_timeout: u32::from(record.io_timeout().unwrap_or(says.io_timeout)),
                state,
            },
            name: record.host_name(),
            last_check: ago(says.renewed),
            last_live,
        }
    });
    seen.collect()
}

fn state_of(host: &DescribedHost, io_timeout: Option<u8>) -> u32 {
    let lost_after = 8.0 * f64::from(io_timeout.unwrap_or(10));
    match host {
        DescribedHost { dead_in, .. } if *dead_in <= 0.0 => host_state::DEAD,
        DescribedHost { unchanged, .. } if *unchanged > lost_after => host_state::FAIL,
        _ => host_state::LIVE,
    }
}

fn renewal_entry(
    (renewal, next_failures): (&lease_core::registry::message::Renewal, u32),
) -> Entry {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let whole = |milliseconds: f64| milliseconds as u64;
    let line = Line::default()
        .with("timestamp", renewal.timestamp)
        .with("read_ms", whole(renewal.read_ms))
        .with("write_ms", whole(renewal.write_ms))
        .with("next_timeouts", 0)
        .with("next_errors", next_failures);
    Entry {
        data: renewal.timestamp,
        line,
        ..Entry::new(Kind::Renewal)
    }
}
