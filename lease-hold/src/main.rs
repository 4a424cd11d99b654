//! lease-hold: run a command while this host holds leases on resources.

mod alarm;
mod args;
mod auto;
mod cage;
mod carrier;
mod child;
mod command;
mod fork;
mod guarded;
mod here;
mod init;
mod joins;
mod keeper;
mod named;
mod outbox;
mod qemu;
mod signals;
mod terminal;
mod tree;
mod value;
mod workers;

use args::{Args, TOOL};
use lease_core::clock::BootClock;
use lease_core::contain::Containment;
use lease_core::crew::Crew;
use lease_core::holder::guard::Orders;
use lease_core::holder::hub::Hub;
use lease_core::holder::wishes::Wishes;
use lease_core::holder::{self, attempts};
use lease_core::machine::Machine;
use lease_core::priority;
use lease_core::spec::ResourceArgument;
use lease_core::tool;
use std::mem::ManuallyDrop;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;
use value::ValueFile;

fn main() -> ExitCode {
    if let Some(code) = init::run_if_called() {
        return code;
    }
    match tool::parse::<Args>(TOOL) {
        Ok(args) => tool::run(TOOL, || run(&args)),
        Err(code) => code,
    }
}

fn run(args: &Args) -> anyhow::Result<u8> {
    let mut specs = args.resources()?;
    let command = command::Command::find(args.command())?;
    let auto = args.auto()?;
    specs.extend(auto.specs().map(ResourceArgument::Placed));
    let value = args.value(specs.len())?;
    if specs.is_empty() {
        return command.run_without();
    }
    let unblocked = signals::block()?;
    // The keeper is forked while there is one thread.
    let keeper = keeper::Keeper::start(args.contain, &args.run_dir)?;
    priority::go_first();
    tool::speak_aside();
    let crew = Crew::passing();
    let begin = |pause| {
        let (run_dir, specs, auto) = (args.run_dir.clone(), specs.clone(), auto.clone());
        let (its, value, request) = (crew.clone(), value.clone(), args.request());
        let name = tool::show(&command.name);
        let begin = move || {
            std::thread::sleep(pause);
            auto.make()?;
            let mut hub = begin((&run_dir, value), &specs, (its, name))?;
            hub.asking = Wishes::by(request);
            Ok(hub)
        };
        signals::Doing::begin(&crew, begin)
    };
    // Where nothing is to be made, what needs no disk is done beside that.
    let early = auto.specs().next().is_none();
    let mut first = early.then(|| begin(Duration::ZERO)).transpose()?;
    tree::check_proc(&command)?;
    let oom_score = priority::stay_alive();
    let (cage, notes) = cage::Cage::build(args.contain)?;
    let keeper = keeper.filter(|_| cage.containment() != Containment::PidNamespace);
    let notes = notes.iter().filter(|_| args.verbose);
    notes.for_each(|note| tool::say(TOOL, note));
    let machine = machine();
    let wanted = (args.patience(), args.grace);
    // Until this process has ended.
    let mut kept = ManuallyDrop::new(None);
    let held = attempts::acquire((&machine, &specs), wanted, &mut kept, |pause| {
        let begun = first.take().map_or_else(|| begin(pause), Ok);
        begun?.wait()
    });
    let (hub, held) = match held.map_err(|error| auto.explain_error(error))? {
        Ok(all) => all,
        Err(end) => {
            return Ok(auto
                .explain_end(end)
                .exit(&machine, args.conflict_exit_code)?);
        }
    };
    let start = fork::Start {
        signals: unblocked,
        oom_score,
    };
    let aside = [&args.on_loss, &args.on_request].map(Clone::clone);
    let kill_signal = args.kill_signal;
    let guarded = guarded::Guarded::new((keeper, cage), (command, start), kill_signal, aside);
    hub.around.set_guarded(Some(guarded));
    let orders = Orders {
        kill_signal: args.kill_signal as i32,
        grace: args.grace,
        end_rest: args.end_rest,
    };
    let ended = holder::run(hub, held, &orders);
    hub.around.set_guarded(None);
    ended
}

/// Opens the disks and registers.
fn begin(
    (run_dir, value): (&Path, Option<ValueFile>),
    specs: &[ResourceArgument],
    (crew, name): (Crew, String),
) -> anyhow::Result<Hub<here::Here>> {
    let specs = named::with_places(specs)?;
    let opened = workers::open_all(&crew, &specs)?;
    if let Some(value) = &value {
        value.check_against(&opened)?;
    }
    opened.iter().for_each(workers::Opened::expect_to_be_read);
    let resources = opened.iter().map(|one| (one.spec.clone(), one.asked()));
    let resources = resources.collect();
    let around = here::Here::new(machine(), run_dir, (crew, opened), value.clone())?;
    let hub = Hub::start(around, resources, name)?;
    let mut lockspaces = hub.sessions().iter().map(|session| &session.welcome.path);
    if let (Some(value), Some(lockspace)) = (value, lockspaces.next()) {
        value.check_is_not(lockspace)?;
    }
    Ok(hub)
}

/// With a clock of its own: of one that is interrupted no wait passes any more.
fn machine() -> Machine {
    Machine {
        tool: TOOL,
        clock: BootClock::default(),
    }
}
