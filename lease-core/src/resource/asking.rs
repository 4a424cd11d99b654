//! One host asks whoever holds a lease to let go of it, by the request record.
//!
//! The record is everybody's to write, so whatever stands there is no more than a word: who holds
//! the lease looks at it once it is called, and acts only if a version is wanted that nobody has
//! had. A write of the past that lands late so asks for nothing.

use super::{AcquireError, AskedFor, Held, Member, Resource};
use crate::id::HostId;
use crate::record::request::{Force, REQUEST_LEN, Request};

impl Resource<'_> {
    /// Writes that the next version is wanted, unless a later one is asked for already, or this one
    /// by force. `None`: nobody has it. Nothing is asked of a host that passes through on its way
    /// to sharing.
    pub fn ask(&self, member: &Member<'_>, force: Force) -> Result<Option<AskedFor>, AcquireError> {
        let view = self.look(member)?;
        let own = view.newest_of(member.host).shared.map(|_| member.host);
        let hosts: Vec<HostId> = match view.leader.owner() {
            Some(_) if view.leader.short_hold() => Vec::new(),
            Some(owner) => vec![owner.host],
            None => {
                let others = view.sharers(member.host).into_iter();
                others.map(|sharer| sharer.host).chain(own).collect()
            }
        };
        if hosts.is_empty() {
            return Ok(None);
        }
        let lver = view.leader.lver().next();
        let wanted = Request::new(lver, force);
        let standing = self.read_request()?;
        let stronger = standing.lver == lver && standing.force() == Some(Force::Kill);
        if standing.lver <= lver && standing != wanted && !stronger {
            let mut sector = vec![0; self.geometry.sector_bytes()];
            sector[..REQUEST_LEN].copy_from_slice(&wanted.encode());
            self.write(member, self.geometry.request_at(), &sector)?;
        }
        Ok(Some(AskedFor { lver, hosts }))
    }

    /// What is asked of us who hold this: a version after ours, that nobody has had since.
    pub fn asked(&self, held: &Held) -> Result<Option<Request>, AcquireError> {
        let request = self.read_request()?;
        if request.force().is_none() || request.lver <= held.lver {
            return Ok(None);
        }
        let leader = self.read_leader()?;
        Ok((request.lver > leader.lver()).then_some(request))
    }

    /// The request for the latest version that stands on any of the disks.
    fn read_request(&self) -> Result<Request, AcquireError> {
        let (at, len) = (self.geometry.request_at(), self.geometry.sector_bytes());
        let decode = |bytes: &[u8]| Request::decode(bytes).map_err(AcquireError::Record);
        let votes = self.quorum.read(at, len, decode)?;
        let requests = votes.into_iter().map(|(_, request)| request);
        Ok(requests
            .max_by_key(|request| request.lver)
            .unwrap_or_default())
    }
}
