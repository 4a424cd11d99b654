//! QEMU's block nodes: what is read and written by way of what.
//!
//! A device or a drive uses a node; a format's node uses the node that its image lies in, and only
//! reads those that it is backed by. At the bottom are files and devices of the host.

use super::options::Options;
use lease_core::spec::Mode;
use std::path::PathBuf;

/// What is known of a format or a filter: that it stores in its `file` alone, and reads `backing`.
const FORMATS: [&str; 17] = [
    "raw",
    "qcow2",
    "qcow",
    "qed",
    "vmdk",
    "vdi",
    "vpc",
    "vhdx",
    "parallels",
    "luks",
    "bochs",
    "cloop",
    "dmg",
    "throttle",
    "copy-on-read",
    "preallocate",
    "compress",
];
/// What a node of these stores in.
const STORES_IN: [&str; 2] = ["file", "data-file"];
/// Files of the host, and what is put before their names.
const FILES: [&str; 3] = ["file", "host_device", "host_cdrom"];
/// What looks like a file of the host and may be any.
const NOT_BY_NAME: [&str; 3] = ["/dev/fd/", "/dev/fdset/", "/proc/"];

/// What a node does to what lies below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Use {
    /// At most, it reads.
    Reads,
    /// It writes, and lets others write.
    Shares,
    /// It writes.
    Writes,
}

/// What lies at the bottom.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Bottom {
    /// Nothing: there are nodes below, or there is nothing to write.
    None,
    /// A file or device of the host.
    File(PathBuf),
    /// Something that no lease is named after: why.
    Other(String),
}

/// Where a node is used.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Link {
    Index(usize),
    Name(String),
}

#[derive(Debug)]
struct Node {
    /// The argument that it comes from.
    shown: String,
    /// Its node-name, or the id of a drive.
    names: Vec<String>,
    read_only: bool,
    bottom: Bottom,
    /// What it stores in.
    below: Vec<Link>,
    /// What it only reads, by name.
    backing: Option<String>,
    /// Whether it is an inner part of an argument, so that only its parent uses it.
    inner: bool,
}

/// A guest's device that uses a node.
#[derive(Debug)]
struct Device {
    drive: String,
    used: Use,
}

/// All block nodes of a command.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    nodes: Vec<Node>,
    devices: Vec<Device>,
}

/// A file or device of the host that is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Disk {
    /// As it is named in the command.
    pub(crate) path: PathBuf,
    /// Shared: others may write it too.
    pub(crate) mode: Mode,
}

impl Nodes {
    /// `-blockdev`.
    pub(super) fn add_blockdev(&mut self, shown: &str, options: &Options) -> Result<(), String> {
        self.add(shown, options, (false, false)).map(drop)
    }

    /// `-drive`: its `file` is a name, not another node. `snapshot`: changes go elsewhere unless it
    /// says otherwise.
    pub(super) fn add_drive(
        &mut self,
        shown: &str,
        options: &Options,
        snapshot: bool,
    ) -> Result<(), String> {
        let mut options = options.clone();
        if options.get("driver").is_none() {
            let format = options.get("format").unwrap_or("raw").to_owned();
            options.set("driver", &format);
        }
        let switch = |key| options.switch(key).map(|on| on == Some(true));
        let keeps = options.switch("snapshot")?.unwrap_or(snapshot);
        let cdrom = options.get("media") == Some("cdrom");
        let read_only = switch("readonly")? || switch("read-only")? || cdrom || keeps;
        let Some(options) = with_file(options)? else {
            return Ok(());
        };
        let index = self.add(shown, &options, (read_only, false))?;
        self.nodes[index]
            .names
            .extend(options.get("id").map(str::to_owned));
        Ok(())
    }

    /// `-hda` and the like.
    pub(super) fn add_image(&mut self, name: &str, snapshot: bool) -> Result<(), String> {
        let mut options = Options::default();
        options.set("file", name);
        self.add_drive(name, &options, snapshot)
    }

    /// `-device`.
    pub(super) fn add_device(&mut self, options: &Options) -> Result<(), String> {
        let driver = options.get("driver").unwrap_or_default();
        if [
            "vhost-user-blk",
            "vhost-user-scsi",
            "vhost-scsi",
            "vhost-vdpa",
        ]
        .iter()
        .any(|elsewhere| driver.starts_with(elsewhere))
        {
            return Err(format!(
                "what {driver} writes is known to another program only"
            ));
        }
        let Some(drive) = options.get("drive") else {
            return Ok(());
        };
        let used = match options.switch("share-rw")? {
            _ if driver.ends_with("-cd") => Use::Reads,
            Some(true) => Use::Shares,
            _ => Use::Writes,
        };
        let drive = drive.to_owned();
        self.devices.push(Device { drive, used });
        Ok(())
    }

    /// Adds a node and those that are described within it. `outer`: whether the argument is only
    /// read, and whether this is an inner part of it.
    fn add(
        &mut self,
        shown: &str,
        options: &Options,
        (only_read, inner): (bool, bool),
    ) -> Result<usize, String> {
        let driver = options.get("driver").unwrap_or_default();
        let read_only = only_read || options.switch("read-only")? == Some(true);
        let named = |key| options.get(key).filter(|name: &&str| !name.is_empty());
        let mut below = Vec::new();
        if is_in(&FORMATS, Some(driver)) {
            for key in STORES_IN {
                if let Some(within) = options.within(key) {
                    below.push(Link::Index(self.add(shown, &within, (read_only, true))?));
                } else if let Some(name) = named(key) {
                    below.push(Link::Name(name.to_owned()));
                }
            }
            // What backs it may have a name, and is only read by way of this one.
            if let Some(within) = options.within("backing") {
                self.add(shown, &within, (true, true))?;
            }
        }
        let names = named("node-name").into_iter().map(str::to_owned);
        self.nodes.push(Node {
            shown: shown.to_owned(),
            names: names.collect(),
            read_only,
            bottom: bottom(driver, options, &below),
            below,
            backing: named("backing").map(str::to_owned),
            inner,
        });
        Ok(self.nodes.len() - 1)
    }

    /// What is written at the bottom, each file once. In words what cannot be told.
    pub(super) fn written(&self) -> Result<Vec<Disk>, String> {
        let mut disks: Vec<Disk> = Vec::new();
        for (node, used) in self.nodes.iter().zip(self.uses()?) {
            let mode = match used {
                Use::Reads => continue,
                Use::Shares => Mode::Shared,
                Use::Writes => Mode::Exclusive,
            };
            let path = match &node.bottom {
                Bottom::None => continue,
                Bottom::File(path) => path.clone(),
                Bottom::Other(why) => return Err(format!("{}: {why}", node.shown)),
            };
            match disks.iter_mut().find(|disk| disk.path == path) {
                Some(known) if mode == Mode::Exclusive => known.mode = mode,
                Some(_) => {}
                None => disks.push(Disk { path, mode }),
            }
        }
        Ok(disks)
    }

    /// What each node is used for: by a device, by those above it, or by nobody yet.
    fn uses(&self) -> Result<Vec<Use>, String> {
        let mut links = Vec::new();
        for (above, node) in self.nodes.iter().enumerate() {
            for link in &node.below {
                links.push((above, self.find(node, link)?));
            }
        }
        let is_below = |index| links.iter().any(|(_, below)| *below == index);
        let backs = |node: &Node| {
            let named = self.nodes.iter().filter_map(|node| node.backing.as_ref());
            named.into_iter().any(|name| node.names.contains(name))
        };
        let alone = |index: usize| {
            let node = &self.nodes[index];
            match node.inner || is_below(index) || backs(node) {
                true => Use::Reads,
                false => Use::Writes,
            }
        };
        let first = |index: usize| {
            let node = &self.nodes[index];
            let devices = self.devices.iter();
            let used = devices.filter(|device| node.names.contains(&device.drive));
            match used.map(|device| device.used).max() {
                _ if node.read_only => Use::Reads,
                Some(used) => used,
                None => alone(index),
            }
        };
        let mut uses: Vec<Use> = (0..self.nodes.len()).map(first).collect();
        // Each round carries what is known one node further down.
        for _ in 0..self.nodes.len() {
            for (above, below) in &links {
                if !self.nodes[*below].read_only {
                    uses[*below] = uses[*below].max(uses[*above]);
                }
            }
        }
        Ok(uses)
    }

    fn find(&self, above: &Node, link: &Link) -> Result<usize, String> {
        match link {
            Link::Index(index) => Ok(*index),
            Link::Name(name) => {
                let named = |node: &Node| node.names.contains(name);
                let found = self.nodes.iter().position(named);
                found.ok_or_else(|| format!("{}: there is no node {name}", above.shown))
            }
        }
    }
}

/// The options of a drive, with what `file` means in them as options of a node; `None`: there is no
/// medium.
fn with_file(mut options: Options) -> Result<Option<Options>, String> {
    let inner = options.within("file").unwrap_or_default();
    let name = match (options.get("file"), inner.get("driver")) {
        (None, None) => inner.get("filename"),
        (name, _) => name,
    };
    let Some(name) = name.filter(|name| !name.is_empty()) else {
        let is_there = inner != Options::default() || options.get("filename").is_some();
        return Ok(is_there.then_some(options));
    };
    let mut file = inner.clone();
    for (key, value) in named(name)?.pairs() {
        file.set(key, value);
    }
    if is_in(&FILES, options.get("driver")) {
        options.set("filename", file.get("filename").unwrap_or_default());
    } else {
        options.put("file", &file);
    }
    Ok(Some(options))
}

/// What lies at the bottom of a node with this driver.
fn bottom(driver: &str, options: &Options, below: &[Link]) -> Bottom {
    let other = |why: String| Bottom::Other(why);
    match (driver, options.get("filename")) {
        ("null-co" | "null-aio", _) => Bottom::None,
        (driver, Some(name)) if is_in(&FILES, Some(driver)) => match name {
            name if NOT_BY_NAME.iter().any(|start| name.starts_with(start)) => {
                other(format!("which disk {name} is cannot be told"))
            }
            name => Bottom::File(name.into()),
        },
        (driver, None) if is_in(&FILES, Some(driver)) => other("it names no file".to_owned()),
        (driver, _) if is_in(&FORMATS, Some(driver)) => match below {
            [] => other("it names no file".to_owned()),
            _ => Bottom::None,
        },
        ("", _) => other("it names no driver".to_owned()),
        (driver, _) => other(format!("a disk of {driver} has no path to name a lease by")),
    }
}

/// The name of an image, as options: with a driver before it, as JSON, or that of a file.
fn named(name: &str) -> Result<Options, String> {
    if let Some(json) = name.strip_prefix("json:") {
        return Options::of_json(json);
    }
    let before_slash = name.split('/').next().unwrap_or_default();
    let (driver, name) = match before_slash.split_once(':') {
        Some((driver, _)) => (driver, &name[driver.len() + 1..]),
        None => ("file", name),
    };
    let mut options = Options::default();
    options.set("driver", driver);
    options.set("filename", name);
    Ok(options)
}

fn is_in(list: &[&str], name: Option<&str>) -> bool {
    name.is_some_and(|name| list.contains(&name))
}

#[cfg(test)]
mod tests;
