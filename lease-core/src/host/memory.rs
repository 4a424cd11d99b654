//! The host id that this machine has taken by itself, remembered over reboots.
//!
//! It is written before the heartbeat that it speaks of, so that a machine that loses power at any
//! moment finds its host id again. Memory that is copied to another machine costs that one nothing:
//! by the ids of the two it is seen to be another's, or else by what stands on the disk
//! ([`Chooser`](crate::delta::Chooser)).

use crate::delta::Had;
use serde::{Deserialize, Serialize};

/// What says which machine this is; `None`: nobody knows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineId {
    /// As its system was installed: machine-id(5).
    pub system: Option<String>,
    /// As its hardware or its hypervisor says.
    pub hardware: Option<String>,
}

impl MachineId {
    /// Whether these are two machines for certain. That they are one nobody can tell.
    fn is_another(&self, other: &Self) -> bool {
        let differ = |this: &Option<String>, other: &Option<String>| {
            this.is_some() && other.is_some() && this != other
        };
        differ(&self.system, &other.system) || differ(&self.hardware, &other.hardware)
    }
}

/// What a machine remembers of its host id in one lockspace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// The machine.
    pub machine: MachineId,
    /// Its host id.
    #[serde(flatten)]
    pub had: Had,
}

impl Memory {
    /// Whether another machine has written it.
    pub(super) fn is_of_another(&self, machine: &MachineId) -> bool {
        self.machine.is_another(machine)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_another_if_anything_that_is_known_of_both_differs() {
        let id = |system: &str, hardware: &str| {
            let known = |text: &str| (!text.is_empty()).then(|| text.to_owned());
            MachineId {
                system: known(system),
                hardware: known(hardware),
            }
        };
        let table = [
            (id("a", "1"), id("a", "1"), false),
            (id("a", "1"), id("b", "1"), true),
            (id("a", "1"), id("a", "2"), true),
            (id("a", ""), id("a", "2"), false),
            (id("a", ""), id("b", "2"), true),
            (id("", ""), id("b", "2"), false),
            (id("a", ""), id("", "2"), false),
        ];
        for (one, other, expected) in table {
            assert_eq!(one.is_another(&other), expected, "{one:?} {other:?}");
            assert_eq!(other.is_another(&one), expected, "{other:?} {one:?}");
        }
    }
}
