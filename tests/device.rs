//! The real disk: what `Disk` promises of outstanding I/O, on storage that hangs; and whether its
//! path still leads to it.
#![allow(clippy::unwrap_used, clippy::panic)]

use lease_core::device::Device;
use lease_core::disk::{Disk, Fault};
use lease_core::storage::{Access, Presence, Volume};
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;
use support::files::{Loop, MIB, bytes, directory, filled};
use support::path::StoragePath;
use support::process::{SOON, wait_until};
use support::storage::Storage;

const SHORT: Duration = Duration::from_millis(200);

#[test]
fn an_idle_disk_is_settled_at_once_and_goes_on() {
    let storage = Storage::new(1);
    let device = Device::open(&storage.file(), Access::Write, SOON).unwrap();
    for byte in [1, 2] {
        device.settle().unwrap();
        device.write(0, &[byte; 512]).unwrap();
        assert_eq!(device.read(0, 1024).unwrap()[..512], [byte; 512]);
    }
}

#[test]
fn an_io_that_timed_out_bars_all_others_until_it_has_come_back() {
    let storage = Storage::new(1);
    let path = StoragePath::to(&storage);
    let mut device = Device::open(&path.disk(), Access::Write, SOON).unwrap();
    device.set_limit(SHORT);
    path.hang();
    let timed_out = Err(Fault::TimedOut(SHORT.as_secs()));
    assert_eq!(device.write(0, &[1; 512]), timed_out);
    assert_eq!(device.write(0, &[2; 512]), Err(Fault::Outstanding));
    assert_eq!(device.read(0, 512), Err(Fault::Outstanding));
    assert_eq!(device.settle(), Err(Fault::Outstanding));
    path.go_on();
    wait_until("it has come back", SOON, || device.settle().ok());
    device.set_limit(SOON);
    assert_eq!(device.read(0, 512).unwrap(), [1; 512]);
}

#[test]
fn what_was_begun_is_done_once_and_its_outcome_is_told_to_who_asks_next() {
    let storage = Storage::new(1);
    let device = open(&storage.file());
    device.begin_write(0, &[3; 512]).unwrap();
    assert_eq!(device.write(0, &[3; 512]), Ok(()));
    device.begin_read(0, 512).unwrap();
    let mut seen: Vec<u8> = Vec::new();
    device
        .inspect(0, 512, &mut |bytes| seen.extend(bytes))
        .unwrap();
    assert_eq!(seen, [3; 512]);
    let end = storage.offset(2);
    device.begin_read(end, 512).unwrap();
    let read = device.read(end, 512);
    assert!(matches!(read, Err(Fault::Unfit(_))), "{read:?}");
    assert_eq!(device.settle(), Ok(()));
}

#[test]
fn what_was_begun_is_outstanding_to_all_that_ask_for_something_else() {
    let storage = Storage::new(1);
    let path = StoragePath::to(&storage);
    let mut device = open(&path.disk());
    device.set_limit(SHORT);
    path.hang();
    device.begin_write(0, &[1; 512]).unwrap();
    let other = device.begin_write(0, &[2; 512]);
    assert_eq!(other, Err(Fault::Outstanding));
    assert_eq!(device.read(0, 512), Err(Fault::Outstanding));
    assert_eq!(device.write(0, &[2; 512]), Err(Fault::Outstanding));
    assert_eq!(device.settle(), Err(Fault::Outstanding));
    path.go_on();
    wait_until("it has come back", SOON, || device.settle().ok());
    device.set_limit(SOON);
    assert_eq!(device.read(0, 512).unwrap(), [1; 512]);
}

#[test]
fn the_answer_to_what_was_left_is_nobodys() {
    let storage = Storage::new(1);
    let path = StoragePath::to(&storage);
    let device = open(&path.disk());
    path.hang();
    device.begin_write(0, &[1; 512]).unwrap();
    assert!(!device.is_answered());
    assert!(device.wait(SHORT) < SOON);
    device.leave();
    assert_eq!(
        device.settle_within(Duration::ZERO),
        Err(Fault::Outstanding)
    );
    path.go_on();
    let again = || device.begin_write(0, &[2; 512]).ok();
    wait_until("it has come back", SOON, again);
    while !device.is_answered() {
        device.wait(SOON);
    }
    assert_eq!(device.write(0, &[2; 512]), Ok(()));
    assert_eq!(device.read(0, 512).unwrap(), [2; 512]);
}

/// All that its user needs of it.
const AREA: Range<u64> = 0..MIB;

fn open(path: &Path) -> Device {
    Device::open(path, Access::Write, SOON).unwrap()
}

fn is_replaced(device: &Device, part: &str) {
    match device.presence(0, &AREA) {
        Presence::Replaced(why) => assert!(why.contains(part), "{why}"),
        other => panic!("{other:?}, not {part:?}"),
    }
}

#[test]
fn a_file_that_others_do_not_find_any_more_is_replaced_and_one_that_is_only_away_is_not() {
    let dir = directory();
    let [path, other, aside] = ["disk", "new", "aside"].map(|name| dir.path().join(name));
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    filled(&path, 1, 7);
    let (device, by_link) = (open(&path), open(&link));
    let same = |device: &Device| device.presence(0, &AREA) == Presence::Same;
    assert!(same(&device) && same(&by_link));
    // Away: nobody can use another in its place, and it may come back.
    std::fs::rename(&path, &aside).unwrap();
    for device in [&device, &by_link] {
        assert!(matches!(device.presence(0, &AREA), Presence::NotKnown(_)));
    }
    std::fs::rename(&aside, &path).unwrap();
    assert!(same(&device) && same(&by_link));
    // A copy over it; one that is written to is the same.
    std::fs::copy(&path, &other).unwrap();
    std::fs::write(&path, bytes(&other)).unwrap();
    assert!(same(&device));
    std::fs::rename(&other, &path).unwrap();
    is_replaced(&device, "another file");
    is_replaced(&by_link, "another file");
    let device = open(&path);
    std::fs::remove_file(&path).unwrap();
    is_replaced(&device, "removed");
    std::fs::create_dir(&path).unwrap();
    is_replaced(&device, "another file");
}

#[test]
fn a_file_that_was_cut_is_replaced_where_that_takes_what_is_needed_of_it() {
    let dir = directory();
    let path = dir.path().join("disk");
    filled(&path, 2, 7);
    let device = open(&path);
    let cut = |len| {
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(len)
    };
    cut(MIB).unwrap();
    assert_eq!(device.presence(0, &AREA), Presence::Same);
    cut(MIB - 1).unwrap();
    is_replaced(&device, "cut to 1048575 bytes");
}

#[test]
fn of_another_block_device_at_the_path_the_record_says_whether_it_is_the_same_disk() {
    let dir = directory();
    let [one, two, link] = ["one", "two", "link"].map(|name| dir.path().join(name));
    filled(&one, 1, 7);
    filled(&two, 1, 7);
    let (first, second) = (Loop::over(&one, "512"), Loop::over(&two, "512"));
    let lead_to = |device: &Loop| {
        let _ = std::fs::remove_file(&link);
        std::os::unix::fs::symlink(&device.path, &link).unwrap();
    };
    lead_to(&first);
    let device = open(&link);
    let record = 5 * 512;
    assert_eq!(device.presence(record, &AREA), Presence::Same);
    // As if it were another path to the same disk.
    lead_to(&second);
    assert_eq!(device.presence(record, &AREA), Presence::Same);
    // What stands beside the record is others'.
    for beside in [record - 512, record + 512] {
        open(&PathBuf::from(&second.path))
            .write(beside, &[8; 512])
            .unwrap();
        assert_eq!(device.presence(record, &AREA), Presence::Same);
    }
    open(&PathBuf::from(&second.path))
        .write(record, &[8; 512])
        .unwrap();
    let replaced = "its path leads to another disk now".to_owned();
    assert_eq!(device.presence(record, &AREA), Presence::Replaced(replaced));
    // udev may remove a name and make it again.
    std::fs::remove_file(&link).unwrap();
    assert!(matches!(
        device.presence(record, &AREA),
        Presence::NotKnown(_)
    ));
}

#[test]
fn a_look_that_hangs_proves_nothing_and_is_followed_by_no_other() {
    let storage = Storage::new(1);
    let path = StoragePath::to(&storage);
    let mut device = open(&path.disk());
    assert_eq!(device.presence(0, &AREA), Presence::Same);
    device.set_limit(SHORT);
    path.freeze();
    for part in ["no answer to a look", "an earlier look"] {
        let told = device.presence(0, &AREA);
        assert!(
            matches!(&told, Presence::NotKnown(why) if why.contains(part)),
            "{told:?}"
        );
    }
    path.thaw();
    wait_until("a look that comes back", SOON, || {
        (device.presence(0, &AREA) == Presence::Same).then_some(())
    });
}
