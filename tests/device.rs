//! The real disk: what `Disk` promises of outstanding I/O, on storage that hangs.
#![allow(clippy::unwrap_used)]

use lease_core::device::{Access, Device};
use lease_core::disk::{Disk, Fault};
use std::time::Duration;
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
