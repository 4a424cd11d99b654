//! Clients that say half a message, nothing, or nonsense; and very many of them.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use support::process::{Process, SOON, now};
use support::served::{Served, Server};

const MAGIC: u32 = 0x0428_2010;

/// A header of 32 bytes.
fn header(command: u32, data: i32, data2: i32) -> Vec<u8> {
    let fields = [MAGIC, 1, command, 0, 32, 0];
    let fields = fields.iter().flat_map(|field| field.to_ne_bytes());
    let data = [data, data2].into_iter().flat_map(i32::to_ne_bytes);
    fields.chain(data).collect()
}

/// The answer to a header without a body: its result.
fn ask(stream: &mut UnixStream, bytes: &[u8]) -> i32 {
    stream.write_all(bytes).unwrap();
    answer(stream)
}

fn answer(stream: &mut UnixStream) -> i32 {
    let mut reply = [0; 32];
    stream.read_exact(&mut reply).unwrap();
    i32::from_ne_bytes(reply[24..28].try_into().unwrap())
}

fn is_served(served: &Served) {
    let mut stream = served.connect();
    assert_eq!(ask(&mut stream, &header(28, 0, 0)), 0);
}

#[test]
fn half_a_message_holds_up_nobody_but_its_sender() {
    let served = Served::start(Server::Ours, "HOST1");
    let mut held: Vec<UnixStream> = Vec::new();
    for part in [1, 31, 32, 40] {
        // Of a message with a body.
        let whole = [header(20, 0, 0), vec![0; 1104]].concat();
        let mut stream = served.connect();
        stream.write_all(&whole[..part]).unwrap();
        held.push(stream);
    }
    for _ in 0..20 {
        is_served(&served);
    }
    // Its rest comes, and it is answered.
    let mut stream = held.remove(0);
    let rest = [header(20, 0, 0), vec![0; 1104]].concat();
    assert_eq!(ask(&mut stream, &rest[1..]), -19);
}

#[test]
fn several_commands_on_one_connection_are_answered_in_turn() {
    let served = Served::start(Server::Ours, "HOST1");
    let mut stream = served.connect();
    let nonsense = [vec![7; 32], header(99, 0, 0), header(0, 0, 0)].concat();
    stream.write_all(&nonsense).unwrap();
    let both = [header(28, 0, 0), header(9, 0, 1)].concat();
    assert_eq!(ask(&mut stream, &both), 0);
    assert_eq!(answer(&mut stream), -3);
}

#[test]
fn a_thousand_silent_clients_cost_nothing() {
    let served = Served::start(Server::Ours, "HOST1");
    let began = now();
    let silent: Vec<UnixStream> = (0..1000).map(|_| served.connect()).collect();
    // From another process: one alone cannot have all connections.
    let ran = served.client(&["status"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(now().since(began) < SOON);
    drop(silent);
    is_served(&served);
}

#[test]
fn nonsense_in_every_field_is_answered_or_passed_over() {
    let served = Served::start(Server::Ours, "HOST1");
    let mut random = fastrand::Rng::with_seed(18);
    for command in (0..=45).cycle().take(460) {
        // The end of all is asked for by these, and waiting by some others.
        if [2, 3, 4, 18, 19, 29].contains(&command) {
            continue;
        }
        let mut bytes = header(command, random.i32(..), random.i32(..));
        bytes[12..24].fill_with(|| random.u8(..));
        let len = random.usize(..4000);
        bytes.extend(std::iter::repeat_with(|| random.u8(..)).take(len));
        let mut stream = served.connect();
        stream.write_all(&bytes).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answers = Vec::new();
        // It may be closed before all was read.
        let _ = stream.read_to_end(&mut answers);
    }
    is_served(&served);
    assert_eq!(served.process.code(), None);
}

#[test]
fn one_place_is_served_by_one_and_what_was_left_is_taken_over() {
    let mut served = Served::start(Server::Ours, "HOST1");
    let second = |served: &Served| {
        let socket = served.path().join("sanlock.sock");
        let mut command = std::process::Command::new(support::files::binary("lease-join"));
        command.arg(format!("--sanlock-socket={}", socket.display()));
        command.arg("--run-dir").arg(served.run_dir());
        Process::start(&mut command).finish()
    };
    let ran = second(&served);
    assert_eq!(ran.code, 75);
    assert!(
        ran.stderr
            .contains("another lease-join serves there; stop that one first")
    );
    served.process.kill();
    served.start_again();
    is_served(&served);

    let daemon = Served::start(Server::Daemon, "HOST2");
    let ran = second(&daemon);
    assert_eq!(ran.code, 75);
    assert!(
        ran.stderr
            .contains("the sanlock daemon serves there; stop it first")
    );
}
