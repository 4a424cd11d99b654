//! What is written, by the arguments that say so. `/a` is exclusive, `/a:SH` shared.

use crate::qemu::Guest;
use lease_core::spec::Mode;

fn disks(words: &[&str]) -> Result<Vec<String>, String> {
    let guest = Guest::read(words)?;
    let shown = guest.disks.iter().map(|disk| {
        let path = disk.path.display();
        match disk.mode {
            Mode::Exclusive => path.to_string(),
            Mode::Shared => format!("{path}:SH"),
        }
    });
    Ok(shown.collect())
}

fn assert_written(words: &[&str], expected: &[&str]) {
    assert_eq!(
        disks(words).as_deref(),
        Ok(expected.map_to_owned().as_slice()),
        "{words:?}"
    );
}

trait MapToOwned {
    fn map_to_owned(&self) -> Vec<String>;
}

impl MapToOwned for &[&str] {
    fn map_to_owned(&self) -> Vec<String> {
        self.iter().map(|text| (*text).to_owned()).collect()
    }
}

fn assert_refused(words: &[&str], why: &str) {
    let found = disks(words).unwrap_err();
    assert!(found.contains(why), "{words:?}: {found}");
}

#[test]
fn a_drive_is_written_unless_it_says_otherwise() {
    for (drive, expected) in [
        ("file=/a", &["/a"][..]),
        ("file=/a,format=qcow2,if=virtio", &["/a"]),
        ("file=/a,,b", &["/a,b"]),
        ("file=file:/a", &["/a"]),
        ("file=host_device:/dev/a,format=raw", &["/dev/a"]),
        ("driver=host_device,file=/dev/a", &["/dev/a"]),
        ("driver=host_device,filename=/dev/a", &["/dev/a"]),
        ("file=a/b:c", &["a/b:c"]),
        ("file.filename=/a,format=raw", &["/a"]),
        ("driver=raw,file.driver=file,file.filename=/a", &["/a"]),
        ("file=/a,file.locking=off", &["/a"]),
        (
            r#"file=json:{"driver":"qcow2",,"file":{"driver":"file",,"filename":"/a"}}"#,
            &["/a"],
        ),
        (
            "file=/a,format=qcow2,backing.file.filename=/b,backing.driver=raw",
            &["/a"],
        ),
        ("file=/a,readonly=off,snapshot=off", &["/a"]),
        ("file=/a,readonly=on", &[]),
        ("file=/a,readonly", &[]),
        ("file=/a,read-only=on", &[]),
        ("file=/a,snapshot=on", &[]),
        ("file=/a,media=cdrom", &[]),
        ("if=none,id=cd,media=cdrom", &[]),
        ("file=null-co://,format=raw", &[]),
    ] {
        assert_written(&["-drive", drive], expected);
    }
}

#[test]
fn an_image_is_written_but_for_a_cdrom() {
    assert_written(
        &["-hda", "/a,b", "/c", "-sd", "/d", "-cdrom", "/e"],
        &["/a,b", "/c", "/d"],
    );
    assert_written(&["-hda", "/a", "-snapshot"], &[]);
    assert_written(
        &["-snapshot", "/a", "-drive", "file=/b,snapshot=off"],
        &["/b"],
    );
}

#[test]
fn libvirts_nodes_are_written_by_the_one_on_top() {
    let storage = r#"{"driver":"file","filename":"/a","node-name":"s","auto-read-only":true}"#;
    let format = r#"{"node-name":"f","read-only":false,"driver":"qcow2","file":"s","backing":"b"}"#;
    let base = r#"{"node-name":"b","read-only":true,"driver":"raw","file":"bs"}"#;
    let base_storage =
        r#"{"driver":"host_device","filename":"/dev/b","node-name":"bs","auto-read-only":true}"#;
    let all = [
        "-blockdev",
        base_storage,
        "-blockdev",
        base,
        "-blockdev",
        storage,
        "-blockdev",
        format,
    ];
    let with = |device: &'static str| [&all[..], &["-device", device]].concat();
    assert_written(&all, &["/a"]);
    assert_written(
        &with(r#"{"driver":"virtio-blk-pci","drive":"f","id":"d"}"#),
        &["/a"],
    );
    let shared = with(r#"{"driver":"virtio-blk-pci","share-rw":true,"drive":"f"}"#);
    assert_written(&shared, &["/a:SH"]);
    let twice = [&shared[..], &["-device", "ide-hd,drive=f"]].concat();
    assert_written(&twice, &["/a"]);
    assert_written(&with("scsi-cd,drive=f"), &[]);
}

#[test]
fn a_node_in_another_is_written_as_that_is() {
    for (blockdev, expected) in [
        (
            "qcow2,node-name=n,file.driver=file,file.filename=/a",
            &["/a"][..],
        ),
        ("driver=file,filename=/a,node-name=n", &["/a"]),
        (
            "raw,read-only=on,file.driver=file,file.filename=/a,node-name=n",
            &[],
        ),
        ("file,filename=/a,read-only=on,node-name=n", &[]),
        (
            "qcow2,file.driver=file,file.filename=/a,backing.driver=file,backing.filename=/b",
            &["/a"],
        ),
        (
            "throttle,file.driver=raw,file.file.driver=file,file.file.filename=/a",
            &["/a"],
        ),
        (
            "qcow2,file.driver=file,file.filename=/a,data-file.driver=file,data-file.filename=/b",
            &["/a", "/b"],
        ),
        ("null-co,node-name=n", &[]),
        (
            r#"{"driver":"raw","node-name":"n","file":{"driver":"file","filename":"/ü,b"}}"#,
            &["/ü,b"],
        ),
    ] {
        assert_written(&["-blockdev", blockdev], expected);
    }
}

#[test]
fn what_backs_another_is_read_unless_something_else_writes_it() {
    let words = [
        "-blockdev",
        "file,filename=/base,node-name=base",
        "-blockdev",
        "qcow2,file.driver=file,file.filename=/top,backing=base,node-name=top",
    ];
    assert_written(&words, &["/top"]);
    let also = [&words[..], &["-device", "ide-hd,drive=base"]].concat();
    assert_written(&also, &["/base", "/top"]);
}

#[test]
fn a_drive_is_shared_by_way_of_its_id() {
    let words = [
        "-drive",
        "file=/a,if=none,id=x",
        "-device",
        "virtio-blk-pci,drive=x,share-rw=on",
    ];
    assert_written(&words, &["/a:SH"]);
    assert_written(&[&words[..], &["-hdb", "/a"]].concat(), &["/a"]);
}

#[test]
fn nodes_that_use_each_other_in_a_circle_come_to_an_end() {
    let words = [
        "-blockdev",
        "raw,node-name=a,file=b",
        "-blockdev",
        "raw,node-name=b,file=a",
    ];
    assert_written(&words, &[]);
}

#[test]
fn what_cannot_be_told_is_refused() {
    for (words, why) in [
        (&["-drive", "file=rbd:pool/image"][..], "rbd"),
        (&["-drive", "file=nbd://host/export,format=raw"], "nbd"),
        (&["-drive", "file.driver=nbd,file.host=h,format=raw"], "nbd"),
        (&["-hda", "https://host/disk"], "https"),
        (&["-drive", "file=fat:rw:/dir"], "fat"),
        (&["-blockdev", "quorum,children.0=a,children.1=b"], "quorum"),
        (&["-blockdev", "raw,file=nowhere"], "nowhere"),
        (&["-blockdev", "raw,node-name=n"], "no file"),
        (&["-blockdev", r#"{"driver":"raw","#], "JSON"),
        (&["-drive", "file=/a,readonly=maybe"], "maybe"),
        (&["-drive", "file=json:x"], "JSON"),
        (&["-drive", "file=/dev/fdset/1"], "/dev/fdset/1"),
        (&["-hda", "/proc/self/fd/3"], "/proc/self/fd/3"),
        (
            &["-device", "vhost-user-blk-pci,chardev=c"],
            "vhost-user-blk",
        ),
        (&["-hda", "/a", "-set", "drive.x.readonly=off"], "-set"),
        (&["-hda", "/\u{fffd}"], "UTF-8"),
        (&["-readconfig", "/file"], "-readconfig"),
    ] {
        assert_refused(words, why);
    }
    // What is only read needs no lease.
    assert_written(&["-drive", "file=nbd://host/export,readonly=on"], &[]);
    assert_written(&["-cdrom", "https://host/disk"], &[]);
    assert_written(&["-set", "device.x.bootindex=1"], &[]);
}

#[test]
fn a_guest_that_comes_from_elsewhere_is_known() {
    let is_incoming = |words: &[&str]| Guest::read(words).unwrap().is_incoming;
    assert!(is_incoming(&["-hda", "/a", "-incoming", "defer"]));
    assert!(!is_incoming(&["-hda", "/a", "-append", "-incoming"]));
}
