//! The messages of sanlock's clients and its daemon, held to bytes that the real ones sent.

#![allow(clippy::unwrap_used, clippy::panic)]

use lease_core::id::Name;
use lease_core::layout::Geometry;
use lease_core::sanlock::part::{
    self, Header, Host, HostEvent, Index, IndexEntry, Lockspace, Resource, host_state,
};
use lease_core::sanlock::reply::{DAEMON_VERSION, Event, Reply};
use lease_core::sanlock::request::{
    self, Acquire, Message, RESOURCES_MAX, Release, Released, Request, Target, VALUE_MAX,
};
use lease_core::sanlock::status::{Entry, Kind, Line, inquired, resource_tail};
use lease_core::spec::Place;
use std::collections::BTreeMap;

const GOLDEN: &str = include_str!("golden/sanlock.txt");
/// The registered process of the exchanges.
const ME: i32 = 10435;

struct Exchange {
    request: Vec<u8>,
    reply: Vec<u8>,
}

fn golden() -> BTreeMap<&'static str, Exchange> {
    let lines = GOLDEN.lines().filter(|line| !line.starts_with('#'));
    let exchange = |line: &'static str| {
        let fields: Vec<_> = line.split(' ').collect();
        let [name, request, reply] = fields[..] else {
            panic!("{line}");
        };
        let (request, reply) = (bytes(request), bytes(reply));
        (name, Exchange { request, reply })
    };
    lines.map(exchange).collect()
}

fn bytes(text: &str) -> Vec<u8> {
    let parts = text.split(',').filter(|part| *part != "-");
    parts.flat_map(part_bytes).collect()
}

fn part_bytes(part: &str) -> Vec<u8> {
    if let Some(count) = part.strip_prefix("0*") {
        return vec![0; count.parse().unwrap()];
    }
    let pairs = part.as_bytes().chunks(2);
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    pairs.map(byte).collect()
}

fn name(text: &str) -> Option<Name> {
    Some(Name::new(text.as_bytes()).unwrap())
}

fn place(path: &str, offset: u64) -> Place {
    let path = path.into();
    Place { path, offset }
}

/// The resource that clients name, with its disk or without.
fn resource(text: &str, disk: Option<u64>, flags: u32) -> Resource {
    Resource {
        lockspace: name("LSP"),
        name: name(text),
        lver: 0,
        flags,
        num_disks: 1,
        places: disk
            .map(|offset| place("/mnt/LS/res", offset))
            .into_iter()
            .collect(),
    }
}

fn lockspace(text: &str, path: &str, host_id: u64) -> Lockspace {
    Lockspace {
        name: name(text),
        host_id,
        flags: 0,
        place: place(path, 0),
    }
}

fn index() -> Index {
    Index {
        flags: 0,
        lockspace: name("LSP"),
        place: place("/mnt/LS/idx", 1 << 20),
    }
}

fn acquire(resources: Vec<Resource>) -> Acquire {
    Acquire {
        target: Target::Process(ME),
        named: resources.len() as u32,
        resources,
        owner: name("me"),
        with_value: false,
        orphan: false,
        no_wait: false,
    }
}

fn asked(name: &str) -> Request {
    let exchange = &golden()[name];
    let mut from = &exchange.request[..];
    let message = request::read(&mut from).unwrap();
    assert!(from.is_empty(), "{name}: not read to its end");
    message.request
}

#[test]
fn every_request_is_read_to_its_last_byte_and_no_part_of_it_is_one() {
    for (name, exchange) in golden() {
        if exchange.request.is_empty() {
            continue;
        }
        // More follows on the same connection.
        let bytes = [&exchange.request[..], &exchange.request].concat();
        let mut from = &bytes[..];
        let first = request::read(&mut from).unwrap();
        assert_eq!(from.len(), exchange.request.len(), "{name}");
        assert_eq!(request::read(&mut from).unwrap(), first, "{name}");
        for end in [0, 1, 31, 32, exchange.request.len() - 1] {
            if end < exchange.request.len() {
                assert!(
                    request::read(&mut &exchange.request[..end]).is_err(),
                    "{name}"
                );
            }
        }
    }
}

type Row = (&'static str, Request);

fn bare_requests() -> Vec<Row> {
    vec![
        ("register", Request::Register),
        ("version", Request::Version),
        ("status", Request::Status { level: 0 }),
        ("get-lockspaces", Request::GetLockspaces),
        ("shutdown-wait-busy", Request::ShutdownWait { force: false }),
        ("restrict", Request::Restrict { bits: 1 }),
        ("inquire", Request::Inquire(Target::Process(ME))),
        ("align", Request::Align(place("/mnt/LS/res", 0))),
        ("examine-lockspace", Request::Examine),
        ("examine-resource", Request::Examine),
        ("host-status", Request::HostStatus(name("LSP"))),
        ("renewal", Request::Renewal(name("LSP"))),
        ("reg-event", Request::RegEvent(name("LSP"))),
        ("end-event", Request::EndEvent(name("LSP"))),
        (
            "read-resource",
            Request::ReadResource(Resource {
                lockspace: None,
                name: None,
                ..resource("RA", Some(0), 0)
            }),
        ),
        (
            "read-resource-owners",
            Request::ReadOwners(resource("RA", Some(0), 0)),
        ),
    ]
}

fn requests_on_storage() -> Vec<Row> {
    vec![
        (
            "format-rindex",
            Request::FormatIndex(Index {
                flags: 0x110,
                ..index()
            }),
        ),
        ("rebuild-rindex", Request::RebuildIndex(index())),
        (
            "add-lockspace",
            Request::AddLockspace {
                lockspace: lockspace("LS2", "/mnt/LS/ls2", 1),
                no_wait: false,
                io_timeout: 1,
            },
        ),
        (
            "killpath",
            Request::Killpath {
                path: b"/usr/local/bin/fence".to_vec(),
                arguments: b"a b\\ c 7".to_vec(),
            },
        ),
        (
            "set-config",
            Request::SetConfig {
                lockspace: name("LSP"),
                bits: 2,
            },
        ),
        (
            "acquire",
            Request::Acquire(acquire(vec![resource("RA", Some(0), 0)])),
        ),
        ("acquire-empty", Request::Acquire(acquire(vec![]))),
    ]
}

fn requests_about_leases() -> Vec<Row> {
    let me = Target::Process(ME);
    vec![
        (
            "release-none",
            Request::Release(Release {
                target: me,
                what: Released::Named(vec![]),
            }),
        ),
        (
            "release-all",
            Request::Release(Release {
                target: me,
                what: Released::All,
            }),
        ),
        (
            "release-rename",
            Request::Release(Release {
                target: me,
                what: Released::Renamed(vec![resource("RD", None, 0), resource("RDnew", None, 0)]),
            }),
        ),
        (
            "convert",
            Request::Convert {
                resource: resource("RA", None, part::SHARED),
                target: me,
            },
        ),
        (
            "set-lvb",
            Request::SetValue {
                resource: resource("RC", None, 0),
                value: Some(b"hello".to_vec()),
            },
        ),
        (
            "set-event",
            Request::SetEvent {
                lockspace: name("LSP"),
                event: HostEvent {
                    host_id: 1,
                    generation: 0,
                    event: 7,
                    data: 8,
                },
                flags: 1,
            },
        ),
        (
            "update-rindex",
            Request::UpdateIndex {
                index: index(),
                entry: IndexEntry {
                    name: name("U1"),
                    offset: 0x90_0000,
                },
                flags: 0x1_0000,
            },
        ),
    ]
}

#[test]
fn what_clients_ask_for_is_what_was_asked() {
    let rows = [
        bare_requests(),
        requests_on_storage(),
        requests_about_leases(),
    ];
    for (name, expected) in rows.into_iter().flatten() {
        assert_eq!(asked(name), expected, "{name}");
    }
}

/// The answer to a golden request, as it is to be.
fn answered(name: &str, reply: &Reply) {
    let exchange = &golden()[name];
    let message: Message = request::read(&mut &exchange.request[..]).unwrap();
    assert_eq!(reply.encode(&message.header), exchange.reply, "{name}");
}

#[test]
fn what_clients_are_answered_is_what_the_daemon_answers() {
    let host = |host_id, timestamp| Host {
        host_id,
        generation: 1,
        timestamp,
        io_timeout: 1,
        state: host_state::LIVE,
    };
    let hosts = [host(1, 3394), host(2, 3395)]
        .map(|host| host.encode())
        .concat();
    answered("get-hosts", &Reply::of(0).and(2).with(hosts).last());
    answered("version", &Reply::of(0).and(DAEMON_VERSION));
    answered("align", &Reply::of(1 << 20));
    answered("release-not-held", &Reply::of(-1));
    let joined = lockspace("LSP", "/mnt/LS/ls", 1).encode(0);
    answered("get-lockspaces", &Reply::of(0).and(1).with(joined).last());
    let found = Lockspace {
        flags: part::flags_of(Geometry::ALL[0]),
        ..lockspace("LS2", "/mnt/LS/ls2", 1)
    };
    answered("read-lockspace", &Reply::of(0).and(1).with(found.encode(0)));
    let found = Resource {
        lver: 1,
        flags: part::flags_of(Geometry::ALL[0]),
        ..resource("RA", None, 0)
    };
    answered("read-resource", &Reply::of(0).with(found.encode()));
    let entry = IndexEntry {
        name: None,
        offset: 0x30_0000,
    };
    answered(
        "create-resource",
        &Reply::of(0).with(entry.encode().to_vec()),
    );
    let entry = IndexEntry {
        name: name("U1"),
        offset: 0x90_0000,
    };
    answered("update-rindex", &Reply::of(0).with(entry.encode().to_vec()));
    answered("lookup-rindex-enoent", &Reply::of(-2).with(vec![0; 64]));
    let event = Event {
        host_id: 1,
        generation: 1,
        event: 7,
        data: 8,
        from_host_id: 2,
        from_generation: 1,
    };
    assert_eq!(event.encode(), golden()["event-delivery"].reply);
}

#[test]
fn leases_are_named_in_the_words_of_the_daemon() {
    let leases = [("RA", 0, "1"), ("RB", 1 << 20, "SH"), ("RC", 2 << 20, "1")];
    let lines = leases.map(|(of, offset, state)| {
        let places = [place("/mnt/LS/res", offset)];
        inquired(&name("LSP").unwrap(), &name(of).unwrap(), &places, state)
    });
    let mut text = lines.join(&b' ');
    text.push(0);
    answered("inquire", &Reply::of(0).and(3).with(text));
    let odd = [place("/a:b c", 0)];
    let line = inquired(&name("L S").unwrap(), &name("R S").unwrap(), &odd, "7");
    assert_eq!(line, b"L\\ S:R\\ S:/a\\:b\\ c:0:7");
}

#[test]
fn what_is_known_of_hosts_and_leases_stands_where_the_daemon_has_it() {
    let host = |id: i32, timestamp: u64| {
        let line = Line::default()
            .with("last_check", 3397)
            .with("last_live", 3397)
            .with("last_req", 0)
            .with("owner_id", id)
            .with("owner_generation", 1)
            .with("timestamp", timestamp)
            .with("io_timeout", 1)
            .with("owner_name", format!("HOST{id}"));
        Entry {
            number: id,
            data: timestamp,
            line,
            ..Entry::new(Kind::Host)
        }
    };
    let mut body = Vec::new();
    [host(1, 3394), host(2, 3395)]
        .iter()
        .for_each(|host| host.encode(&mut body));
    answered("host-status", &Reply::of(0).with(body).uncounted().last());
    // The last entry of a status: the first lease that was acquired.
    let line = Line::default()
        .with("list", "held")
        .with("flags", 0)
        .with("sector_size", 512)
        .with("align_size", 1 << 20)
        .with("lver", 1)
        .with("reused", 0)
        .with("res_id", 2)
        .with("token_id", 1);
    let lease = Entry {
        number: ME,
        data: 1,
        name: name("RA"),
        line,
        tail: resource_tail(&resource("RA", Some(0), 0), 512),
        ..Entry::new(Kind::Resource)
    };
    let mut bytes = Vec::new();
    lease.encode(&mut bytes);
    // The daemon's number of a descriptor that it has not.
    let end = bytes.len() - 4;
    let reply = &golden()["status"].reply;
    assert_eq!(
        bytes[..end],
        reply[reply.len() - bytes.len()..reply.len() - 4]
    );
}

#[test]
fn what_is_no_message_is_passed_over_thirty_two_bytes_at_a_time() {
    let version = &golden()["version"].request;
    for wrong in [
        Header::default(),
        Header {
            magic: part::MAGIC,
            version: 0x1_0001,
            command: 28,
            ..Header::default()
        },
        Header {
            magic: part::MAGIC,
            version: 1,
            command: 41,
            ..Header::default()
        },
    ] {
        let bytes = [&wrong.encode()[..], version].concat();
        let message = request::read(&mut &bytes[..]).unwrap();
        assert_eq!(message.request, Request::Version, "{wrong:?}");
    }
}

#[test]
fn a_client_cannot_make_a_message_larger_than_one_command_needs() {
    let header = |command, data: i32, length| Header {
        magic: part::MAGIC,
        version: 1,
        command,
        length,
        data,
        ..Header::default()
    };
    // More resources than one command may name, and then one with more disks than there can be.
    let many = [&resource("RA", None, 0).encode()[..], &[0; 1040]].concat();
    let count = RESOURCES_MAX + 1;
    let acquire = header(7, count as i32, 0).encode();
    let bytes = [&acquire[..], &many.repeat(count), &[0; 56]].concat();
    let message = request::read(&mut &bytes[..]).unwrap();
    let Request::Acquire(Acquire {
        resources, named, ..
    }) = message.request
    else {
        panic!("{message:?}");
    };
    assert_eq!((resources.len(), named as usize), (RESOURCES_MAX, count));

    let disks = Resource {
        num_disks: 5,
        ..resource("RA", None, 0)
    };
    let bytes = [
        &header(21, 0, 0).encode()[..],
        &disks.encode(),
        &[0; 5 * 1040],
    ]
    .concat();
    let mut from = &bytes[..];
    let message = request::read(&mut from).unwrap();
    assert_eq!(
        (message.request, from.len()),
        (Request::ReadResource(disks), 0)
    );

    let value = vec![7; VALUE_MAX + 1];
    let length = (160 + value.len()) as u32;
    let named = resource("RA", None, 0);
    let bytes = [&header(25, 0, length).encode()[..], &named.encode(), &value].concat();
    let mut from = &bytes[..];
    let message = request::read(&mut from).unwrap();
    let expected = Request::SetValue {
        resource: named,
        value: None,
    };
    assert_eq!((message.request, from.len()), (expected, 0));
}
