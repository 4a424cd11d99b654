//! Where late writes of this host may still land: of an I/O that was started, and of which nobody
//! knows how it ended. Pure.

use crate::clock::Moment;
use crate::registry::message::{AreaId, HolderId};
use serde::{Deserialize, Serialize};

/// All that may still land.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LateWrites(Vec<LateWrite>);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct LateWrite {
    by: HolderId,
    areas: Vec<Option<AreaId>>,
    until: Moment,
}

impl LateWrites {
    /// A write by this holder to one of these places may land until then.
    pub(super) fn add(&mut self, by: HolderId, areas: &[Option<AreaId>], until: Moment) {
        let areas = areas.to_vec();
        self.0.push(LateWrite { by, areas, until });
    }

    /// Forgets what can no longer land.
    pub(super) fn forget_before(&mut self, now: Moment) {
        self.0.retain(|late| late.until > now);
    }

    /// Whether one of another holder than `own` may land here.
    pub(super) fn of_another(&self, own: HolderId, areas: &[Option<AreaId>], now: Moment) -> bool {
        let hit =
            |late: &LateWrite| late.by != own && late.until > now && overlap(&late.areas, areas);
        self.0.iter().any(hit)
    }

    /// From when on none can land here.
    pub(super) fn quiet_from(&self, areas: &[Option<AreaId>]) -> Moment {
        self.last(|late| overlap(&late.areas, areas))
    }

    /// From when on none can land anywhere.
    pub(super) fn all_quiet_from(&self) -> Moment {
        self.last(|_| true)
    }

    fn last(&self, hit: impl Fn(&LateWrite) -> bool) -> Moment {
        let until = self
            .0
            .iter()
            .filter(|late| hit(late))
            .map(|late| late.until);
        until.max().unwrap_or_default()
    }
}

/// Whether these two resources have a place in common.
pub(super) fn overlap(one: &[Option<AreaId>], other: &[Option<AreaId>]) -> bool {
    one.iter()
        .any(|area| area.is_some() && other.contains(area))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Identity;

    #[test]
    fn of_several_late_writes_the_last_that_may_land_counts_where_one_disk_is_the_same() {
        let identity = Identity {
            device: 1,
            inode: 2,
        };
        let area = |offset| Some(AreaId { identity, offset });
        let mut late = LateWrites::default();
        late.add(HolderId(1), &[area(0)], Moment(9));
        late.add(HolderId(2), &[area(0)], Moment(8));
        for (areas, until) in [
            (vec![area(0)], 9),
            (vec![area(1), area(0)], 9),
            (vec![area(1), None], 0),
        ] {
            assert_eq!(late.quiet_from(&areas), Moment(until));
        }
        assert_eq!(late.all_quiet_from(), Moment(9));
    }
}
