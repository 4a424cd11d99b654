//! What this lease-join knows, for whoever asks.

use crate::server::{Server, Stage};
use lease_core::clock::{Clock, Moment};
use lease_core::registry::message::{DescribedClaim, DescribedHolder, DescribedHost, Description};
use lease_core::registry::table::{Holder, Link};

impl Server {
    /// All of it, at this moment.
    pub(crate) fn describe(&self) -> Description {
        let now = self.clock.now();
        let ago = |then: Moment| now.since(then).as_secs_f64();
        let to_come = |then: Moment| then.since(now).as_secs_f64();
        let (life, estate) = (&self.life, &self.estate);
        let others = self.hosts.iter().filter(|(host, _)| *host != estate.host);
        Description {
            kind: "local".to_owned(),
            lockspace: estate.lockspace.name,
            host_id: estate.host,
            generation: estate.generation,
            host_name: life.host_name,
            path: estate.path.clone(),
            offset: estate.lockspace.offset,
            io_timeout: life.timing.io_timeout(),
            watchdog: life.timing.watchdog(),
            state: self.stage_name().to_owned(),
            renewed: ago(self.tenure.renewed()),
            expires: to_come(self.tenure.deadline()),
            holders: self
                .table
                .holders()
                .map(|(_, holder)| describe_holder(holder))
                .collect(),
            hosts: others
                .map(|(host_id, seen)| DescribedHost {
                    host_id,
                    generation: seen.generation,
                    timestamp: seen.timestamp,
                    unchanged: ago(seen.since),
                    dead_in: to_come(seen.since.after(seen.timing.takeover_after())),
                })
                .collect(),
            renewals: self.renewals.iter().copied().collect(),
        }
    }

    /// What this lease-join does.
    pub(crate) fn stage_name(&self) -> &'static str {
        match self.stage {
            Stage::Serving => "serving",
            Stage::Stopping { .. } => "stopping",
            Stage::Leaving => "leaving",
            Stage::Lost { .. } => "lost",
        }
    }
}

fn describe_holder(holder: &Holder) -> DescribedHolder {
    let link = match holder.link {
        Link::Connected => "connected",
        Link::Awaited => "awaited",
        Link::Crashed => "crashed",
        Link::Unproven => "unproven",
    };
    let resources = holder.claims.iter().map(|claim| DescribedClaim {
        resource: claim.asked.resource,
        spec: claim.asked.spec.clone(),
        mode: claim.asked.mode,
        phase: claim.phase,
    });
    DescribedHolder {
        pid: holder.process.pid,
        command: holder.command.clone(),
        since: holder.since,
        link: link.to_owned(),
        guarded: holder.guarded.as_ref().map(|guarded| guarded.process.pid),
        containment: holder
            .guarded
            .as_ref()
            .map(|guarded| guarded.containment.clone()),
        processes: Vec::new(),
        resources: resources.collect(),
    }
}
