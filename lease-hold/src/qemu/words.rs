//! QEMU's command line: which words are options, and which are their arguments.

/// What disks are made of, or what says that nothing about them is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Word<'a> {
    /// `-blockdev`.
    Blockdev(&'a str),
    /// `-drive`.
    Drive(&'a str),
    /// `-hda` and the like, or an argument without an option: the name of an image.
    Image(&'a str),
    /// `-cdrom`, which is only read.
    Cdrom,
    /// `-device`.
    Device(&'a str),
    /// `-snapshot`.
    Snapshot,
    /// `-set`.
    Set(&'a str),
    /// `-incoming`.
    Incoming,
}

/// Options without an argument.
const ALONE: &str = " h help version audio-help mem-prealloc snapshot usb nographic portrait sdl \
    curses full-screen alt-grab ctrl-grab no-quit win2k-hack no-fd-bootchk no-acpi no-hpet \
    singlestep one-insn-per-tb preconfig S s enable-kvm enable-hax no-kvm enable-fips xen-attach \
    xen-domid-restrict no-reboot no-shutdown daemonize only-migratable nodefaults no-user-config \
    nodefconfig async-teardown enable-sync-profile semihosting old-param perfmap jitdump localtime \
    no-frame virtfs_synth ";

/// Options with an argument that is about no disk.
const OTHERS: &str = " M machine cpu accel smp numa add-fd global boot m mem-path k audio audiodev \
    soundhw name uuid fsdev virtfs iscsi usbdevice display spice rotate vga vnc g acpitable smbios \
    netdev nic net chardev tpmdev bios kernel append initrd dtb shim compat fw_cfg serial parallel \
    monitor qmp qmp-pretty mon debugcon pidfile overcommit realtime gdb d D dfilter seed L \
    xen-domid action loadvm option-rom rtc icount watchdog watchdog-action echr tb-size chroot \
    runas user sandbox trace plugin msg dump-vmstate object balloon bt clock startdate prom-env \
    semihosting-config writeconfig virtioconsole run-with igvm-cfg smp-cache nouser machine-type \
    cpu-pm ";

/// Goes through the words after QEMU's own name. In words what cannot be told.
pub(super) fn read<'a>(words: &[&'a str]) -> Result<Vec<Word<'a>>, String> {
    let mut found = Vec::new();
    let mut words = words.iter().copied().peekable();
    while let Some(word) = words.next() {
        let Some(name) = word.strip_prefix('-') else {
            found.push(Word::Image(word));
            continue;
        };
        let name = name.strip_prefix('-').unwrap_or(name);
        if is_in(ALONE, name) {
            found.extend((name == "snapshot").then_some(Word::Snapshot));
            continue;
        }
        if !is_known(name) {
            // It has no argument, or this is it.
            if words.peek().is_some_and(|next| !next.starts_with('-')) {
                return Err(format!(
                    "{word} is not known here, and whether the word after it belongs to it or is \
                     the name of a disk"
                ));
            }
            continue;
        }
        let Some(argument) = words.next() else {
            return Err(format!("{word} has no argument"));
        };
        found.extend(about_disks(name, argument)?);
    }
    Ok(found)
}

fn is_in(list: &str, name: &str) -> bool {
    !name.is_empty() && list.split_whitespace().any(|one| one == name)
}

/// Whether it is an option with an argument.
fn is_known(name: &str) -> bool {
    is_in(OTHERS, name) || !matches!(about_disks(name, ""), Ok(None))
}

/// What an option says of disks.
fn about_disks<'a>(name: &str, argument: &'a str) -> Result<Option<Word<'a>>, String> {
    Ok(Some(match name {
        "blockdev" => Word::Blockdev(argument),
        "drive" => Word::Drive(argument),
        "hda" | "hdb" | "hdc" | "hdd" | "fda" | "fdb" | "sd" | "mtdblock" | "pflash" => {
            Word::Image(argument)
        }
        "cdrom" => Word::Cdrom,
        "device" => Word::Device(argument),
        "set" => Word::Set(argument),
        "incoming" => Word::Incoming,
        "readconfig" => {
            return Err("-readconfig reads options from a file; give them as arguments".to_owned());
        }
        _ => return Ok(None),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_argument_is_no_option_whatever_it_looks_like() {
        let words = [
            "-append", "-hda", "-m", "64", "-S", "--drive", "file=/a", "/b",
        ];
        let found = read(&words).unwrap();
        assert_eq!(found, [Word::Drive("file=/a"), Word::Image("/b")]);
    }

    #[test]
    fn every_kind_of_disk_is_found() {
        let words = [
            "-hdc",
            "1",
            "-fdb",
            "2",
            "-sd",
            "3",
            "-mtdblock",
            "4",
            "-pflash",
            "5",
            "-cdrom",
            "6",
            "-blockdev",
            "7",
            "-device",
            "8",
            "-set",
            "9",
            "-snapshot",
            "-incoming",
            "defer",
        ];
        let images = ["1", "2", "3", "4", "5"].map(Word::Image);
        let rest = [
            Word::Cdrom,
            Word::Blockdev("7"),
            Word::Device("8"),
            Word::Set("9"),
            Word::Snapshot,
            Word::Incoming,
        ];
        assert_eq!(read(&words).unwrap(), [&images[..], &rest[..]].concat());
    }

    #[test]
    fn an_option_that_is_not_known_may_hide_no_disk() {
        assert_eq!(read(&["-new", "-S"]).unwrap(), []);
        assert_eq!(read(&["-S", "-new"]).unwrap(), []);
        for words in [
            &["-new", "/disk"][..],
            &["-", "/disk"],
            &["--", "/disk"],
            &["-readconfig", "/file"],
            &["-drive"],
        ] {
            assert!(read(words).is_err(), "{words:?}");
        }
    }
}
