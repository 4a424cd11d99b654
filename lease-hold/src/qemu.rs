//! The disks that a QEMU writes, as its own arguments say.
//!
//! What is opened later, by its monitor, is not seen. What cannot be told is an error: a disk that
//! is not seen here is written without a lease.

mod nodes;
mod options;
mod words;

pub(crate) use self::nodes::Disk;
use self::nodes::Nodes;
use self::options::Options;
use self::words::Word;
use lease_core::tool::{Failure, Status, show};
use std::ffi::OsString;
use std::path::Path;

/// What the arguments of a QEMU say.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Guest {
    /// The files and devices that it writes.
    pub(crate) disks: Vec<Disk>,
    /// It waits for a guest that is migrated to it or restored.
    pub(crate) is_incoming: bool,
}

impl Guest {
    /// Of a command, with its name.
    pub(crate) fn of(command: &[OsString]) -> Result<Self, Failure> {
        let shown = command.first().map(|name| show(name)).unwrap_or_default();
        let failed = |why: String| {
            let text = format!(
                "cannot tell the disks of {shown}: {why}; name the leases yourself, as RESOURCE, \
                 without --auto-disks (see man lease-hold)"
            );
            Failure::new(Status::Usage, text)
        };
        let Some((name, arguments)) = command.split_first() else {
            return Err(failed("there is no command".to_owned()));
        };
        if !is_qemu(name) {
            return Err(failed(
                "it is not called qemu-system-..., qemu-kvm or kvm".to_owned(),
            ));
        }
        let words: Vec<_> = arguments
            .iter()
            .map(|word| word.to_string_lossy())
            .collect();
        let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
        Self::read(&words).map_err(failed)
    }

    fn read(words: &[&str]) -> Result<Self, String> {
        let words = words::read(words)?;
        let snapshot = words.contains(&Word::Snapshot);
        let mut nodes = Nodes::default();
        for word in &words {
            let (shown, added) = add(&mut nodes, word, snapshot);
            added.map_err(|why| format!("{shown}: {why}"))?;
        }
        Ok(Self {
            disks: nodes.written()?,
            is_incoming: words.contains(&Word::Incoming),
        })
    }
}

/// Adds what an argument says, and returns how it is called in a message.
fn add(nodes: &mut Nodes, word: &Word<'_>, snapshot: bool) -> (String, Result<(), String>) {
    let (option, text) = match *word {
        Word::Blockdev(text) => ("-blockdev ", text),
        Word::Drive(text) => ("-drive ", text),
        Word::Image(text) => ("", text),
        Word::Device(text) => ("-device ", text),
        Word::Set(text) => ("-set ", text),
        Word::Cdrom | Word::Snapshot | Word::Incoming => ("", ""),
    };
    let shown = format!("{option}{text}");
    if text.contains(char::REPLACEMENT_CHARACTER) {
        return (shown, Err("it is not UTF-8".to_owned()));
    }
    let added = match word {
        Word::Blockdev(text) => Options::parse(text, Some("driver"))
            .and_then(|options| nodes.add_blockdev(&shown, &options)),
        Word::Drive(text) => Options::parse(text, None)
            .and_then(|options| nodes.add_drive(&shown, &options, snapshot)),
        Word::Image(text) => nodes.add_image(text, snapshot),
        Word::Device(text) => {
            Options::parse(text, Some("driver")).and_then(|options| nodes.add_device(&options))
        }
        Word::Set(text) if text.starts_with("drive.") || text.starts_with("blockdev.") => {
            Err("it changes a disk that is described elsewhere; say it there".to_owned())
        }
        Word::Set(_) | Word::Cdrom | Word::Snapshot | Word::Incoming => Ok(()),
    };
    (shown, added)
}

fn is_qemu(name: &OsString) -> bool {
    let name = Path::new(name)
        .file_name()
        .unwrap_or(name)
        .to_string_lossy();
    name.starts_with("qemu-system-") || ["qemu-kvm", "kvm"].contains(&name.as_ref())
}
