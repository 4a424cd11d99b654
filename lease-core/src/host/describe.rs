//! What this lease-join knows, for whoever asks.

use super::server::Server;
use super::surroundings::HostSurroundings;
use crate::clock::Moment;
use crate::registry::message::{
    DescribedClaim, DescribedHolder, DescribedHost, Description, Phase,
};
use crate::registry::table::{Holder, Link};

impl<S: HostSurroundings> Server<'_, S> {
    /// All of it, at this moment.
    pub(super) fn describe(&self) -> Description {
        let now = self.now();
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
            state: self.stage.name().to_owned(),
            renewed: ago(estate.tenure.renewed()),
            expires: to_come(estate.tenure.deadline()),
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
            events: self.signals.describe(now),
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
    // What was released under what runs on is nobody's any more.
    let claims = holder.claims.iter();
    let claims = claims.filter(|claim| holder.guarded.is_none() || claim.phase != Phase::Idle);
    let resources = claims.map(|claim| DescribedClaim {
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
