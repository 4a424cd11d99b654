//! Requests for leases that other hosts hold.

use super::known::Known;
use super::member;
use super::storage::spec_of;
use super::told::Told;
use lease_core::record::request::Force;
use lease_core::sanlock::number;
use lease_core::sanlock::part::Resource;
use lease_core::spec::Mode;
use nix::errno::Errno;

impl Told {
    /// 11: 0, or the number of why not.
    pub(super) fn ask_for(&self, asked: &Resource, next: bool, force_mode: i32) -> i32 {
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
        let spec = spec_of(asked, Mode::Exclusive).ok_or(-(Errno::EINVAL as i32));
        let done = spec.and_then(|spec| {
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
}
