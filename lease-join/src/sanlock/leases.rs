//! Leases of registered processes: each change is an order to the lease-hold that guards the
//! process, each question one to the lease-joins.

use super::guards;
use super::known::{Known, is_held};
use super::member;
use super::peer::{Connection, errno};
use super::spaces::State;
use super::storage::spec_of;
use super::told::Told;
use lease_core::failure::Status;
use lease_core::id::{Lver, Name};
use lease_core::record::request::Force;
use lease_core::registry::client;
use lease_core::registry::message::{DescribedClaim, Phase};
use lease_core::registry::order::{self, LeaseName, Order, Outcome, Patience};
use lease_core::sanlock::number;
use lease_core::sanlock::part::{Resource, WITH_LVER};
use lease_core::sanlock::reply::Reply;
use lease_core::sanlock::request::{Acquire, RESOURCES_MAX, Release, Released, Request, Target};
use lease_core::sanlock::status::inquired;
use lease_core::spec::{DISKS_MAX, Mode, ResourceArgument, ResourceSpec};
use nix::errno::Errno;
use std::collections::BTreeMap;

/// A release of what is not held.
const NOT_HELD: i32 = -1;

impl Told {
    /// What concerns registered processes and their leases.
    pub(super) fn answer_about_leases(&self, at: &mut Connection, request: Request) -> Reply {
        match request {
            Request::Restrict { bits } => {
                self.clients.restrict(at, bits);
                Reply::of(0)
            }
            Request::Killpath { path, arguments } => {
                match self.clients.set_killpath(at, path, &arguments) {
                    true => Reply::of(0),
                    false => errno(Errno::EBUSY),
                }
            }
            Request::Inquire(target) => self.inquire(at, target),
            Request::Acquire(acquire) => self.acquire(at, &acquire),
            Request::Release(release) => self.release(at, &release),
            Request::Ask {
                resource,
                next,
                force_mode,
            } => Reply::of(self.ask_for(&resource, next, force_mode)),
            Request::SetValue { resource, value } => self.set_value(&resource, value.as_deref()),
            Request::GetValue { resource, size } => self.get_value(&resource, size),
            _ => errno(Errno::EOPNOTSUPP),
        }
    }

    /// The life lines of a process have ended: what it holds is given back.
    pub(super) fn gone(&self, pid: i32) {
        for known in Known::all(&self.options.run_dir) {
            if let Some(guard) = guards::of(&known, pid) {
                guards::let_go(guard);
            }
        }
    }

    /// 9.
    fn inquire(&self, at: &Connection, target: Target) -> Reply {
        let turn = match self.clients.turn(at, target) {
            Ok(turn) => turn,
            Err(why) => return errno(why),
        };
        let mut leases: Vec<Vec<u8>> = Vec::new();
        for known in Known::all(&self.options.run_dir) {
            for claim in held_by(&known, turn.pid) {
                leases.extend(named(claim));
            }
        }
        let count = i32::try_from(leases.len()).unwrap_or(i32::MAX);
        let mut text = leases.join(&b' ');
        if count > 0 {
            text.push(0);
        }
        Reply::of(0).and(count).with(text)
    }

    /// 7.
    fn acquire(&self, at: &Connection, asked: &Acquire) -> Reply {
        let turn = match self.clients.turn(at, asked.target) {
            Ok(turn) => turn,
            Err(why) => return errno(why),
        };
        if asked.named as usize > RESOURCES_MAX {
            return errno(Errno::E2BIG);
        }
        let wanted = asked.resources.iter().map(to_acquire);
        let wanted = match wanted.collect::<Result<Vec<_>, i32>>() {
            Ok(wanted) => wanted,
            Err(number) => return Reply::of(number),
        };
        self.clients.set_name(turn.pid, asked.owner);
        let patience = match asked.no_wait {
            true => Patience::None,
            false => Patience::UntilKnown,
        };
        let names: Vec<LeaseName> = wanted.iter().map(lease_name).collect();
        Reply::of(match self.acquire_all(turn.pid, wanted, patience) {
            Ok(()) => {
                self.clients.set_values(turn.pid, &names, asked.with_value);
                0
            }
            Err(number) => number,
        })
    }

    /// All or none.
    fn acquire_all(
        &self,
        pid: i32,
        wanted: Vec<ResourceSpec>,
        patience: Patience,
    ) -> Result<(), i32> {
        let mut lockspaces: BTreeMap<Name, Vec<ResourceSpec>> = BTreeMap::new();
        for spec in wanted {
            lockspaces.entry(spec.lockspace).or_default().push(spec);
        }
        for lockspace in lockspaces.keys() {
            self.check_joined(lockspace)?;
        }
        let mut had: Vec<LeaseName> = Vec::new();
        for (lockspace, specs) in lockspaces {
            let names: Vec<LeaseName> = specs.iter().map(lease_name).collect();
            let resources = specs.into_iter().map(ResourceArgument::Placed).collect();
            let order = Order::Acquire {
                resources,
                patience,
            };
            let result = self
                .guard(pid, &lockspace)
                .and_then(|()| self.order(&lockspace, pid, &order));
            if let Err(number) = result {
                self.give_back(pid, &had);
                return Err(number);
            }
            had.extend(names);
        }
        Ok(())
    }

    fn check_joined(&self, lockspace: &Name) -> Result<(), i32> {
        let known = Known::look(&self.options.run_dir, lockspace);
        let removing = matches!(self.spaces.find(lockspace), Some((_, State::Removing)));
        let is_alive = known.is_some_and(|known| known.is_alive()) && !removing;
        is_alive.then_some(()).ok_or(-(Errno::ENOSPC as i32))
    }

    /// Sees to it that the process is guarded in this lockspace.
    fn guard(&self, pid: i32, lockspace: &Name) -> Result<(), i32> {
        let known = Known::look(&self.options.run_dir, lockspace);
        let known = known.ok_or(-(Errno::ENOSPC as i32))?;
        match guards::of(&known, pid) {
            Some(_) => Ok(()),
            None => {
                let files = self.clients.guarded_by(pid);
                self.guards.start(&self.options, pid, &files)
            }
        }
    }

    fn order(&self, lockspace: &Name, pid: i32, order: &Order) -> Result<(), i32> {
        let given = client::give(
            &self.options.run_dir,
            lockspace,
            (order::new_id(), pid),
            order,
        );
        let outcome = given.unwrap_or_else(Outcome::from);
        if outcome.status == Status::Done.code() {
            return Ok(());
        }
        super::log::say(&outcome.text);
        Err(number_of(&outcome))
    }

    /// 11: 0, or the number of why not.
    fn ask_for(&self, asked: &Resource, next: bool, force_mode: i32) -> i32 {
        let force = match force_mode {
            1 => Force::Kill,
            2 => Force::Stop,
            _ => return -(Errno::EINVAL as i32),
        };
        let known = asked
            .lockspace
            .and_then(|name| Known::look(&self.options.run_dir, &name));
        let Some(known) = known else {
            return -(Errno::ENOSPC as i32);
        };
        let done = to_acquire(asked).and_then(|spec| {
            let spec = ResourceSpec { lver: None, ..spec };
            member::act(&known, &spec, |resource, member| {
                resource.ask(member, force)
            })
        });
        match done {
            Ok(Some(wanted)) if !next && asked.lver < wanted.lver.0 => number::OLD_REQUEST,
            Ok(Some(wanted)) => member::call(&self.options.run_dir, &known, wanted.hosts),
            Ok(None) => 0,
            Err(number) => number,
        }
    }

    /// 8.
    fn release(&self, at: &Connection, asked: &Release) -> Reply {
        let turn = match self.clients.turn(at, asked.target) {
            Ok(turn) => turn,
            Err(why) => return errno(why),
        };
        let named = match &asked.what {
            Released::Named(resources) => resources,
            Released::All => return Reply::of(self.give_back(turn.pid, &self.all_of(turn.pid))),
            Released::Renamed(_) | Released::Orphans(_) => return errno(Errno::EOPNOTSUPP),
        };
        let held = self.all_of(turn.pid);
        let names = named.iter().map(|resource| {
            let name = resource.lockspace.zip(resource.name);
            let name = name.map(|(lockspace, resource)| LeaseName {
                lockspace,
                resource,
            });
            name.filter(|name| held.contains(name))
        });
        let (names, missing): (Vec<_>, Vec<_>) = names.partition(Option::is_some);
        let names: Vec<LeaseName> = names.into_iter().flatten().collect();
        let number = self.give_back(turn.pid, &names);
        Reply::of(match number {
            0 if !missing.is_empty() => NOT_HELD,
            number => number,
        })
    }

    fn all_of(&self, pid: i32) -> Vec<LeaseName> {
        let known = Known::all(&self.options.run_dir);
        let held = known.iter().flat_map(|known| {
            held_by(known, pid).map(|claim| LeaseName {
                lockspace: known.says.lockspace,
                resource: claim.resource,
            })
        });
        held.collect()
    }

    /// Gives leases back, one lockspace after another; 0, or the number of the first that failed.
    fn give_back(&self, pid: i32, leases: &[LeaseName]) -> i32 {
        let mut lockspaces: BTreeMap<Name, Vec<LeaseName>> = BTreeMap::new();
        for lease in leases {
            lockspaces.entry(lease.lockspace).or_default().push(*lease);
        }
        let orders = lockspaces
            .into_iter()
            .map(|(lockspace, leases)| self.order(&lockspace, pid, &Order::Release { leases }));
        let failed: Vec<i32> = orders.filter_map(Result::err).collect();
        failed.first().copied().unwrap_or(0)
    }
}

/// The leases that a process holds in one lockspace, in the order in which it got them.
fn held_by(known: &Known, pid: i32) -> impl Iterator<Item = &DescribedClaim> {
    let claims = known.claims();
    let own = claims.filter(move |(holder, _)| holder.guarded == Some(pid));
    own.map(|(_, claim)| claim)
        .filter(|claim| is_held(claim.phase))
}

fn named(claim: &DescribedClaim) -> Option<Vec<u8>> {
    let spec = ResourceSpec::parse(&claim.spec.clone().into()).ok()?;
    let state = match (claim.mode, claim.phase) {
        (Mode::Shared, _) => "SH".to_owned(),
        (Mode::Exclusive, Phase::Held(lver)) => lver.to_string(),
        (Mode::Exclusive, _) => return None,
    };
    Some(inquired(&spec.lockspace, &spec.name, &spec.places, &state))
}

fn lease_name(spec: &ResourceSpec) -> LeaseName {
    LeaseName {
        lockspace: spec.lockspace,
        resource: spec.name,
    }
}

/// What is to be acquired; the number of why it cannot be.
fn to_acquire(asked: &Resource) -> Result<ResourceSpec, i32> {
    if asked.num_disks == 0 || asked.num_disks as usize > DISKS_MAX {
        return Err(-(Errno::ERANGE as i32));
    }
    if asked.is_persistent() {
        return Err(-(Errno::EOPNOTSUPP as i32));
    }
    let mode = match asked.is_shared() {
        true => Mode::Shared,
        false => Mode::Exclusive,
    };
    let mut spec = spec_of(asked, mode).ok_or(-(Errno::EINVAL as i32))?;
    let lver = Lver(asked.lver);
    if asked.flags & WITH_LVER != 0 && lver != Lver(0) {
        spec.lver = Some(lver);
    }
    for place in &mut spec.places {
        place.path = std::path::absolute(&place.path).map_err(|_| -(Errno::ENOENT as i32))?;
    }
    Ok(spec)
}

/// sanlock's number for what came of an order.
fn number_of(outcome: &Outcome) -> i32 {
    let is = |status: Status| outcome.status == status.code();
    let errno = match outcome.sanlock {
        Some(number) => return number,
        None if is(Status::NoPath) => Errno::ENOENT,
        // It ends before the area does.
        None if is(Status::Invalid) => Errno::EMSGSIZE,
        None if is(Status::Usage) => Errno::EINVAL,
        None if is(Status::Permission) => Errno::EACCES,
        None if is(Status::Lost) => Errno::ENOSPC,
        None if is(Status::Busy) => Errno::EAGAIN,
        None => Errno::EIO,
    };
    -(errno as i32)
}
