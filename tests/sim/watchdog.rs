//! The watchdog device of a machine, as its lockspaces share it.

use super::clock::Instant;
use super::machine::Machine;
use super::mail::Wish;
use lease_core::failure::{Failure, Status};
use lease_core::host::watchdog::{Device, Share, Sharing};
use std::cell::Cell;
use std::fmt::{Debug, Formatter, Result as Formatted};
use std::rc::Rc;
use std::time::Duration;

/// The machine's watchdog device.
pub struct KernelDevice {
    machine: Rc<Machine>,
    timeout: Cell<u32>,
    found_armed: bool,
}

impl KernelDevice {
    /// Opens it, which arms it.
    pub fn open(machine: &Rc<Machine>) -> Self {
        let machine = Rc::clone(machine);
        let found_armed = machine.reset_at.get() != Instant::MAX;
        Self {
            machine,
            timeout: Cell::new(1),
            found_armed,
        }
    }

    fn reset_after(&self, seconds: u64) {
        let after = Duration::from_secs(seconds).as_nanos() as u64;
        self.machine
            .reset_at
            .set(self.machine.shared.now.get() + after);
        self.machine.shared.wish(Wish::Watchdog(self.machine.index));
    }
}

impl Device for KernelDevice {
    fn options(&mut self) -> Result<u32, String> {
        Ok(0x180)
    }

    fn set_timeout(&mut self, seconds: u32) -> Result<u32, String> {
        self.timeout.set(seconds);
        self.reset_after(u64::from(seconds));
        Ok(seconds)
    }

    fn pet(&mut self) -> Result<(), String> {
        self.reset_after(u64::from(self.timeout.get()));
        Ok(())
    }

    fn let_go(self) -> Result<(), String> {
        self.machine.reset_at.set(Instant::MAX);
        Ok(())
    }

    fn found_armed(&self) -> Option<bool> {
        Some(self.found_armed)
    }
}

impl Debug for KernelDevice {
    fn fmt(&self, f: &mut Formatter<'_>) -> Formatted {
        f.write_str("KernelDevice")
    }
}

/// The device, as one lockspace of the machine shares it.
pub struct Shares(Rc<Machine>);

impl Shares {
    /// For the lease-join of this lockspace.
    pub fn of(machine: &Rc<Machine>) -> Self {
        machine.share_lives.set(true);
        Self(Rc::clone(machine))
    }

    /// The other lockspaces of the machine that share it.
    fn beside(&self) -> impl Iterator<Item = (Rc<Machine>, (Share, Vec<u64>))> {
        let own = self.0.setup.lockspace;
        let others = self.0.in_all().filter(move |it| it.setup.lockspace != own);
        others.filter_map(|it| {
            let share = it.share.borrow().clone()?;
            Some((it, share))
        })
    }
}

impl Debug for Shares {
    fn fmt(&self, f: &mut Formatter<'_>) -> Formatted {
        f.write_str("Shares")
    }
}

impl Sharing for Shares {
    type Device = KernelDevice;

    fn serial(&self) -> u64 {
        self.0.shared.mailbox() as u64
    }

    fn own(&self) -> Result<Option<Share>, String> {
        Ok(self.0.share.borrow().as_ref().map(|(share, _)| *share))
    }

    fn publish(&mut self, share: &Share, covered: &[u64]) -> Result<(), String> {
        *self.0.share.borrow_mut() = Some((*share, covered.to_vec()));
        Ok(())
    }

    fn withdraw(&mut self) -> Result<(), String> {
        self.0.share.take();
        Ok(())
    }

    fn others(&self) -> Result<Vec<Share>, String> {
        Ok(self.beside().map(|(_, (share, _))| share).collect())
    }

    fn any_other_lives(&self) -> Result<bool, String> {
        Ok(self.beside().any(|(machine, _)| machine.share_lives.get()))
    }

    fn keeper_of(&self, share: &Share) -> Result<Option<String>, String> {
        let covers = |covered: &[u64]| covered.contains(&share.serial);
        let covered = self.beside().any(|(_, (_, covered))| covers(&covered));
        Ok(covered.then(|| "another lockspace".into()))
    }

    fn step_forward(&mut self) -> Result<bool, String> {
        let own = self.0.setup.lockspace;
        let opener = self.0.opener.get().unwrap_or(own);
        self.0.opener.set(Some(opener));
        Ok(opener == own)
    }

    fn step_back(&mut self) {
        let own = self.0.setup.lockspace;
        let opener = self.0.opener.get().filter(|opener| *opener != own);
        self.0.opener.set(opener);
    }

    fn open(&self) -> Result<KernelDevice, Failure> {
        Ok(KernelDevice::open(&self.0))
    }

    fn refused(&self, why: &str) -> Failure {
        Failure::new(Status::Refused, why)
    }

    fn busy(&self, why: &str) -> Failure {
        Failure::new(Status::Busy, why)
    }

    fn say(&self, text: &str) {
        self.0.tell(|| format!("watchdog: {text}"));
    }
}
