//! lease-hold: run a command while this host holds leases on resources.

mod adopted;
mod alarm;
mod args;
mod aside;
mod auto;
mod cage;
mod carrier;
mod child;
mod command;
mod fork;
mod guarded;
mod guardee;
mod here;
mod init;
mod joins;
mod keeper;
mod kept;
mod named;
mod order;
mod outbox;
mod qemu;
mod signals;
mod terminal;
mod tree;
mod value;
mod workers;

use args::{Args, TOOL, Task};
use auto::Auto;
use guardee::Guardee;
use lease_core::clock::BootClock;
use lease_core::contain::Containment;
use lease_core::crew::Crew;
use lease_core::holder::guard::Manner;
use lease_core::holder::hub::Hub;
use lease_core::holder::wishes::Wishes;
use lease_core::holder::{self, attempts};
use lease_core::id::Name;
use lease_core::machine::Machine;
use lease_core::priority;
use lease_core::process::Process;
use lease_core::record::request::Force;
use lease_core::spec::ResourceArgument;
use lease_core::tool;
use signals::Doing;
use std::ffi::{OsStr, OsString};
use std::mem::ManuallyDrop;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
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
    match args.task()? {
        Task::Run(words, specs) => run_command(args, &words, specs),
        Task::Adopt(pid, specs) => adopt(args, pid, specs),
        Task::Order(to, order) => {
            let outcome = order::give(&args.run_dir, to, &order)?;
            let line = outcome.line();
            line.into_iter().for_each(|line| tool::say(TOOL, line));
            Ok(args.exit_code(outcome.status))
        }
    }
}

/// What is to be held, and for whom.
#[derive(Clone)]
struct Wanted {
    run_dir: PathBuf,
    specs: Vec<ResourceArgument>,
    auto: Auto,
    value: Option<ValueFile>,
    /// How whoever holds it is asked to let go.
    request: Option<Force>,
    /// What the command or process is called.
    name: String,
    /// A process that is to be adopted.
    expected: Option<Arc<Process>>,
    crew: Crew,
}

impl Wanted {
    /// Opens the disks and registers, after a pause.
    fn begin(&self, pause: Duration) -> anyhow::Result<Doing<Hub<here::Here>>> {
        let wanted = self.clone();
        let begin = move || {
            std::thread::sleep(pause);
            wanted.auto.make()?;
            begin(&wanted)
        };
        Doing::begin(&self.crew, begin)
    }
}

fn run_command(
    args: &Args,
    words: &[OsString],
    mut specs: Vec<ResourceArgument>,
) -> anyhow::Result<u8> {
    let command = command::Command::find(words)?;
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
    let wanted = Wanted {
        run_dir: args.run_dir.clone(),
        specs,
        auto,
        value,
        request: args.request(),
        name: tool::show(&command.name),
        expected: None,
        crew: Crew::passing(),
    };
    // Where nothing is to be made, what needs no disk is done beside that.
    let early = wanted.auto.specs().next().is_none();
    let first = early.then(|| wanted.begin(Duration::ZERO)).transpose()?;
    tree::check_proc(&command.name)?;
    let oom_score = priority::stay_alive();
    let (cage, notes) = cage::Cage::build(args.contain)?;
    let keeper = keeper.filter(|_| cage.containment() != Containment::PidNamespace);
    let notes = notes.iter().filter(|_| args.verbose);
    notes.for_each(|note| tool::say(TOOL, note));
    let start = fork::Start {
        signals: unblocked,
        oom_score,
    };
    let (kill_signal, aside) = (args.kill_signal, args.aside());
    let guarded = guarded::Guarded::new((keeper, cage), (command, start), kill_signal, aside);
    hold(args, &wanted, first, Guardee::Started(guarded))
}

fn adopt(args: &Args, pid: i32, specs: Vec<ResourceArgument>) -> anyhow::Result<u8> {
    let found = adopted::Found::look(pid)?;
    tree::check_proc(OsStr::new(&found.name))?;
    let lockspaces: Vec<Name> = specs.iter().map(ResourceArgument::lockspace).collect();
    found.check_joins(&args.run_dir, &lockspaces)?;
    let unblocked = signals::block()?;
    let keeper = keeper::Keeper::fork(&args.run_dir)?;
    let oom_score = priority::raise();
    tool::speak_aside();
    if args.verbose {
        tool::say(TOOL, found.describe());
    }
    let start = fork::Start {
        signals: unblocked,
        oom_score,
    };
    let wanted = Wanted {
        run_dir: args.run_dir.clone(),
        specs,
        auto: Auto::default(),
        value: None,
        request: args.request(),
        name: found.name.clone(),
        expected: Some(Arc::clone(&found.process)),
        crew: Crew::passing(),
    };
    let adopted = adopted::Adopted::new(found, keeper, (args.kill_signal, start), args.aside());
    let adopted = adopted.kept_by(args.kept_by.clone());
    hold(args, &wanted, None, Guardee::Adopted(adopted))
}

/// Acquires, guards, releases. What has begun already is `first`.
fn hold(
    args: &Args,
    wanted: &Wanted,
    mut first: Option<Doing<Hub<here::Here>>>,
    guardee: Guardee,
) -> anyhow::Result<u8> {
    let (machine, auto) = (machine(), &wanted.auto);
    let how = (args.patience(), args.grace);
    // Until this process has ended.
    let mut kept = ManuallyDrop::new(None);
    let held = attempts::acquire((&machine, &wanted.specs), how, &mut kept, |pause| {
        let begun = first.take().map_or_else(|| wanted.begin(pause), Ok);
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
    hub.around.set_guarded(Some(guardee));
    let manner = Manner {
        kill_signal: args.kill_signal as i32,
        grace: args.grace,
        end_rest: args.end_rest,
        adopted: wanted.expected.is_some(),
    };
    let ended = holder::run(hub, held, &manner);
    hub.around.set_guarded(None);
    ended
}

/// Opens the disks and registers; without any, with all the lease-joins that there are.
fn begin(wanted: &Wanted) -> anyhow::Result<Hub<here::Here>> {
    let (run_dir, crew, value) = (&wanted.run_dir, &wanted.crew, &wanted.value);
    let specs = named::with_places(&wanted.specs)?;
    let opened = workers::open_all(crew, &specs)?;
    if let Some(value) = value {
        value.check_against(&opened)?;
    }
    let others = match opened.is_empty() {
        true => adopted::lockspaces(run_dir)?,
        false => Vec::new(),
    };
    opened.iter().for_each(workers::Opened::expect_to_be_read);
    let resources = opened.iter().map(|one| (one.spec.clone(), one.asked()));
    let resources = resources.collect();
    let (with, expected) = ((crew.clone(), opened), wanted.expected.clone());
    let around = here::Here::new(machine(), run_dir, with, value.clone(), expected)?;
    let mut hub = Hub::start(around, &others, resources, wanted.name.clone())?;
    hub.asking = Wishes::by(wanted.request);
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
