//! `cargo xtask test`: every check and suite this machine can run, cheapest first.

mod binaries;
mod chart;
mod deny;
mod tally;

use std::collections::VecDeque;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Result, bail, ensure};

use crate::cluster::{self, Cluster, Origin};
use crate::stage::{Stage, Stages, say};
use crate::{image, process, services, tidy, workspace};
pub(crate) use binaries::{FEATURES, build_release_test as release_test};
use binaries::{Level, Program};
use tally::Tally;

/// Parts of the test run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Part {
    /// Formatting, clippy, tidy, cargo-deny.
    Lint,
    /// Everything that needs no cluster: unit, property, scenario, simulation.
    Unit,
    /// Object storage of others, on loopback; without its name only with `--long`.
    Services,
    /// The charts, rendered.
    Chart,
    /// The definitions at a real API server.
    Api,
    /// Rings on a real cluster.
    E2e,
}

/// What `cargo xtask test` takes.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Runs only these parts; without it, all.
    #[arg(value_enum)]
    parts: Vec<Part>,
    /// Runs only end-to-end and API tests whose name contains this.
    #[arg(long, value_name = "NAME")]
    filter: Option<String>,
    /// Gives simulations and load tests more rounds.
    #[arg(long)]
    long: bool,
    /// Runs the end-to-end tests with this `dynomite` binary as the engine.
    #[arg(long, value_name = "PATH")]
    engine: Option<std::path::PathBuf>,
    #[arg(skip)]
    chaos: Option<Chaos>,
    #[command(flatten)]
    cluster: cluster::Options,
}

/// What `cargo xtask chaos` takes.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Chaos {
    /// How long the ring is harmed.
    #[arg(long, default_value_t = 5)]
    minutes: u64,
    /// Which harms come, and when: the same seed gives the same ones.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Runs with this `dynomite` binary as the engine.
    #[arg(long, value_name = "PATH")]
    engine: Option<std::path::PathBuf>,
    #[command(flatten)]
    cluster: cluster::Options,
}

/// The test that harms a ring at random.
const CHAOS: &str = "ring_survives_chaos";

/// Harms a ring under a recorded load and judges what became of it.
pub(crate) fn chaos(chaos: &Chaos) -> Result<()> {
    run(&Arguments {
        parts: vec![Part::E2e],
        filter: Some(CHAOS.to_owned()),
        long: false,
        engine: chaos.engine.clone(),
        cluster: chaos.cluster.clone(),
        chaos: Some(chaos.clone()),
    })
}

/// Runs a program of the end-to-end package on a cluster with the images of this
/// checkout, and gives back what it prints.
pub(crate) fn program(options: &cluster::Options, name: &str, args: &[String]) -> Result<String> {
    let arguments = Arguments {
        parts: Vec::new(),
        filter: None,
        long: false,
        engine: None,
        chaos: None,
        cluster: options.clone(),
    };
    let mut stages = Stages::new();
    image::build(&image::Arguments::default(), &mut stages)?;
    let program = stages.run(&format!("build {name}"), |stage| {
        binaries::build_program(name, stage)
    })?;
    let found = cluster::find(options).is_ok();
    let cluster = cluster::ensure_up(options, &mut stages)?;
    cluster::load(&cluster, &image::built(), &mut stages)?;
    let environment = environment(&arguments, options, &cluster, &mut stages)?;
    let printed = stages.run(name, |stage| {
        let mut command = Command::new(&program);
        process::run(command.args(args).envs(environment), stage)
    });
    if !found {
        stages.run("cluster down", |stage| down(options, stage))?;
    }
    printed
}

/// Runs the parts, prints times and counts, fails if anything did.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let mut run = Run::new(arguments);
    run.all();
    for failure in &run.failures {
        println!("\nFAILED {failure}");
    }
    println!();
    run.stages.summary();
    println!("\n{}", run.tally);
    ensure!(
        run.failures.is_empty(),
        "{} stages failed",
        run.failures.len()
    );
    Ok(())
}

/// Whether work has the machine for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Urgency {
    Alone,
    /// Tests on a cluster go on beside it: they wait most of their time, but
    /// judge by the clock.
    Yields,
}

impl Urgency {
    /// The command, by `nice` where it is to yield and the machine has that program.
    fn command(self, command: Command) -> Command {
        if self == Self::Alone || process::find("nice").is_none() {
            return command;
        }
        let mut nice = Command::new("nice");
        nice.args(["-n", "19"]).arg(command.get_program());
        nice.args(command.get_args());
        if let Some(directory) = command.get_current_dir() {
            nice.current_dir(directory);
        }
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => nice.env(name, value),
                None => nice.env_remove(name),
            };
        }
        nice
    }
}

/// A run under way. A part that fails does not stop the next, so that one run tells everything.
struct Run<'a> {
    arguments: &'a Arguments,
    stages: Stages,
    tally: Tally,
    failures: Vec<String>,
}

/// The test programs of all packages, as cargo is told.
const WORKSPACE: &[&str] = &["--workspace"];
/// Those that speak to services of others.
const SERVICES: &[&str] = &["-p", "dynomite-bucket", "--test", "services"];

/// The end-to-end programs that take longest, the longest first: who begins with
/// them is not waited for at the end.
const LONGEST: [&str; 4] = ["chaos", "changes", "faults", "trouble"];

impl<'a> Run<'a> {
    fn new(arguments: &'a Arguments) -> Self {
        Self {
            arguments,
            stages: Stages::new(),
            tally: Tally::default(),
            failures: Vec::new(),
        }
    }

    fn wants(&self, part: Part) -> bool {
        self.arguments.parts.is_empty() || self.arguments.parts.contains(&part)
    }

    /// To fetch and start services takes longer than their tests.
    fn wants_services(&self) -> bool {
        let arguments = self.arguments;
        arguments.parts.contains(&Part::Services) || arguments.long && self.wants(Part::Unit)
    }

    /// Runs one stage; what it fails with is told at the end.
    fn stage<T>(&mut self, name: &str, work: impl FnOnce(&Stage) -> Result<T>) -> Option<T> {
        let result = self.stages.run(name, work);
        self.note(name, result)
    }

    fn note<T>(&mut self, name: &str, result: Result<T>) -> Option<T> {
        result
            .map_err(|error| {
                let failure = format!("{name}: {error:#}");
                // Told at once, for the rest may take long, and again at the end.
                say(&format!("\nFAILED {failure}\n"));
                self.failures.push(failure);
            })
            .ok()
    }

    fn all(&mut self) {
        if self.wants(Part::Lint) {
            self.stage("format", format);
        }
        let any = [Part::Unit, Part::Api, Part::E2e]
            .map(|part| self.wants(part))
            .contains(&true);
        let programs = if any || self.wants_services() {
            let what = if any { WORKSPACE } else { SERVICES };
            let built = self.stage("build tests", |stage| binaries::build(what, stage));
            if built.is_none() {
                // What does not compile makes every later message noise.
                self.tally.failed += 1;
                return;
            }
            built.unwrap_or_default()
        } else {
            Vec::new()
        };
        let on_cluster = self.wants(Part::Api) || self.wants(Part::E2e);
        if !on_cluster || self.arguments.long {
            self.without_cluster(&programs, Urgency::Alone);
            if on_cluster {
                self.on_cluster(&programs);
            }
            return;
        }
        let arguments = self.arguments;
        let beside = thread::scope(|scope| {
            let other = scope.spawn(|| {
                let mut run = Run::new(arguments);
                run.without_cluster(&programs, Urgency::Yields);
                run
            });
            self.on_cluster(&programs);
            other.join()
        });
        self.absorb(beside, "what needs no cluster");
    }

    /// The parts that need no cluster.
    fn without_cluster(&mut self, programs: &[Program], urgency: Urgency) {
        if self.wants(Part::Unit) {
            self.unit(programs, urgency);
        }
        if self.wants_services() {
            self.services(programs, urgency);
        }
        if self.wants(Part::Lint) {
            self.lint(urgency);
        }
        if self.wants(Part::Chart) {
            self.charts();
        }
    }

    fn lint(&mut self, urgency: Urgency) {
        self.stage("clippy", |stage| clippy(urgency, stage));
        let tidy = tidy::check(&mut self.stages);
        self.note("tidy", tidy);
        if deny::available() {
            self.stage("cargo-deny", deny::check);
        } else {
            self.stages.skip(
                "cargo-deny",
                "it is not installed and there is no Python to fetch it",
            );
        }
    }

    fn unit(&mut self, programs: &[Program], urgency: Urgency) {
        let long = self.arguments.long;
        let mut tally = std::mem::take(&mut self.tally);
        self.stage("unit tests", |stage| {
            let mut failures = Vec::new();
            let alone = of_level(programs, Level::Unit).filter(|it| !needs_services(it));
            for program in alone {
                failures.extend(program.run(
                    urgency,
                    |command| lengthen(command, long),
                    &mut tally,
                    stage,
                )?);
            }
            failures.extend(binaries::run_documentation(&mut tally, stage)?);
            ensure!(failures.is_empty(), "{}", failures.join("\n"));
            Ok(())
        });
        self.tally = tally;
    }

    /// Tests against the object storage of others.
    fn services(&mut self, programs: &[Program], urgency: Urgency) {
        let mut tally = std::mem::take(&mut self.tally);
        let (running, failed) = services::all(&mut self.stages);
        for (name, error) in failed {
            self.note::<()>(&name, Err(error));
        }
        let environment = || running.iter().flat_map(|it| it.environment.iter().cloned());
        self.stage("object storage of others", |stage| {
            for program in programs.iter().filter(|it| needs_services(it)) {
                let prepare = |command: &mut Command| {
                    command.envs(environment());
                };
                if let Some(said) = program.run(urgency, prepare, &mut tally, stage)? {
                    bail!("{said}");
                }
            }
            Ok(())
        });
        self.tally = tally;
    }

    fn charts(&mut self) {
        let charts = chart::all();
        if charts.is_empty() {
            self.stages.skip("charts", "there are none");
            return;
        }
        let helm = cluster::helm(&mut self.stages);
        if let Some(helm) = self.note("helm", helm) {
            self.stage("charts", |stage| chart::check(&helm, &charts, stage));
        }
    }

    /// Everything that needs a cluster: it is ended again only if this run brought it up.
    fn on_cluster(&mut self, programs: &[Program]) {
        if self.wants(Part::E2e) {
            let arguments = image::Arguments {
                engine: self.arguments.engine.clone(),
                ..image::Arguments::default()
            };
            let built = image::build(&arguments, &mut self.stages);
            if self.note("images", built).is_none() {
                return;
            }
        }
        let options = &self.arguments.cluster;
        let found = cluster::find(options).is_ok();
        let up = cluster::ensure_up(options, &mut self.stages);
        if let Some(cluster) = self.note("cluster", up) {
            self.suites(&cluster, programs);
        }
        if !found {
            self.stage("cluster down", |stage| down(options, stage));
        }
    }

    fn suites(&mut self, cluster: &Cluster, programs: &[Program]) {
        let own = &self.arguments.cluster;
        if self.wants(Part::Api) {
            let queue = Mutex::new(of_level(programs, Level::Api).collect());
            self.work_off("API tests", &queue, own, cluster);
        }
        if !self.wants(Part::E2e) {
            return;
        }
        let mut queue: Vec<_> = of_level(programs, Level::EndToEnd).collect();
        queue.sort_by_key(|program| {
            let place = LONGEST
                .iter()
                .position(|name| program.name.ends_with(&format!(" {name}")));
            place.unwrap_or(LONGEST.len())
        });
        let queue = Mutex::new(queue.into());
        thread::scope(|scope| {
            let beside = self.has_room_beside(cluster).then(|| {
                let arguments = self.arguments;
                let queue = &queue;
                scope.spawn(move || {
                    let mut run = Run::new(arguments);
                    run.beside(queue);
                    run
                })
            });
            let loaded = cluster::load(cluster, &image::built(), &mut self.stages);
            if self.note("load images", loaded).is_some() {
                self.work_off("end-to-end tests", &queue, own, cluster);
            }
            if let Some(beside) = beside {
                self.absorb(beside.join(), "the cluster beside");
            }
        });
    }

    /// Whether a second cluster shares the work: the tests wait most of their
    /// time. Not where a person chose tests, or wants figures, or brought a cluster.
    fn has_room_beside(&self, cluster: &Cluster) -> bool {
        matches!(cluster.origin, Origin::Embedded(_))
            && self.arguments.filter.is_none()
            && !self.arguments.long
            && self.arguments.chaos.is_none()
    }

    /// Takes part in the end-to-end tests with a cluster of its own.
    fn beside(&mut self, queue: &Mutex<VecDeque<&Program>>) {
        let mut options = self.arguments.cluster.clone();
        options.name.push_str("-beside");
        let found = cluster::find(&options).is_ok();
        let up = cluster::ensure_up(&options, &mut self.stages);
        if let Some(cluster) = self.note("second cluster", up) {
            let loaded = cluster::load(&cluster, &image::built(), &mut self.stages);
            if self.note("load images", loaded).is_some() {
                self.work_off("end-to-end tests", queue, &options, &cluster);
            }
        }
        if !found {
            self.stage("second cluster down", |stage| down(&options, stage));
        }
    }

    /// Takes over what a run beside this has come to.
    fn absorb(&mut self, other: thread::Result<Self>, name: &str) {
        let Ok(other) = other else {
            self.failures.push(format!("{name} panicked"));
            return;
        };
        self.stages.absorb(other.stages);
        self.tally.absorb(&other.tally);
        self.failures.extend(other.failures);
    }

    /// Runs programs on a cluster until none is left.
    fn work_off(
        &mut self,
        name: &str,
        queue: &Mutex<VecDeque<&Program>>,
        options: &cluster::Options,
        cluster: &Cluster,
    ) {
        let environment = environment(self.arguments, options, cluster, &mut self.stages);
        let Some(environment) = self.note(name, environment) else {
            return;
        };
        let next = || {
            let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
            queue.pop_front()
        };
        while let Some(program) = next() {
            let mut tally = std::mem::take(&mut self.tally);
            let filter = self.arguments.filter.as_deref();
            self.stage(&format!("{name}: {}", program.name), |stage| {
                let prepare = |command: &mut Command| {
                    // Rings share the machine's two cores: side by side they would time each
                    // other out. The API server has room for several.
                    let threads = if program.level == Level::Api {
                        "4"
                    } else {
                        "1"
                    };
                    command
                        .args(["--test-threads", threads])
                        .args(filter)
                        .envs(environment.iter().cloned());
                };
                match program.run(Urgency::Alone, prepare, &mut tally, stage)? {
                    None => Ok(()),
                    Some(said) => bail!("{said}"),
                }
            });
            self.tally = tally;
        }
    }
}

/// Whether a program speaks to services that somebody else starts.
fn needs_services(program: &Program) -> bool {
    program.name.ends_with(" services")
}

fn of_level(programs: &[Program], level: Level) -> impl Iterator<Item = &Program> {
    programs
        .iter()
        .filter(move |program| program.level == level)
}

/// Tells tests that have a short and a long form which one is meant.
fn lengthen(command: &mut Command, long: bool) {
    if long {
        command.env("DYNOMITE_TEST_LONG", "1");
    }
}

/// What the suites on a cluster are told.
fn environment(
    arguments: &Arguments,
    options: &cluster::Options,
    cluster: &Cluster,
    stages: &mut Stages,
) -> Result<Vec<(&'static str, std::ffi::OsString)>> {
    let engine = match arguments.engine {
        Some(_) => image::OTHER_ENGINE,
        None => image::OURS,
    };
    let store = image::reference("redis").unwrap_or_else(|| "localhost/redis:dev".to_owned());
    let mut environment = vec![
        ("DYNOMITE_E2E_KUBECONFIG", cluster.kubeconfig.clone().into()),
        ("DYNOMITE_E2E_KUBECTL", cluster.kubectl.clone().into()),
        ("DYNOMITE_E2E_HELM", cluster::helm(stages)?.into()),
        ("DYNOMITE_E2E_PROMLINT", cluster::promlint(stages)?.into()),
        ("DYNOMITE_E2E_OPERATOR_IMAGE", image::OURS.into()),
        (
            "DYNOMITE_E2E_OPERATOR_ARCHIVE",
            image::archive("dynomite-operator").into(),
        ),
        ("DYNOMITE_E2E_ENGINE_IMAGE", engine.into()),
        ("DYNOMITE_E2E_STORE_IMAGE", store.into()),
        ("DYNOMITE_E2E_XTASK", workspace::xtask()?.into()),
        ("DYNOMITE_E2E_ROOT", workspace::root().into()),
        // The fault hooks of xtask find the cluster by it.
        ("DYNOMITE_CLUSTER", options.name.clone().into()),
    ];
    if arguments.long {
        environment.push(("DYNOMITE_TEST_LONG", "1".into()));
    }
    if let Some(chaos) = &arguments.chaos {
        environment.push(("DYNOMITE_CHAOS_MINUTES", chaos.minutes.to_string().into()));
        environment.push(("DYNOMITE_CHAOS_SEED", chaos.seed.to_string().into()));
    }
    Ok(environment)
}

fn format(stage: &Stage) -> Result<()> {
    process::run(process::cargo().args(["fmt", "--all", "--check"]), stage).map(drop)
}

fn clippy(urgency: Urgency, stage: &Stage) -> Result<()> {
    let mut command = urgency.command(process::cargo());
    command
        .args(["clippy", "--workspace", "--all-targets"])
        .args(FEATURES)
        .args(["--", "-D", "warnings"]);
    process::run(&mut command, stage).map(drop)
}

/// Ends the cluster by our own command line.
fn down(options: &cluster::Options, stage: &Stage) -> Result<()> {
    process::run(
        Command::new(workspace::xtask()?).args(["cluster", "--name", &options.name, "down"]),
        stage,
    )
    .map(drop)
}
