//! Value blocks, for processes that have acquired a lease with one. What is set is written at once:
//! nobody else can see it before the release.

use super::known::{Known, is_held};
use super::member;
use super::peer::errno;
use super::storage;
use super::told::Told;
use lease_core::disk::Disk;
use lease_core::registry::order::LeaseName;
use lease_core::sanlock::part::Resource;
use lease_core::sanlock::reply::Reply;
use lease_core::spec::{Mode, ResourceSpec};
use lease_core::storage::Access;
use lease_core::survey::{self, Probe};
use nix::errno::Errno;

/// A value block that a client may use.
struct Block {
    known: Known,
    spec: ResourceSpec,
    /// Where it stands on the first disk, and its size.
    at: u64,
    len: usize,
}

impl Told {
    /// 25.
    pub(super) fn set_value(&self, asked: &Resource, value: Option<&[u8]>) -> Reply {
        let Some(value) = value else {
            return errno(Errno::E2BIG);
        };
        Reply::of(match self.block(asked) {
            Err(number) => number,
            Ok(block) if value.len() > block.len => -(Errno::E2BIG as i32),
            Ok(block) if block.spec.mode == Mode::Shared => -(Errno::EINVAL as i32),
            Ok(block) => {
                let mut bytes = value.to_vec();
                bytes.resize(block.len, 0);
                let written = member::act(&block.known, &block.spec, |resource, member| {
                    resource.write_value_block(member, &bytes)
                });
                written.map_or_else(|number| number, |()| 0)
            }
        })
    }

    /// 26.
    pub(super) fn get_value(&self, asked: &Resource, size: i32) -> Reply {
        match self.read_value(asked, size) {
            Ok(bytes) => Reply::of(0).with(bytes),
            Err(number) => Reply::of(number),
        }
    }

    fn read_value(&self, asked: &Resource, size: i32) -> Result<Vec<u8>, i32> {
        let block = self.block(asked)?;
        let size = match usize::try_from(size) {
            Ok(0) => block.len,
            Ok(size) if size <= block.len => size,
            _ => return Err(-(Errno::E2BIG as i32)),
        };
        let place = block.spec.places.first();
        let place = place.ok_or(-(Errno::ENOENT as i32))?;
        let device = storage::open(&place.path, Access::Read, Errno::ENOENT)?;
        let read = device.read(block.at, block.len);
        let mut bytes = read.map_err(|fault| storage::of_fault(&fault))?;
        bytes.truncate(size);
        Ok(bytes)
    }

    /// The value block of a lease that somebody here holds, and has acquired with it.
    fn block(&self, asked: &Resource) -> Result<Block, i32> {
        let missing = -(Errno::ENOENT as i32);
        let name = asked.lockspace.zip(asked.name).ok_or(missing)?;
        let known = Known::look(&self.options.run_dir, &name.0).ok_or(missing)?;
        let (spec, guarded) = {
            let mut claims = known.claims().filter(|(_, claim)| is_held(claim.phase));
            let found = claims.find(|(_, claim)| claim.resource == name.1);
            let (holder, claim) = found.ok_or(missing)?;
            (claim.spec.clone(), holder.guarded)
        };
        let spec = ResourceSpec::parse(&spec.into()).map_err(|_| missing)?;
        let lease = LeaseName {
            lockspace: name.0,
            resource: name.1,
        };
        if !guarded.is_some_and(|pid| self.clients.has_value(pid, &lease)) {
            return Err(-(Errno::EINVAL as i32));
        }
        let place = spec.places.first().ok_or(missing)?;
        let device = storage::open(&place.path, Access::Read, Errno::ENOENT)?;
        let probed = survey::probe(&device, place.offset);
        let Ok(Probe::Resource { leader }) = probed else {
            return Err(-(Errno::EIO as i32));
        };
        let geometry = leader.geometry();
        let at = geometry.value_block_at().ok_or(-(Errno::EINVAL as i32))?;
        Ok(Block {
            at: place.offset + at as u64,
            len: geometry.sector_bytes(),
            known,
            spec,
        })
    }
}
