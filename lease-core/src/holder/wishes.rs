//! What was asked of others while leases are wanted.

use crate::clock::Moment;
use crate::id::{HostId, Lver};
use crate::record::request::Force;
use crate::resource::AskedFor;
use std::collections::BTreeMap;

/// What is asked of others.
#[derive(Debug, Default)]
pub struct Wishes {
    /// How; `None`: nothing is.
    pub(super) force: Option<Force>,
    /// Of each resource: what was asked for last, and until when those who have it are called.
    sent: BTreeMap<usize, (AskedFor, Moment)>,
}

impl Wishes {
    /// In this way.
    pub fn by(force: Option<Force>) -> Self {
        let sent = BTreeMap::new();
        Self { force, sent }
    }

    /// This was asked for.
    pub(super) fn note(&mut self, index: usize, asked: AskedFor, until: Moment) {
        self.sent.insert(index, (asked, until));
    }

    /// If this version was asked for before: of whom, and until when they are called. Where the
    /// version is not known, what was asked for stays the same until then.
    pub(super) fn known(
        &self,
        (index, lver): (usize, Option<Lver>),
        now: Moment,
    ) -> Option<(Vec<HostId>, Moment)> {
        let (sent, until) = self.sent.get(&index)?;
        let same = lver.map_or(now < *until, |lver| lver == sent.lver);
        same.then(|| (sent.hosts.clone(), *until))
    }
}
